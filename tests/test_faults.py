"""Power cuts, full disks and damaged files. Commands are killed at named points and at random moments: what is there afterwards is the old file or the new one, the next run finishes, with the bits of an undisturbed
run, and nothing is left lying about. What was damaged is refused by name; no damage becomes a wrong number."""
import errno
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from hepdev.core import FileError, HepdevError, digest, publish
from hepdev.data.foldfile import SEAL, FoldFile, seal, write_foldfile
from hepdev.data.schema import Column, Objects, Schema
from hepdev.data.toy import toy_events
from hepdev.ensemble.bundle import load_bundle
from hepdev.scale.job import Job, run_job
from hepdev.scale.verify import verify_file
from kill import Zygote, available, points
from shell import listing

JOB = dict(network=dict(width=8, depth=2), members=2, bs=64, epochs=3)
FOLD = ['hepdev-fold', 'a.csv', 'b.csv', '--out', 'out.h5', '--label', 'label', '--weight', 'weight', '--id', 'event', '--overwrite']
TRAIN = ['hepdev-train', 'events.h5', '--out', 'out', '--recipe', 'job.json', '--checkpoint', 0]
PREDICT = ['hepdev-predict', 'new', '--data', 'a.csv,b.csv', '--out', 'out.csv', '--rows', 200, '--overwrite']
commands = dict(fold=('out.h5', FOLD, FOLD), train=('out', TRAIN, [*TRAIN, '--resume']), save=('out', ['save', 'new', 'out'], ['save', 'new', 'out']),
                predict=('out.csv', PREDICT, [*PREDICT, '--resume'])) # what is made, how, and how again after a crash
killable = pytest.mark.skipif(not available(), reason='needs Linux and a C compiler')

@pytest.fixture(scope='module')
def zygote():
    with Zygote() as z: yield z

@pytest.fixture(scope='module')
def report(request):
    "Rows (command, fault, moment, what was found); counted, and listed in the file that HEPDEV_FAULTS names."
    rows = []
    yield rows
    table = pd.DataFrame(rows, columns=['command', 'fault', 'moment', 'found'])
    lines = [f'{len(table)} faults', table.groupby(['command', 'fault', 'found']).size().rename('times').reset_index().to_string(index=False)] if rows else ['no faults']
    with request.config.pluginmanager.getplugin('capturemanager').global_and_fixture_disabled(): print('\n' + '\n'.join(lines))
    if where := os.environ.get('HEPDEV_FAULTS'): Path(where).write_text('\n'.join([*lines, '', table.to_string(index=False)]) + '\n')

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Inputs, an old and a new bundle, and the events to train on."
    place, events = tmp_path_factory.mktemp('place'), toy_events(900, seed=3)
    table = events.df()
    table[:500].to_csv(place/'a.csv', index=False)
    table[500:].to_csv(place/'b.csv', index=False)
    write_foldfile(place/'events.h5', events)
    (place/'job.json').write_text(json.dumps(JOB))
    for name, seed in (('old', 1), ('new', 2)): run_job(Job(**JOB, seed=seed), events, place/name)
    return place

@pytest.fixture(scope='module')
def undisturbed(place, zygote, tmp_path_factory):
    "For each command: what it makes, how often it calls the system, and how long it takes."
    found = {}
    for name, (out, args, _) in commands.items():
        work = prepared(place, tmp_path_factory.mktemp(name), name)
        done = zygote.run(*args, cwd=work)
        assert done['status'] == 0, done
        found[name] = content(work/out), done['counts'], done['seconds'], set(os.listdir(work))
    return found

def prepared(place, work, name):
    "A copy of the place, with something old where the command will write."
    shutil.copytree(place, work, dirs_exist_ok=True)
    if name == 'fold': write_foldfile(work/'out.h5', toy_events(10, seed=5))
    if name == 'save': load_bundle(work/'old').save(work/'out')
    if name == 'predict': (work/'out.csv').write_text('old\n')
    return work

