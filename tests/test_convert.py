"hepdev-fold on many files: killed and gone on with, real trees, odd names; and no command waits for another's leftovers."
import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import uproot

from hepdev.data.conversion import Conversion
from hepdev.data.foldfile import FoldFile
from shell import inside, listing, refused, run, start

YAML = """
samples:
  s: {files: s/*.root, label: 1, xsec: 2.5}
  b: {files: b/*.root, label: 0, xsec: 80}
select: x > 0
derived: {ratio: x/(abs(y) + 1)}
columns: [x, y, ratio]
event_id: event
"""

@pytest.fixture
def trees(tmp_path):
    "Six files of two samples, and what to make of them."
    rng = np.random.default_rng(0)
    for k in range(6):
        folder = tmp_path/'sb'[k % 2]
        folder.mkdir(exist_ok=True)
        with uproot.recreate(folder/f'{k}.root') as f: f['t'] = dict(event=np.arange(4000) + 4000*k, x=rng.normal(size=4000), y=rng.normal(size=4000))
    (tmp_path/'make.yaml').write_text(YAML)
    return tmp_path

FOLD = ['hepdev-fold', '--conversion', 'make.yaml']

@pytest.mark.parametrize('workers', [1, 2])
def test_killed_and_gone_on_with(trees, workers):
    "SIGKILL of the command and of all that it started, once some parts are there: the same command ends with the bits of an undisturbed run."
    assert inside(*FOLD, '--out', 'whole.h5', cwd=trees).status == 0
    before = set(listing(trees))
    process = start(*FOLD, '--out', 'out.h5', '--workers', workers, cwd=trees, start_new_session=True)
    while process.poll() is None and len(list((trees/'.out.h5.parts').glob('*.json'))) < 2: time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if not (trees/'out.h5').exists():
        done = run(*FOLD, '--out', 'out.h5', '--workers', workers, cwd=trees)
        assert done.status == 0 and 'finished before' in done.out, done.err
    assert (trees/'out.h5').read_bytes() == (trees/'whole.h5').read_bytes()
    assert set(listing(trees)) - before == {'out.h5'}

def test_second_writer(trees):
    "Refused while the first is at work; afterwards the first one's file is there."
    process = start(*FOLD, '--out', 'out.h5', cwd=trees)
    os.kill(process.pid, signal.SIGSTOP) if wait_for(trees/'.out.h5.parts', process) else None
    try:
        second = run(*FOLD, '--out', 'out.h5', '--overwrite', cwd=trees)
        assert second.status == 1 and 'is being written by process' in second.err and second.err.count('\n') == 1
    finally: os.kill(process.pid, signal.SIGCONT)
    assert process.wait() == 0 and len(FoldFile(trees/'out.h5')) > 0

def wait_for(path, process):
    while not path.exists() and process.poll() is None: time.sleep(0.001)
    return path.exists()

def test_later_file_with_a_bad_value(trees):
    "What was finished is kept and said; when the file is mended, the same command goes on."
    good = (trees/'b'/'5.root').read_bytes()
    with uproot.recreate(trees/'b'/'5.root') as f: f['t'] = dict(event=np.arange(3), x=np.ones(3), y=np.array([1., np.nan, 2.]))
    done = run(*FOLD, '--out', 'out.h5', cwd=trees)
    assert done.status == 1 and "'y' of b/5.root:t is nan in row 1" in done.err and '5 files are finished' in done.err and not (trees/'out.h5').exists()
    (trees/'b'/'5.root').write_bytes(good)
    again = run(*FOLD, '--out', 'out.h5', cwd=trees)
    assert again.status == 0 and 'resumed: 5 files' in again.out and not list(trees.glob('.*'))

@pytest.mark.parametrize('name', ['größe α→β.root', 'a b, c.root', f"{'long'*50}.root", '/'.join(['deep'*20]*8) + '/x.root', 'brackets [1].root'])
def test_odd_names(tmp_path, name):
    (tmp_path/name).parent.mkdir(parents=True, exist_ok=True)
    with uproot.recreate(tmp_path/name) as f: f['größe'] = {'pt/µ': np.arange(5.), 'event': np.arange(5)}
    out = f'{Path(name).stem}.h5'
    done = run('hepdev-fold', name, '--id', 'event', '--out', out, cwd=tmp_path)
    assert done.status == 0, done.err
    with FoldFile(tmp_path/out) as f: assert f.events().x['pt/µ'].tolist() == [0, 1, 2, 3, 4]

# Real files

def real(name):
    "A file of the folder with real events."
    if not (data := os.environ.get('HEPDEV_DATA')): pytest.skip('HEPDEV_DATA names no folder with real events')
    return Path(data)/name

