"Faults of LUMIN, the system before this one: each was seen there, and each is a test here."
import json
import math
import os
import pickle
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from torch import nn

from hepdev.core import DataError
from hepdev.data.folds import FoldPlan
from hepdev.data.recipe import Imputed, Recipe, Scaled
from hepdev.data.targets import no_scale
from hepdev.data.toy import toy_classes, toy_events, toy_regression
from hepdev.ensemble.predict import member_scores
from hepdev.evaluate.metrics import brier, roc_auc, weighted_mean as mean_of
from hepdev.evaluate.significance import ams, ams_scan
from hepdev.evaluate.uncertainty import bootstrap, bootstrap_auc
from hepdev.models.heads import mlp
from hepdev.models.stack import Ensemble
from hepdev.ensemble.bundle import load_bundle, make_bundle
from hepdev.scale.job import Job, run_job
from hepdev.train.learner import Callback, Learner
from hepdev.train.losses import bce, cross_entropy, mse, weighted_mean
from hepdev.train.schedule import one_cycle, lr_range
from hepdev.train.significance import Significance
from hepdev.train.stop import EarlyStop, SaveBest

@cache
def events(n=600): return toy_events(n, seed=2)

def learner(data=None, *, loss=bce, outputs=None, members=3, **options):
    data = events() if data is None else data
    recipe = Recipe([Imputed(), Scaled()]).fit(data)
    return Learner(Ensemble(mlp(recipe.layout, outputs=outputs, width=6, depth=2), members), recipe, loss, **options)

sgd = partial(torch.optim.SGD, lr=0.1)
frozen = partial(torch.optim.SGD, lr=0.)

class Spy(Callback):
    "The learning rate of every parameter group at each step, as the optimiser has it."
    def __init__(self): self.rates = []
    def after_step(self, learn): self.rates.append([g['lr'] for g in learn.opt.param_groups])

@cache
def trained():
    learn = learner(cbs=[one_cycle(1e-2), SaveBest()])
    learn.fit(events(), epochs=3, bs=64)
    return make_bundle(learn)

def new_table(n=300): return toy_events(n, seed=9).df().assign(event=lambda df: df.event + 10**6)

# Weights and losses

def test_multiclass_weights_act_per_event():
    "There: one factor for the batch. Here each event's own gradient carries its own weight."
    rng = np.random.default_rng(0)
    out, y = torch.randn(2, 40, 4, dtype=torch.float64, requires_grad=True), torch.from_numpy(rng.integers(0, 4, (2, 40)))
    w = torch.from_numpy(rng.gamma(1, size=(2, 40)))
    w[:, 5] = 0
    slope, = torch.autograd.grad(weighted_mean(cross_entropy(out, y), w).sum(), out)
    want = w[..., None]*(out.softmax(-1) - nn.functional.one_hot(y, 4))/40
    torch.testing.assert_close(slope, want.detach())

def test_mislabelled_events_of_tiny_weight_do_no_harm_in_multiclass():
    "The same through a whole training: what weighs a millionth teaches a millionth."
    right = toy_classes(900, seed=1)
    wrong = np.arange(900) % 3 == 0
    mixed = replace(right, y=np.where(wrong, (right.y + 1) % 4, right.y), w=np.where(wrong, 1e-6, 1.)*right.w)
    good, spoilt = (run_accuracy(e, right, ~wrong) for e in (mixed, replace(mixed, w=np.ones(900))))
    assert good > spoilt + 0.03

def run_accuracy(train, truth, where):
    learn = learner(train, loss=cross_entropy, outputs=4, members=2, cbs=[one_cycle(0.03)])
    learn.fit(train, epochs=6, bs=64)
    score = make_bundle(learn).predict(truth).filter(regex=r'^score_\d').to_numpy()
    return (score.argmax(1) == truth.y)[where].mean()

@pytest.mark.parametrize('scale', [1e-3, 1, 1e4])
def test_reported_losses_are_divided_by_the_sum_of_weights(scale):
    "There: by the number of events. Here what is reported is the weighted mean over the fold, from predictions by hand."
    data = toy_regression(300, seed=4)
    data = replace(data, w=scale*data.w)
    learn = learner(data, loss=mse, members=2, opt=frozen, scale=no_scale)
    reported = learn.fit(data, epochs=1, bs=64).last('valid_loss')
    score, fold = member_scores(learn.ens, learn.recipe, data, link='identity'), data.folds(2)
    for m in range(2):
        w, loss = data.w[fold == m], (score[m] - data.y)[fold == m]**2
        assert reported[m] == pytest.approx((w*loss).sum()/w.sum(), rel=1e-4)

