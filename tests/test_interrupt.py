"Ctrl-C during training: the bundle loads and says that it is incomplete; --resume ends with the bits of an undisturbed run."
import json
import os
import pty
import re
import signal
import termios
import threading
import time

import pytest
import torch

from hepdev.core import HepdevError
from hepdev.data.foldfile import write_foldfile
from hepdev.data.recipe import Imputed, Recipe, Scaled
from hepdev.data.toy import toy_events
from hepdev.ensemble.snapshots import Snapshots
from hepdev.models.heads import mlp
from hepdev.models.stack import Ensemble
from hepdev.physics.simulate import simulate_higgs
from hepdev.ensemble.bundle import load_bundle
from hepdev.scale.job import Job, run_job
from hepdev.train.average import EMA, RenewedSWA
from hepdev.train.learner import Callback, Learner
from hepdev.train.losses import bce
from hepdev.train.schedule import one_cycle, lr_range
from hepdev.train.stop import EarlyStop, SaveBest
from shell import Outcome, inside, listing, refused, start

RANGE_TEST = 200 # steps of the learning-rate test, which has a progress bar of its own

class Terminal:
    "A command at a terminal, whose screen can be watched and that can be interrupted."
    def __init__(self, *args, cwd):
        self.seen, self.master, screen = b'', *pty.openpty()
        termios.tcsetwinsize(screen, (40, 150))
        self.process = start(*args, cwd=cwd, stdin=screen, stdout=screen, stderr=screen)
        os.close(screen)

    def read(self):
        "More of the screen; False when the command has ended."
        try: more = os.read(self.master, 4096)
        except OSError: more = b''    # Linux: the other side is closed
        self.seen += more
        return bool(more)

    def wait_for(self, pattern):
        "The first match on the screen; None if the command ends before there is one."
        while not (found := [m for m in re.finditer(pattern, self.seen)]) and self.read(): pass
        return found[0] if found else None

    def interrupt(self):
        "Ctrl-C, and what the command still has to say."
        self.process.send_signal(signal.SIGINT)
        while self.read(): pass
        os.close(self.master)
        text = self.seen.decode()
        return Outcome(self.process.wait(120), text, text)

under_way = rf'training: +\d+%[^\r\n]*? [1-9]\d*/(?!{RANGE_TEST} )\d+ '.encode()  # the progress bar of a training that has made steps

def make_place(folder, name):
    "Data and recipe for a command, and its arguments."
    (folder/'job.json').write_text(json.dumps(dict(network=dict(width=8, depth=2), members=3, bs=32)))
    if name == 'hepdev-higgs':
        simulate_higgs(600, seed=3, sets={'t': 0.8, 'v': 0.2}).to_csv(folder/'events.csv', index=False)
        return ['hepdev-higgs', '--data', 'events.csv', '--recipe', 'job.json', '--out']
    write_foldfile(folder/'events.h5', toy_events(480, seed=3))
    return ['hepdev-train', 'events.h5', '--recipe', 'job.json', '--out']

def seconds_of_an_epoch():
    "What an epoch of such a training takes on this machine, about."
    job, times = Job(network=dict(width=8, depth=2), members=3, bs=32, epochs=20), []
    for _ in range(2):
        learn = job.learner(toy_events(480, seed=3))
        begin = time.perf_counter()
        learn.fit(toy_events(480, seed=3), epochs=20, bs=32)
        times.append((time.perf_counter() - begin)/20)
    return min(times)