def test_muons_and_jets(tmp_path):
    "Flat and jagged columns with weights: a selection on objects, against uproot and awkward."
    path = real('root/uproot-HZZ.root')
    done = run('hepdev-fold', path, '--out', 'hzz.h5', '--weight', 'EventWeight', '--columns', 'MET_p?,Muon_P?,Muon_E,Jet_Px', '--select', 'count(Muon_Px) >= 2', cwd=tmp_path)
    assert done.status == 0 and 'known only by source name' in done.err
    raw = uproot.concatenate(f'{path}:events')
    kept = raw[raw.NMuon >= 2]
    with FoldFile(tmp_path/'hzz.h5') as f:
        ev = f.events(objects=f.schema.objects)
        assert len(f) == len(kept) and ev.w == pytest.approx(kept.EventWeight.to_numpy()) and ev.x['MET_px'] == pytest.approx(kept.MET_px.to_numpy())
        muons = ev.objects['Muon']
        assert f.schema.objects['Muon'].names == ['Px', 'Py', 'Pz', 'E'] and muons.n.tolist() == np.minimum(kept.NMuon, f.schema.objects['Muon'].size).tolist()
        assert muons.x[muons.mask][:, 3].tolist() == [e for es in kept.Muon_E.tolist() for e in es[:f.schema.objects['Muon'].size]]
    out = done.out.replace('columns:', f'samples: {{hzz: {{files: {path}, xsec: 3}}}}\ncolumns:', 1)
    (tmp_path/'edited.yaml').write_text(out)
    assert Conversion.from_yaml(tmp_path/'edited.yaml').samples['hzz'].xsec == 3
    assert run('hepdev-fold', '--conversion', 'edited.yaml', '--out', 'edited.h5', cwd=tmp_path).status == 0

@pytest.mark.parametrize('name, events, branches', [('nano_dy.root', 40, 1499), ('nanoAOD_2015_CMS_Open_Data_ttbar.root', 200, 947)])
def test_nanoaod(tmp_path, name, events, branches):
    "Of a thousand branches those that are asked for; the event number identifies the event by itself."
    done = run('hepdev-fold', real(f'root/{name}'), '--out', 'nano.h5', '--columns', 'MET_p*,Jet_pt,Jet_eta,Jet_phi,Jet_mass', cwd=tmp_path)
    assert (done.status, done.err) == (0, ''), done.err
    with FoldFile(tmp_path/'nano.h5') as f:
        assert len(f) == events and f.schema.event_id == ('run', 'luminosityBlock', 'event') and f.schema.objects['Jet'].by == 'pt'
        jets = f.objects('Jet')
        pt = np.where(jets.mask, jets.x[..., f.schema.objects['Jet'].names.index('pt')], -1)
        assert (np.diff(pt) <= 0).all() and f.events().x['event'].dtype == np.int64
    assert uproot.open(real(f'root/{name}'))['Events'].num_entries == events and len(uproot.open(real(f'root/{name}'))['Events'].keys()) == branches

@pytest.mark.slow
def test_whole_nanoaod(tmp_path):
    "All branches at once, drafted, converted, and converted again by what was drafted."
    path = real('root/nanoAOD_2015_CMS_Open_Data_ttbar.root')
    done = run('hepdev-fold', path, '--out', 'all.h5', cwd=tmp_path)
    assert (done.status, done.err) == (0, ''), done.err
    (tmp_path/'all.yaml').write_text(done.out + f'samples: {{tt: {path}}}\n')
    again = run('hepdev-fold', '--conversion', 'all.yaml', '--out', 'again.h5', cwd=tmp_path)
    assert (again.status, again.err) == (0, ''), again.err
    with FoldFile(tmp_path/'all.h5') as a, FoldFile(tmp_path/'again.h5') as b:
        assert len(a) == len(b) == 200 and len(a.schema.objects) > 20
        np.testing.assert_array_equal(a.columns(a.schema.features), b.columns(a.schema.features))

def test_challenge(tmp_path):
    "The events of the HiggsML challenge as their users name the columns, in folds."
    done = run('hepdev-fold', real('higgsml/atlas-higgs-2014-first16000.csv.gz'), '--out', 'h.h5', '--label', 'Label', '--weight', 'Weight', '--id', 'EventId', '--missing', '-999',
               '--spectators', 'KaggleSet,KaggleWeight', '--folds', '10', cwd=tmp_path)
    assert (done.status, done.err) == (0, '') and '16000 events' in done.out and 'events of 10 folds' in done.out
    table = pd.read_csv(real('higgsml/atlas-higgs-2014-first16000.csv.gz'))
    with FoldFile(tmp_path/'h.h5') as f: pd.testing.assert_frame_equal(f.df()[list(table)], table, check_dtype=False, rtol=1e-6)