def test_training_loss_is_the_mean_over_the_events_of_the_member():
    "In steps that see each of a member's events once, from predictions by hand: sum(w l)/sum(w), however the folds differ."
    data = toy_regression(240, seed=4)
    data = replace(data, w=data.w*np.where(data.folds(3) == 0, 5, 1))
    train = [np.flatnonzero(data.folds(3) != m) for m in range(3)]
    for m in range(3):
        learn = learner(data, loss=mse, members=[m], opt=frozen, scale=no_scale)
        reported = learn.fit(data, epochs=1, bs=len(train[m]), folds=FoldPlan(3, (m,))).last('train_loss')
        score = member_scores(learn.ens, learn.recipe, data, link='identity')[0]
        assert reported[0] == pytest.approx(np.average((score - data.y)[train[m]]**2, weights=data.w[train[m]]), rel=1e-4) and learn.step == 1

def test_training_loss_does_not_depend_on_the_unit_of_weights():
    losses = [learner(opt=sgd).fit(replace(events(), w=s*events().w), epochs=2, bs=64).last('train_loss') for s in (1, 1e5)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)

@pytest.mark.parametrize('classes', ['signal', 'background', 'none'])
def test_significance_of_a_batch_of_one_class(classes):
    "There: NaN, and with it the network. Here such a batch has loss 0 and moves no weight."
    class Spoil(Callback):
        def before_batch(self, learn):
            self.before = learn.ens.rows.clone()
            if classes == 'none': learn.batch.w[:] = 0
            else: learn.batch.y[:] = classes == 'signal'
        def after_step(self, learn): assert (learn.loss == 0).all() and torch.equal(learn.ens.rows, self.before)
    learn = learner(cbs=[Significance(signal=50., background=500., after=0), Spoil()], opt=sgd)
    assert learn.fit(events(), epochs=1, bs=64).last('valid_loss').size and learn.alive.all()

def test_ams_without_background_is_regularised():
    "There: -1. With b_r = 10 a cut without background has the significance of ten events of it."
    assert float(ams(7., 0.)) == pytest.approx(math.sqrt(2*(17*math.log(1.7) - 7)))
    scan = ams_scan([0.9, 0.8, 0.1], [1, 1, 0], [3., 4., 50.])
    assert scan.ams[1] == pytest.approx(float(ams(7., 0.))) and (scan.ams >= 0).all()
    assert float(ams(0., 0., br=0)) == 0 and float(ams(1., 0., br=0)) == math.inf

# Numbers that are none

@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_input_that_is_not_finite_raises(value):
    "There: NaN became 0 and Inf huge. Here column and rows are named, at training and at prediction, from a table or an array."
    bad = new_table()
    bad.loc[[4, 7], 'x2'] = value
    for read in (lambda: events().schema.parse(bad), lambda: trained().predict(bad), lambda: trained().predict(bad[['x0', 'x1', 'x2', 'x3']].to_numpy())):
        with pytest.raises(DataError, match=r"'x2'.*2 rows \(first: 4, 7\)"): read()

def test_nan_metric_is_never_the_best():
    "There: NaN compared as better. Here the best finite epoch wins, whether NaN comes first, last or between."
    for nan_at in (0, 1, 3):
        seen = []
        def odd(pred, y, w):
            seen.append(math.nan if len(seen) == nan_at else [0.1, 0.9, 0.5, 0.2][len(seen)])
            return torch.full((len(pred),), seen[-1])
        rows, keep = [], SaveBest('odd', sign=+1)
        class Rows(Callback):
            def after_epoch(self, learn): rows.append(learn.ens.rows.clone())
        learn = learner(metrics=[odd], cbs=[keep, Rows()])
        learn.fit(events(), epochs=4, bs=64)
        assert torch.equal(learn.ens.rows, rows[int(np.nanargmax(seen))])

def test_nan_metric_is_no_improvement():
    "Nor does it give early stopping new patience."
    def lost(pred, y, w): return torch.full((len(pred),), math.nan)
    learn = learner(metrics=[lost], cbs=[EarlyStop(1, 'lost')])
    learn.fit(events(), epochs=9, bs=64)
    assert learn.epoch == 2 and learn.complete

# Gradients and modes