@pytest.mark.parametrize('name', ['hepdev-train', 'hepdev-higgs'])
def test_interrupted_and_resumed(tmp_path, name):
    "A real SIGINT to a real process, once its progress bar shows steps (after two seconds of training); everything after that follows from the files."
    args, epochs = make_place(tmp_path, name), round((3.3 if name == 'hepdev-train' else 2.4)/seconds_of_an_epoch())
    while True:
        terminal = Terminal(*args, 'run', '--epochs', epochs, cwd=tmp_path)
        if terminal.wait_for(under_way): break
        assert terminal.process.wait() == 0, terminal.seen.decode()
        (tmp_path/'run').rename(tmp_path/f'too short {epochs}')   # over before the bar came: a longer one
        epochs *= 3
    done = terminal.interrupt()
    assert done.status == 1 and 'Traceback' not in done.out and 'interrupted' in done.out and '--resume' in done.out, done.out

    place = tmp_path/'run'/'bundle' if name == 'hepdev-higgs' else tmp_path/'run'
    bundle = load_bundle(place)
    assert not bundle.complete and bundle.training['step'] > 0
    assert not [f for f in listing(tmp_path/'run') if f.endswith('.part') or not f.startswith(('bundle', *(p.name for p in place.iterdir())))]
    data = 'events.csv' if name == 'hepdev-higgs' else 'events.h5'
    said = inside('hepdev-predict', place, '--data', data, '--out', 'early.csv', cwd=tmp_path)
    assert said.status == 0 and 'incomplete' in said.out
    refused(*args, 'run', '--epochs', epochs, cwd=tmp_path, says=['not empty', '--resume'] if name == 'hepdev-higgs' else ['not empty', 'resume'])
    refused(*args, 'run', '--epochs', epochs + 1, '--resume', cwd=tmp_path, says=['another job'])

    for out, more in (('run', ['--resume']), ('whole', [])):
        said = inside(*args, out, '--epochs', epochs, *more, cwd=tmp_path)
        assert (said.status, said.err) == (0, ''), said.err
    resumed, whole = (load_bundle(tmp_path/d/place.relative_to(tmp_path/'run')) for d in ('run', 'whole'))
    assert resumed.complete and whole.complete and bundle.training['step'] < whole.training['step']
    assert torch.equal(resumed.ens.rows, whole.ens.rows) and resumed.training['history'] == whole.training['history']
    for d, b in (('run', place), ('whole', tmp_path/'whole'/place.relative_to(tmp_path/'run'))):
        assert inside('hepdev-predict', b, '--data', data, '--out', f'{d}.csv', cwd=tmp_path).status == 0
    assert (tmp_path/'run.csv').read_bytes() == (tmp_path/'whole.csv').read_bytes()
    if name == 'hepdev-train': refused(*args, 'run', '--epochs', epochs, '--resume', cwd=tmp_path, says=['nothing to resume'])
    else: check_tables(tmp_path, [*args, 'run', '--epochs', epochs])

def check_tables(place, args):
    "The tables of both runs are the same; they are made again from the bundle if Ctrl-C came after the training, while they were made."
    def table(run): return re.sub('(training|prediction): .*', '', (place/run/'result.txt').read_text())
    assert table('run') == table('whole')
    before = listing(place/'run'/'bundle')
    for p in (place/'run').iterdir(): p.unlink() if p.is_file() else None
    said = inside(*args, '--resume', cwd=place)
    assert (said.status, said.err) == (0, ''), said.err
    assert table('run') == table('whole') and listing(place/'run'/'bundle') == before
    assert sorted(p.name for p in (place/'run').iterdir()) == sorted(p.name for p in (place/'whole').iterdir())

def test_interrupted_before_training(tmp_path):
    "During the learning-rate test: an end at once, and nothing written."
    args = make_place(tmp_path, 'hepdev-higgs')
    (tmp_path/'job.json').write_text('{}')   # ten networks of the usual size: a range test of seconds
    before = listing(tmp_path)
    terminal = Terminal(*args, 'run', cwd=tmp_path)
    assert terminal.wait_for(b'learning-rate test'), terminal.seen.decode()
    done = terminal.interrupt()
    assert done.status != 0 and 'Traceback' not in done.out and 'interrupted' in done.out, done.out
    assert listing(tmp_path) == before

class PressCtrlC(Callback):
    "A real SIGINT to this process, in the middle of an open step; at none if the step is -1."
    changes_batch = True    # the range test takes such callbacks over
    def __init__(self, step, times=1): self.step, self.times = step, times
    def before_batch(self, learn):
        if learn.step == self.step:
            for _ in range(self.times): signal.raise_signal(signal.SIGINT)

def learner(*more):
    events = toy_events(300, seed=0)
    recipe = Recipe([Imputed(), Scaled()]).fit(events)
    return Learner(Ensemble(mlp(recipe.layout, width=6, depth=2), 2), recipe, bce, cbs=[one_cycle(1e-2), SaveBest(), *more])