def content(path):
    "Bytes of a file, or of the parts of a bundle that its manifest names; None if there is none."
    if path.is_file(): return path.read_bytes()
    if not (path/'manifest.json').exists(): return None
    names = [e['file'] for e in json.loads((path/'manifest.json').read_text())['files'].values()]
    return {n: (path/n).read_bytes() for n in ['manifest.json', *names]}

def survives(name, work, old, undisturbed, zygote):
    "What is there after a crash is old or new or can be gone on from, the next run ends as an undisturbed one, and its folder is as clean. Says what was found."
    out, _, again = commands[name]
    new, _, _, files = undisturbed[name]
    now = content(work/out)
    if name != 'predict' and now is not None: verify_file(work/out)
    found = 'new' if now == new else 'old' if now == old else 'incomplete'
    assert found != 'incomplete' or name == 'train' and not load_bundle(work/out).complete
    done = zygote.run(*again, cwd=work)
    if name == 'train' and found == 'new': assert done['status'] == 1 and 'nothing to resume' in done['err'], done
    else: assert done['status'] == 0, done
    assert content(work/out) == new, f'{name}: other bits than those of an undisturbed run'
    assert set(os.listdir(work)) == files and not [p for p in listing(work) if p.endswith('.part') or p.endswith('.lock')], listing(work).keys()
    if (work/out).is_dir(): assert set(os.listdir(work/out)) == set(new)
    return found

def trial(name, place, work, undisturbed, zygote, **fault):
    "One fault and the run after it."
    work = prepared(place, work, name)
    old = content(work/commands[name][0])
    done = zygote.run(*commands[name][1], cwd=work, **fault)
    return done, survives(name, work, old, undisturbed, zygote)

@killable
@pytest.mark.parametrize('point', points)
@pytest.mark.parametrize('name', commands)
def test_killed_at(name, point, place, undisturbed, zygote, tmp_path, report):
    "SIGKILL at the middle one of its calls of a kind."
    at = (undisturbed[name][1][point.split()[1]] + 1)//2
    done, found = trial(name, place, tmp_path, undisturbed, zygote, point=point, at=at)
    assert done['status'] == -9
    report.append((name, f'SIGKILL {point}', at, found))

@killable
@pytest.mark.slow
@pytest.mark.parametrize('name', commands)
def test_killed_at_every_call(name, place, undisturbed, zygote, tmp_path, report):
    "SIGKILL at six calls of each kind, first and last included."
    for point in points:
        n = undisturbed[name][1][point.split()[1]]
        for at in sorted(set(np.linspace(1, n, 6).round().astype(int).tolist())):
            done, found = trial(name, place, tmp_path/f'{point} {at}', undisturbed, zygote, point=point, at=at)
            assert done['status'] == -9
            report.append((name, f'SIGKILL {point}', at, found))
            shutil.rmtree(tmp_path/f'{point} {at}')

@killable
@pytest.mark.slow
@pytest.mark.parametrize('name', commands)
def test_killed_at_random(name, place, undisturbed, zygote, tmp_path, report):
    "SIGKILL at fifty random moments of each command."
    draw = random.Random(name)
    killed, longest = 0, undisturbed[name][2]
    while killed < 50:
        after = draw.random()*longest
        done, found = trial(name, place, tmp_path/'work', undisturbed, zygote, after=after)
        shutil.rmtree(tmp_path/'work')
        if done['status'] != -9: longest = after   # it was over before
        else: killed += 1; report.append((name, 'SIGKILL at random', round(after, 3), found))