def test_evaluation_keeps_no_gradients():
    "Validation and prediction build no graph, leave the gradients of the step alone, and give plain numbers."
    graph = []
    class Nosy(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.out = nn.Linear(n, 1)
        def forward(self, x):
            graph.append(torch.is_grad_enabled())
            return self.out(x['flat'])[..., 0]
    recipe = Recipe([Imputed(), Scaled()]).fit(events())
    learn = Learner(Ensemble(partial(Nosy, 4), 2), recipe, bce)
    learn.fit(events(), epochs=1, bs=64)
    slopes = learn.ens.grads.clone()
    graph.clear()
    learn.validate()
    score = make_bundle(learn).predict(new_table())
    assert graph and not any(graph)
    assert torch.equal(slopes, learn.ens.grads) and slopes.abs().sum() > 0
    assert all(p.grad is None for p in learn.ens.net.parameters())
    assert not learn.outputs(torch.arange(5).expand(2, 5)).requires_grad and isinstance(score, pd.DataFrame)

def test_batch_statistics_see_training_batches_only():
    "There: a probe of the shape ran through the batch norm. Here its statistics are those of the batches trained on, and prediction adds nothing."
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.out = nn.BatchNorm1d(4), nn.Linear(4, 1)
        def forward(self, x): return self.out(self.norm(x['flat']))[..., 0]
    seen = []
    class Watch(Callback):
        def before_batch(self, learn): seen.append(learn.batch.x['flat'].clone())
    recipe = Recipe([Imputed(), Scaled()]).fit(events())
    learn = Learner(Ensemble(Normed, 2), recipe, bce, cbs=[Watch()])
    learn.fit(events(), epochs=2, bs=64)
    mean, var = torch.zeros(2, 4), torch.ones(2, 4)
    for x in seen: mean, var = 0.9*mean + 0.1*x.mean(1), 0.9*var + 0.1*x.var(1)
    make_bundle(learn).predict(new_table())
    found = {n.rsplit('__')[-1]: b for n, b in learn.ens.net.named_buffers()}
    torch.testing.assert_close(found['running_mean'], mean)
    torch.testing.assert_close(found['running_var'], var)
    assert found['num_batches_tracked'].tolist() == [len(seen)]*2

# Learning rates and length of training

def test_every_parameter_group_follows_the_schedule():
    "There: the first only."
    groups = lambda rows: torch.optim.Adam([dict(params=rows[:1]), dict(params=rows[1:], weight_decay=0.1)])
    spy = Spy()
    learner(opt=groups, cbs=[one_cycle(0.02), spy]).fit(events(), epochs=2, bs=64)
    rates = np.array(spy.rates)
    assert rates.shape[1] == 2 and (rates[:, 0] == rates[:, 1]).all() and np.ptp(rates[:, 0]) > 0.015

def test_second_training_starts_at_the_first_rate():
    "There: the cycle's list was shared and changed. Here one cycle object serves many trainings, also after one that was broken off."
    class Break(Callback):
        def after_step(self, learn): learn.interrupted |= learn.step == 5
    cycle, spies = one_cycle(0.02), []
    for more in ([], [Break()], []):
        spies.append(Spy())
        learner(cbs=[cycle, spies[-1], *more]).fit(events(), epochs=2, bs=64)
    assert spies[0].rates == spies[2].rates and spies[1].rates == spies[0].rates[:5] and spies[0].rates[0][0] == pytest.approx(0.02*0.01)

@pytest.mark.parametrize('epochs', [0.3, 1.5, 2.77])
def test_cycle_of_a_broken_number_of_epochs(epochs):
    "There: NaN. Here the cycle spans the training, however long that is."
    spy = Spy()
    learn = learner(cbs=[one_cycle(0.02), spy])
    history = learn.fit(events(), epochs=epochs, bs=16)
    rates = np.ravel(spy.rates)
    assert learn.complete and len(rates) == round(epochs*learn.streams.steps) and np.isfinite(rates).all()
    assert rates.max() > 0.015 and rates[-1] < 0.005
    assert np.isfinite(history.df().value).all() and np.isfinite(history.last('valid_loss')).all() and learn.ens.rows.isfinite().all()

def test_rates_rise_alike_in_all_folds():
    "There: folds of different size took different steps. Here a step is one rate for all, whatever the folds, and alone as among others."
    fold = events().folds(3)
    uneven = events().take(np.flatnonzero((fold != 0) | (np.arange(600) % 4 == 0)))
    sizes = np.bincount(uneven.folds(3))
    assert sizes.min() < sizes.max()/2
    test = partial(lr_range, events=uneven, bs=32, steps=60, folds=3)
    together = test(learner(uneven))
    assert together.loss.shape == (3, len(together.lr)) and np.isfinite(together.loss).all()
    for m in range(3):
        alone = test(learner(uneven, members=[m])).lr
        n = min(len(alone), len(together.lr))
        np.testing.assert_array_equal(alone[:n], together.lr[:n])

@pytest.mark.parametrize('n', [60, 100, 600])
def test_range_test_takes_the_steps_that_it_was_asked_for(n):
    "However few the events: from the first rate to the last in so many batches, or fewer where the loss explodes before."
    found = lr_range(learner(events().take(slice(0, n))), events().take(slice(0, n)), bs=64, steps=50)
    assert 20 < len(found.lr) <= 50 and found.lr[0] == pytest.approx(1e-5)
    np.testing.assert_allclose(np.diff(np.log(found.lr)), math.log(1e5)/49, rtol=1e-6)

@pytest.mark.parametrize('patience', [0, 1, 3])
def test_patience_is_the_number_of_epochs_allowed(patience):
    "There: one off. A loss that never falls again: the first epoch is the best, `patience` more are allowed, the next is the last."
    learn = learner(cbs=[EarlyStop(patience)], opt=frozen)
    learn.fit(events(), epochs=20, bs=64)
    assert learn.epoch == 1 + patience + 1

# Small numbers of events

def test_batch_of_one_in_multiclass():
    "There: squeezed away."
    four = toy_classes(60, seed=0)
    learn = learner(four, loss=cross_entropy, outputs=4, members=2, cbs=[one_cycle(1e-2), SaveBest()])
    history = learn.fit(four, epochs=1, bs=1)
    assert learn.step == 30 and learn.alive.all() and np.isfinite(history.last('valid_loss')).all()
    assert learn.outputs(torch.tensor([[3], [4]])).shape == (2, 1, 4)

@pytest.mark.parametrize('loss, outputs, make', [(bce, None, toy_events), (cross_entropy, 4, toy_classes), (mse, None, toy_regression)])
def test_prediction_of_few_events(loss, outputs, make):
    "There: fewer rows than a batch failed. One event alone gets the score that it has among many."
    learn = learner(make(200, seed=0), loss=loss, outputs=outputs, members=2)
    learn.fit(make(200, seed=0), epochs=1, bs=64)
    bundle, new = make_bundle(learn), make(300, seed=7).take(slice(200, 300))
    many = bundle.predict(new)
    for rows in ([0], [99], [5, 3]): pd.testing.assert_frame_equal(bundle.predict(new.take(rows)).reset_index(drop=True), many.iloc[rows].reset_index(drop=True), check_exact=False, atol=1e-6)

# Uncertainties

def test_bootstrap_interval_covers_68_percent():
    "There: wrong percentiles. Here, in 300 samples of 250 weighted events, the interval holds the true mean about 68 times in 100."
    rng, n, samples = np.random.default_rng(0), 250, 300
    y, w = np.zeros(n), rng.gamma(2, 0.5, n)
    value = rng.exponential(1, (samples, n))
    found = bootstrap(lambda v, y, w: mean_of(v, w), value, y, w, replicas=300)
    inside = ((found.low <= 1) & (1 <= found.high)).double().mean()
    assert 0.6 < inside < 0.75
    assert 0.6 < ((found.replicas >= found.low) & (found.replicas <= found.high)).double().mean() < 0.75

def test_bootstrap_error_of_the_auc_is_its_spread():
    "The error quoted from one sample is the spread over samples."
    rng, y = np.random.default_rng(1), np.arange(400) % 2
    score = rng.normal(1.2*y, 1, (150, 400))
    quoted, spread = bootstrap_auc(score[:12], y, replicas=150).error.mean(), roc_auc(score, y).std()
    assert float(quoted) == pytest.approx(float(spread), rel=0.2)

# Files

watchers = []
sys.addaudithook(lambda event, args: watchers and watchers[-1](event, args))

@contextmanager
def watched(by):
    "Let `by` see what the interpreter is about to do: open, rename, remove, unpickle, start a program."
    watchers.append(by)
    try: yield
    finally: watchers.remove(by)

def test_files_hold_data_only(tmp_path):
    "There: pickles. Here JSON and safetensors, which any reader opens, and loading looks up no object and starts no program."
    trained().save(tmp_path/'bundle')
    for file in (tmp_path/'bundle').iterdir():
        if file.suffix == '.json': json.loads(file.read_text())
        else: safetensors.torch.load_file(file)
    weights = safetensors.torch.load_file(next((tmp_path/'bundle').glob('weights*')))
    assert sum(t.numel() for t in weights.values()) == trained().ens.rows.numel()
    with watched(lambda event, args: done.append(event)):
        done = []
        load_bundle(tmp_path/'bundle')
        pickle.loads(pickle.dumps(Job()))
    bad = [e for e in done if e.startswith(('pickle', 'subprocess', 'os.system', 'os.exec', 'marshal'))]
    assert 'open' in done and bad == ['pickle.find_class']   # that of the line above, which shows that the watcher sees them

def test_every_moment_of_a_save_is_whole(tmp_path):
    "There: written in place. Here whoever reads during a save finds the old bundle or the new one, and afterwards no scraps."
    old, new = trained(), replace(trained(), ens=Ensemble(trained().ens.build, 3, seed=5))
    table, place, copy, found, busy = new_table(50), tmp_path/'bundle', tmp_path/'copy', [], []
    scores = [b.predict(table).score.tolist() for b in (old, new)]
    old.save(place)
    def read(event, args):
        if busy or event not in ('open', 'os.rename', 'os.remove'): return
        busy.append(True)
        shutil.copytree(place, copy)
        found.append(scores.index(load_bundle(copy).predict(table).score.tolist()))
        shutil.rmtree(copy)
        busy.clear()
    with watched(read):
        new.save(place, overwrite=True)
        open(place/'manifest.json').close()
    assert found == sorted(found) and {0, 1} == set(found)
    new.save(tmp_path/'fresh')
    assert sorted(p.name for p in place.iterdir()) == sorted(p.name for p in (tmp_path/'fresh').iterdir())

@pytest.mark.parametrize('n', range(3))
def test_a_save_that_fails_leaves_the_old_bundle(tmp_path, monkeypatch, n):
    "The disk is full when file n is to get its name (the networks are new: their file, what tells of them, the manifest): the bundle that was there still loads."
    old, new = trained(), replace(trained(), ens=Ensemble(trained().ens.build, 3, seed=5))
    old.save(tmp_path/'bundle')
    done, rename = [], os.replace
    def full(a, b):
        if len(done) == n: raise OSError(28, 'No space left on device')
        done.append(rename(a, b))
    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(OSError, match='the disk is full'): new.save(tmp_path/'bundle', overwrite=True)
    assert load_bundle(tmp_path/'bundle').predict(new_table(20)).equals(old.predict(new_table(20)))
    assert not [p.name for p in (tmp_path/'bundle').iterdir() if p.name.endswith('.part')]

@pytest.mark.parametrize('name', ['with space', '*', '[a-z]*', '$(touch hacked)', '; rm -r precious', '-rf', "it's"])
def test_names_are_names(tmp_path, monkeypatch, name):
    "There: `rm -r` through a shell. Here no name of a folder is ever read as anything else, and neighbours live."
    monkeypatch.chdir(tmp_path)
    (tmp_path/'precious').mkdir()
    (tmp_path/'precious'/'thesis.tex').write_text('years of work')
    trained().save(name)
    trained().save(name, overwrite=True)
    load_bundle(name)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(['precious', name]) and (tmp_path/'precious'/'thesis.tex').read_text() == 'years of work'

def test_predictions_come_back_on_the_cpu():
    "There: left on the GPU. Here arrays and tables, from wherever the networks are."
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    bundle = replace(trained(), ens=Ensemble(trained().ens.build, 3).to(device))
    score = member_scores(bundle.ens, bundle.recipe, events())
    assert type(score) is np.ndarray and score.shape == (3, 600) and score.dtype == np.float32
    table = bundle.predict(new_table())
    assert type(table) is pd.DataFrame and all(d.kind in 'fi' for d in table.dtypes)

def test_resuming_reads_the_file_that_interrupting_wrote(tmp_path):
    "There: its own saves did not load any more. Here a job that was broken off goes on from its file, and a finished one says so."
    class Break(Callback):
        def after_step(self, learn): learn.interrupted |= learn.step == 7
    job = Job(network=dict(width=6, depth=2), members=3, epochs=2, bs=64)
    assert not run_job(job, events(), tmp_path/'a', cbs=[Break()]).complete
    resumed, whole = run_job(job, events(), tmp_path/'a', resume=True, cbs=[Callback()]), run_job(job, events(), tmp_path/'b')
    assert resumed.complete and load_bundle(tmp_path/'a').predict(new_table()).equals(whole.predict(new_table()))
    with pytest.raises(OSError, match='nothing to resume'): run_job(job, events(), tmp_path/'a', resume=True)