@pytest.mark.parametrize('step, times', [(0, 1), (7, 3), (13, 1)])
def test_interrupt_ends_after_the_step(step, times):
    "However impatiently: the step under way is finished, and going on from there ends with the same bits. Afterwards Ctrl-C is what it was."
    before = signal.getsignal(signal.SIGINT)
    first, second, whole = learner(PressCtrlC(step, times)), learner(PressCtrlC(-1)), learner(PressCtrlC(-1))
    first.fit(toy_events(300, seed=0), epochs=3, bs=32)
    assert first.step == step + 1 and not first.complete and signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt): signal.raise_signal(signal.SIGINT)
    goes_on(first, second, whole)

class PressAhead(Callback):
    "The same while closed steps are taken: when they are asked for their rates."
    def __init__(self, step): self.step = step
    def before_step(self, learn):
        if learn.step == self.step: signal.raise_signal(signal.SIGINT)

@pytest.mark.parametrize('step, done', [(0, 5), (7, 10), (13, 15)])
def test_interrupt_of_closed_steps(step, done):
    "Those under way are finished, here to the end of an epoch of five; going on ends with the same bits."
    pytest.importorskip('numba')
    first, second, whole = learner(PressAhead(step)), learner(Callback()), learner()
    first.fit(toy_events(300, seed=0), epochs=3, bs=32)
    assert first.step == done and not first.complete
    goes_on(first, second, whole)

def goes_on(first, second, whole):
    "Continued from the first's state, the second ends where the whole does."
    second.restore(first.state())
    second.fit(toy_events(300, seed=0), epochs=3, bs=32)
    whole.fit(toy_events(300, seed=0), epochs=3, bs=32)
    assert second.complete and torch.equal(second.ens.rows, whole.ens.rows) and second.history.rows == whole.history.rows

@pytest.mark.parametrize('step', [1, 13, 30, 39])
def test_averages_snapshots_and_patience_go_on(tmp_path, step):
    "What callbacks keep, in every depth of lists and dicts, goes through the files of an incomplete bundle."
    class StopAt(Callback):
        def after_step(self, learn): learn.interrupted |= learn.step == step and not (tmp_path/'part'/'manifest.json').exists()
    def run(name, **options):
        snapshots = Snapshots()
        cbs = [EMA(0.9, 4, name='ema', give=False), RenewedSWA(1, renew=1), snapshots, EarlyStop(1, per='cycle'), *([StopAt()] if name == 'part' else [Callback()])]
        return run_job(job, events, tmp_path/name, cbs=cbs, **options), snapshots
    job, events = Job(network=dict(width=6, depth=2), members=3, epochs=5, bs=64, schedule=('cycles', dict(number=4))), toy_events(800, seed=1)
    assert not run('part')[0].complete
    (done, taken), (whole, all_taken) = run('part', resume=True), run('whole')
    assert done.complete and torch.equal(done.ens.rows, whole.ens.rows) and done.training['history'] == whole.training['history']
    assert taken.steps == all_taken.steps and all(torch.equal(a[k], b[k]) for a, b in zip(taken.states, all_taken.states, strict=True) for k in b)

def test_interrupt_of_the_range_test_is_not_lost():
    "It returns no half-made answer, and what follows it does not run."
    with pytest.raises(KeyboardInterrupt): lr_range(learner(PressCtrlC(5)), toy_events(300, seed=0), bs=32, steps=30)

def test_training_in_a_thread():
    "Where no signal can be caught, training still works."
    learn, errors = learner(), []
    def work():
        try: learn.fit(toy_events(300, seed=0), epochs=1, bs=32)
        except Exception as e: errors.append(e)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert learn.complete and not errors

def test_a_broken_job_keeps_its_bundle(tmp_path):
    "An error, not a pause, in the middle of a training: there is no bundle that could be taken for one, and an old one stays as it was."
    class Break(Callback):
        def after_step(self, learn):
            if learn.step == 9: raise HepdevError('the disk is full')
    job, events = Job(network=dict(width=6, depth=2), members=2, epochs=3, bs=32), toy_events(300, seed=0)
    with pytest.raises(HepdevError): run_job(job, events, tmp_path/'new', cbs=[Break()])
    assert listing(tmp_path) == {}
    run_job(job, events, tmp_path/'old')
    before = listing(tmp_path)
    with pytest.raises(HepdevError): run_job(job, events, tmp_path/'old', overwrite=True, cbs=[Break()])
    assert listing(tmp_path) == before