@killable
@pytest.mark.parametrize('code, says', [(errno.ENOSPC, 'disk is full'), (errno.EIO, 'reports an error')])
@pytest.mark.parametrize('name', commands)
def test_failing_disk(name, code, says, place, undisturbed, zygote, tmp_path, report):
    "A write, an fsync or a rename that fails is named; what was there stays, and nothing is left behind."
    for call in ('write', 'fsync', 'rename'):
        work = prepared(place, tmp_path/call, name)
        before, old, at = listing(work), content(work/commands[name][0]), undisturbed[name][1][call] if call != 'write' else max(1, undisturbed[name][1][call]//3)
        done = zygote.run(*commands[name][1], cwd=work, point=f'fail {call}', at=at, code=code)
        assert done['status'] != 0 and 'Traceback' not in done['err'] and says in done['err'], done
        now, out = listing(work), commands[name][0]
        assert all(now[p] == b for p, b in before.items() if not p.startswith(out)) and (name == 'train' or content(work/out) in (old, undisturbed[name][0])), done
        assert not [p for p in now if p.endswith(('.part', '.lock'))]
        found = survives(name, work, old, undisturbed, zygote)
        report.append((name, f'{errno.errorcode[code]} at {call}', at, found))

@contextmanager
def small_disk(path, size):
    "A file system of so many bytes, if this user may mount one."
    path.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', path], capture_output=True).returncode: pytest.skip('this user cannot mount a tmpfs')
    try: yield path
    finally: subprocess.run(['umount', '-l', path], check=True)

@killable
@pytest.mark.parametrize('name', ['fold', 'train', 'predict'])
def test_full_disk(name, place, undisturbed, zygote, tmp_path, report):
    "A real disk that is too small: said, and the old file is there."
    with small_disk(tmp_path/'disk', 4 << 20) as disk:
        work = prepared(place, disk, name)
        old = content(work/commands[name][0])
        filler, free = work/'filler', os.statvfs(work)
        filler.write_bytes(bytes((free.f_bavail - 2)*free.f_bsize))
        done = zygote.run(*commands[name][1], cwd=work)
        assert done['status'] == 1 and 'the disk is full' in done['err'] and 'Traceback' not in done['err'], done
        assert content(work/commands[name][0]) == old
        filler.unlink()
        report.append((name, 'full disk', '', survives(name, work, old, undisturbed, zygote)))

@killable
@pytest.mark.parametrize('name', commands)
def test_read_only_folder(name, place, zygote, tmp_path, report):
    "Said in one line, for the super-user by a disk that is mounted so."
    if os.geteuid():
        work = prepared(place, tmp_path, name)
        for p in (work, work/'out') if (work/'out').exists() else (work,): p.chmod(0o555)
        done = zygote.run(*commands[name][1], cwd=work)
        for p in (work, work/'out') if (work/'out').exists() else (work,): p.chmod(0o755)
    else:
        with small_disk(tmp_path/'disk', 8 << 20) as disk:
            prepared(place, disk, name)
            subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
            done = zygote.run(*commands[name][1], cwd=disk)
    assert done['status'] and 'Traceback' not in done['err'] and ('read-only' in done['err'] or 'may not write' in done['err']), done
    report.append((name, 'read-only folder', '', 'refused'))

@pytest.mark.parametrize('name', ['fold', 'predict', 'train'])
def test_vanished_input(name, place, undisturbed, zygote, tmp_path, report):
    "An input that is not there any more: named, and nothing is made."
    work = prepared(place, tmp_path, name)
    before = content(work/commands[name][0])
    (work/('events.h5' if name == 'train' else 'b.csv')).unlink()
    done = zygote.run(*commands[name][1], cwd=work)
    assert done['status'] == 1 and ('events.h5' if name == 'train' else 'b.csv') in done['err'] and done['err'].count('\n') == 1, done
    assert content(work/commands[name][0]) == before
    report.append((name, 'vanished input', '', 'old' if before else 'nothing'))

def writers(path, n):
    "Outcome of so many processes that write one file at the same time."
    code = 'import sys\nfrom hepdev.core import publish, FileError\nsys.stdin.read(1)\ntry:\n  with publish(sys.argv[1], True) as p: p.write_text(sys.argv[2]*1000); import time; time.sleep(.3)\nexcept FileError as e: print(e)'
    root = Path(__file__).resolve().parent.parent
    processes = [subprocess.Popen([sys.executable, '-c', code, str(path), str(i)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': str(root)}) for i in range(n)]
    for p in processes: p.stdin.write('x'); p.stdin.flush()
    return [p.communicate()[0] for p in processes], [p.pid for p in processes]

def test_concurrent_writers(tmp_path, report):
    "Of several at once some are refused and told by whom; the file is one writer's, whole."
    said, pids = writers(tmp_path/'f', 5)
    refused = [s for s in said if s]
    assert all(any(f'process {pid} on' in s for pid in pids) for s in refused), said
    assert len(set((tmp_path/'f').read_text())) == 1 and os.listdir(tmp_path) == ['f']
    report.append(('publish', 'five writers at once', '', f'{len(refused)} refused'))

@pytest.fixture(scope='module')
def sealed(tmp_path_factory):
    "A fold file with every kind of dataset, and its events."
    n, rng = 400, np.random.default_rng(0)
    schema = Schema((Column('pt', missing=-999.), Column('jets', 'categorical', categories=(0, 1, 2)), Column('process', 'spectator')), 'y', {0: 0, 1: 1}, 'w', 'i', objects=dict(jet=Objects((Column('pt'), Column('eta')), 3, 'pt')))
    count = rng.integers(0, 5, n)
    events = schema.parse({'pt': rng.exponential(40, n), 'jets': count.clip(max=2), 'process': rng.choice(['Z', 'H'], n), 'y': rng.integers(0, 2, n), 'w': rng.normal(size=n), 'i': np.arange(n),
                           'jet.pt': [rng.exponential(40, c) for c in count], 'jet.eta': [rng.normal(size=c) for c in count]})
    return write_foldfile(tmp_path_factory.mktemp('sealed')/'good.h5', events)

def read_all(path):
    with FoldFile(path) as f: return f.df()

def test_foldfile_bytes(sealed, tmp_path, report):
    "One changed bit in any region of the file, and any length that it was cut to or grown to, is refused."
    good, bad, n = sealed.read_bytes(), tmp_path/'bad.h5', 0
    for at in [*range(0, 130, 3), *range(130, SEAL, 37), *range(SEAL, len(good), len(good)//400)]:
        bad.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1:])
        if at < SEAL and not good[at - 1:at + 1].strip(): n -= 1   # padding of the head, which says nothing
        else:
            with pytest.raises(FileError): read_all(bad)
        n += 1
    for size in [0, 1, 16, 17, 100, SEAL - 1, SEAL, SEAL + 1, SEAL + 8, *range(SEAL + 100, len(good), len(good)//60), len(good) - 1, len(good) + 1]:
        bad.write_bytes((good + b'\0')[:size])
        with pytest.raises(FileError): read_all(bad)
        n += 1
    report.append(('FoldFile', 'bits and lengths', n, 'refused'))

def test_foldfile_forged(sealed, tmp_path, report):
    "Changed inside and sealed anew: refused by name, or the values are still such as the schema allows; never anything else, in a process of its own with little memory."
    good, rng = sealed.read_bytes(), random.Random(0)
    for i in range(150):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 4])): data[rng.randrange(SEAL, len(data))] = rng.choice([0, 1, 0x7f, 0xff, rng.randrange(256)])
        (tmp_path/f'{i}.h5').write_bytes(data)
        seal(tmp_path/f'{i}.h5')
    code = ('import sys, glob, resource\nfrom hepdev.core import HepdevError\nfrom hepdev.scale.verify import verify_file\nresource.setrlimit(resource.RLIMIT_AS, (6 << 30,)*2)\n'
            'for f in sorted(glob.glob(sys.argv[1] + "/*.h5")):\n  print(f, end=" ", flush=True)\n  try: verify_file(f); print("good", flush=True)\n  except HepdevError: print("refused", flush=True)')
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, '-c', code, tmp_path], env={**os.environ, 'PYTHONPATH': str(root)}, capture_output=True, text=True, timeout=300)
    found = Counter(line.split()[-1] for line in done.stdout.splitlines())
    assert done.returncode == 0 and found.total() == 150 and set(found) == {'good', 'refused'}, done.stdout[-300:] + done.stderr[-3000:]
    report.append(('FoldFile', 'forged and sealed', 150, f"{found['refused']} refused"))

def test_bundle_bytes(place, tmp_path, report):
    "The same for every file of a bundle."
    shutil.copytree(place/'new', tmp_path/'b')
    n, want = 0, load_bundle(tmp_path/'b').predict(toy_events(50, seed=9))
    for file in sorted((tmp_path/'b').iterdir()):
        good = file.read_bytes()
        spots, sizes = range(0, len(good), max(1, len(good)//25)), [0, 1, len(good)//2, len(good) - 1, len(good) + 1]
        for bad in [good[:at] + bytes([good[at] ^ 1 << at % 7]) + good[at + 1:] for at in spots] + [(good + b' ')[:size] for size in sizes]:
            file.write_bytes(bad)
            try: same = load_bundle(tmp_path/'b').predict(toy_events(50, seed=9)).equals(want)
            except FileError: same = True
            assert same and (file.name == 'manifest.json' or refuses(tmp_path/'b')), file.name
            n += 1
        file.write_bytes(good)
    report.append(('Bundle', 'bits and lengths', n, 'refused'))

def refuses(path):
    try: load_bundle(path)
    except FileError: return True

def test_many_readers(sealed, place, tmp_path):
    "Read-only files in a read-only folder, by several processes at once: they agree, and leave no trace."
    (tmp_path/'shared').mkdir()
    shutil.copy(sealed, tmp_path/'shared'/'f.h5')
    shutil.copytree(place/'new', tmp_path/'shared'/'b')
    paths = [p for p in (tmp_path/'shared').rglob('*')]
    for p in paths: p.chmod(0o444 if p.is_file() else 0o555)
    (tmp_path/'shared').chmod(0o555)
    before = listing(tmp_path/'shared')
    code = ('import sys, hashlib\nfrom hepdev.data.foldfile import FoldFile\nfrom hepdev.ensemble.bundle import load_bundle\nfrom hepdev.data.toy import toy_events\n'
            'files = [FoldFile(sys.argv[1] + "/f.h5") for _ in range(3)]\n[f.df() for f in files]\n'
            'print(hashlib.sha256(files[0].df().to_json().encode()).hexdigest(), load_bundle(sys.argv[1] + "/b").predict(toy_events(20, seed=1)).score.sum())')
    root = Path(__file__).resolve().parent.parent
    readers = [subprocess.Popen([sys.executable, '-c', code, tmp_path/'shared'], stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': str(root)}) for _ in range(3)]
    with FoldFile(tmp_path/'shared'/'f.h5') as f: assert len(f.df()) == 400
    said = {p.communicate()[0] for p in readers}
    assert len(said) == 1 and said.pop() and listing(tmp_path/'shared') == before
    for p in [tmp_path/'shared', *paths]: p.chmod(0o755)

def test_headers_that_claim_memory(sealed, place, tmp_path, report):
    "Shapes, lengths and networks of terabytes in a few bytes cost no memory: each is refused in a process that has little."
    bombs = tmp_path/'bombs'
    bombs.mkdir()
    def forged(name, change):
        shutil.copy(sealed, bombs/name)
        with h5py.File(bombs/name, 'r+') as f: change(f)
        seal(bombs/name)
    def anew(place, *args, **options):
        def change(f): del f[place]; f.create_dataset(place, *args, **options)
        return change
    forged('shape.h5', lambda f: [f[n].resize(10**12, 0) for n in ('hash', 'weight', 'target', *(f'columns/{c}' for c in f['columns']), 'counts/jet', 'objects/jet')])
    forged('late.h5', anew('weight', (10**12,), np.float64))
    forged('chunk.h5', anew('objects/jet', (400, 3, 2), np.float32, chunks=(400, 3, 2), maxshape=(None, None, None), fillvalue=1))
    forged('words.h5', anew('words/process', (10**11,), h5py.string_dtype('utf-8', 100), chunks=(1000,)))
    forged('word.h5', anew('words/process', (2,), h5py.string_dtype('utf-8', 1 << 30), chunks=(1,)))
    forged('schema.h5', anew('schema', data='[' * 10**6))
    (bombs/'head.h5').write_bytes((b'hepdev fold file\n' + b'[' * 400).ljust(SEAL, b'\n'))
    (bombs/'sparse.h5').write_bytes((b'hepdev fold file\n' + json.dumps(dict(version=2, bytes=1 << 45, sha256='')).encode()).ljust(SEAL, b'\n'))
    for name, part, change in [('tensors', 'weights', lambda d: struct.pack('<Q', 1 << 62) + d[8:]), ('tensor', 'weights', lambda d: d.replace(b'"shape":[2,', b'"shape":[99999999999,', 1)), ('long', 'state', lambda d: b'[' * 10**6)]:
        shutil.copytree(place/'new', bombs/name)
        manifest = json.loads((bombs/name/'manifest.json').read_text())
        key = next(k for k in manifest['files'] if k.startswith(part))
        data = change((bombs/name/manifest['files'][key]['file']).read_bytes())
        publish_part(bombs/name, manifest, key, data)
    code = ('import sys, os, resource\nfrom hepdev.core import FileError\nfrom hepdev.scale.verify import verify_file\nresource.setrlimit(resource.RLIMIT_AS, (6 << 30,)*2)\n'
            'for f in sorted(os.listdir(sys.argv[1])):\n  try: verify_file(sys.argv[1] + "/" + f); print("READ", f)\n  except FileError as e: print("refused", e)\n'
            'peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nassert peak < 1.5e6, peak')
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, '-c', code, bombs], env={**os.environ, 'PYTHONPATH': str(root)}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and 'READ' not in done.stdout and done.stdout.count('refused') == len(os.listdir(bombs)), done.stdout + done.stderr[-3000:]
    report.append(('both', 'memory claimed in headers', len(os.listdir(bombs)), 'refused'))

def publish_part(path, manifest, key, data):
    "Put another content in the place of a part, with name, length and digest to match."
    import hashlib
    sha = hashlib.sha256(data).hexdigest()
    stem, ending = key.split('.')
    entry = dict(file=f'{stem}-{sha[:12]}.{ending}', bytes=len(data), sha256=sha)
    (path/entry['file']).write_bytes(data)
    (path/'manifest.json').write_text(json.dumps(manifest | dict(files=manifest['files'] | {key: entry})))

def test_paths_that_escape(sealed, place, tmp_path, report):
    "Nothing outside the folder is read, whatever the manifest, the links or the pipes say; nothing hangs."
    secret = tmp_path/'secret.json'
    secret.write_text('{}')
    entry = dict(file='', bytes=2, sha256=digest(secret))
    ways = dict(parent='../secret.json', absolute=str(secret), inner='./../b/../secret.json', nul='about-0123456789ab.json\0', empty='', dot='.', manifest='manifest.json')
    def copy():
        shutil.rmtree(tmp_path/'b', ignore_errors=True)
        shutil.copytree(place/'new', tmp_path/'b')
        return json.loads((tmp_path/'b'/'manifest.json').read_text())
    for name in ways.values():
        manifest = copy()
        (tmp_path/'b'/'manifest.json').write_text(json.dumps(manifest | dict(files=manifest['files'] | {'about.json': entry | dict(file=name)})))
        with pytest.raises(FileError): load_bundle(tmp_path/'b')
        with pytest.raises(FileError): verify_file(tmp_path/'b')
    def link(p): p.rename(tmp_path/'x'); p.symlink_to(tmp_path/'x')
    def pipe(p): p.unlink(); os.mkfifo(p)
    def folder(p): p.unlink(); p.mkdir()
    def hard(p): p.unlink(); os.mkfifo(tmp_path/'fifo'); os.link(tmp_path/'fifo', p); (tmp_path/'fifo').unlink()
    for trick in (link, pipe, folder, hard):
        for part in ('about.json', None):
            manifest = copy()
            trick(tmp_path/'b'/(manifest['files'][part]['file'] if part else 'manifest.json'))
            with pytest.raises(FileError): load_bundle(tmp_path/'b')
    os.mkfifo(tmp_path/'pipe.h5')
    for path in (tmp_path/'pipe.h5', tmp_path, Path('/dev/zero')):
        with pytest.raises(FileError): FoldFile(path)
    report.append(('both', 'paths that escape', len(ways) + 8 + 3, 'refused'))
