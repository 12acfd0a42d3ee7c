"Laws that hold for any data: what weights mean, what may not depend on company, order, size of a piece or a pause."
import json
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from torch import nn

from hepdev.data.batches import take
from hepdev.data.foldfile import FoldFile, write_foldfile
from hepdev.data.folds import FoldPlan
from hepdev.data.higgsml import higgs_schema
from hepdev.data.recipe import Aligned, Cartesian, Derived, Imputed, Layout, Principal, Recipe, Scaled, Without, weighted_quantiles
from hepdev.data.schema import event_hash
from hepdev.data.toy import toy_classes, toy_events, toy_regression
from hepdev.data.weights import balance_classes, mean_one
from hepdev.ensemble.predict import member_scores
from hepdev.evaluate.metrics import roc_auc
from hepdev.models.heads import mlp
from hepdev.models.stack import Ensemble
from hepdev.physics.augment import blocks, pose
from hepdev.physics.simulate import simulate_higgs
from hepdev.ensemble.bundle import load_bundle, make_bundle
from hepdev.train.augment import Augment
from hepdev.train.learner import Callback, Learner
from hepdev.train.losses import bce, cross_entropy, mse, weighted_mean
from hepdev.train.schedule import one_cycle
from hepdev.train.stop import EarlyStop, SaveBest

law = partial(settings, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
POSES = ('rotate', 'flip_y', 'flip_z')

@cache
def higgs_table(n=400): return simulate_higgs(n, seed=11)

@cache
def higgs(n=400):
    "Simulated events of the challenge, parsed."
    return higgs_schema(higgs_table(n).columns).parse(higgs_table(n))

@cache
def fitted(*more): return Recipe([Cartesian(), Imputed(), Scaled(), *more]).fit(higgs())

def small_learner(members=3, *, cbs=(), build=None, seed=0, recipe=None, loss=bce, **options):
    recipe = recipe or fitted()
    build = build or mlp(recipe.layout, width=6, depth=2)
    return Learner(Ensemble(build, members, seed=seed), recipe, loss, cbs=cbs, seed=seed, **options)

class StopAt(Callback):
    "What Ctrl-C does, at a known step."
    def __init__(self, step): self.step = step
    def after_step(self, learn): learn.interrupted |= learn.step == self.step

# Weights mean weights

counts = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).integers(0, 4, 30))
scales = st.floats(-6, 6).map(lambda power: 10.**power)

def repeated(k): return np.repeat(np.arange(len(k)), k)

LOSSES = dict(bce=(bce, None), cross_entropy=(cross_entropy, 3), mse=(mse, None), mse_of_two=(mse, 2))

@pytest.mark.parametrize('name', LOSSES)
@law(max_examples=10)
@given(k=counts, scale=scales, seed=st.integers(0, 1000))
def test_full_batch_loss_and_gradient(name, k, scale, seed):
    "Weight 2 is the event twice, weight 0 the event absent, the unit of the weights and the order of events are nothing: for each member."
    if not k.any(): return
    (loss_of, outputs), rng = LOSSES[name], np.random.default_rng(seed)
    ens = Ensemble(mlp(Layout(('a', 'b'), {}, {}), outputs=outputs, width=4, depth=2, activation='tanh'), 3, seed=seed).double()
    x = torch.from_numpy(rng.normal(size=(3, 30, 2)))
    y = torch.from_numpy(rng.normal(size=(3, 30, 2)) if name == 'mse_of_two' else rng.normal(size=(3, 30)) if name == 'mse' else rng.integers(0, outputs or 2, (3, 30)))
    def loss_and_gradient(rows, w):
        rows, w = torch.as_tensor(rows), torch.as_tensor(w, dtype=torch.float64)
        loss = weighted_mean(loss_of(ens(dict(flat=x[:, rows])), y[:, rows]), (w/w.mean()).expand(3, -1))
        ens.backward(loss)
        return torch.cat([loss.detach()[:, None], ens.grads.clone()], 1)
    everything, there = np.arange(30), np.flatnonzero(k)
    want = loss_and_gradient(repeated(k), np.ones(k.sum()))
    order = rng.permutation(30)
    for rows, w in ((everything, k), (there, k[there]), (everything, scale*k), (order, k[order])):
        torch.testing.assert_close(loss_and_gradient(rows, w), want, rtol=1e-9, atol=1e-12)

TARGETS = dict(binary=(toy_events, bce, None), classes=(toy_classes, cross_entropy, 4), regression=(toy_regression, mse, None))

def versions(events, k, scale, rng):
    "The same weighted events: repeated, weighted, without those of weight 0, in another unit, in another order."
    weighted = replace(events, w=k.astype(float))
    yield replace(events.take(repeated(k)), w=np.ones(k.sum()))
    yield weighted
    yield weighted.take(np.flatnonzero(k))
    yield replace(weighted, w=scale*weighted.w)
    yield weighted.take(rng.permutation(len(k)))

@pytest.mark.parametrize('name', TARGETS)
@law(max_examples=5)
@given(seed=st.integers(0, 1000), scale=scales)
def test_a_step_of_the_learner(name, seed, scale):
    "Recipe, class balance and a step over all events, end to end: the same network comes out."
    (make, loss, outputs), rng = TARGETS[name], np.random.default_rng(seed)
    k, events = rng.integers(0, 4, 60), make(60, seed=seed)
    k[:8], ends = 1, []
    for version in versions(events, k, scale, rng):
        recipe = Recipe([Imputed(), Scaled()]).fit(version)
        learn = Learner(Ensemble(mlp(recipe.layout, outputs=outputs, width=4, depth=2), 2, seed=seed), recipe, loss, opt=partial(torch.optim.SGD, lr=0.3))
        learn.fit(version, epochs=1, bs=int((version.w > 0).sum()), folds=1)
        assert learn.step == 1
        ends.append(learn.ens.rows)
    for end in ends[1:]: torch.testing.assert_close(end, ends[0], rtol=1e-4, atol=1e-5)

@law(max_examples=5)
@given(seed=st.integers(0, 1000), scale=scales)
def test_reported_values(seed, scale):
    "The validation loss and a metric on the fold left out: sums over events with their weights."
    rng = np.random.default_rng(seed)
    k, events, reported = rng.integers(0, 4, 120), toy_events(120, seed=seed), []
    k[:20] = 1
    for version in versions(events, k, scale, rng):
        recipe = Recipe([Imputed(), Scaled()]).fit(version)
        learn = Learner(Ensemble(mlp(recipe.layout, width=4, depth=2), 2, seed=seed), recipe, bce, metrics=[roc_auc], opt=partial(torch.optim.SGD, lr=0.))
        history = learn.fit(version, epochs=1, bs=1000)
        reported.append([history.last(n) for n in ('valid_loss', 'roc_auc')])
    for values in reported[1:]: np.testing.assert_allclose(values, reported[0], rtol=1e-5)

STEPS = dict(mean=[Imputed('mean'), Scaled()], median=[Imputed('median'), Scaled()], robust=[Imputed('zero', indicator=True), Scaled('robust')],
             principal=[Imputed(), Scaled(), Principal()])

@pytest.mark.parametrize('name', STEPS)
@law(max_examples=5)
@given(seed=st.integers(0, 1000), scale=scales)
@example(seed=373, scale=1.)
def test_statistics_of_the_recipe(name, seed, scale):
    "Imputation, scaling and principal components learn from weighted events as from repeated ones."
    rng = np.random.default_rng(seed)
    k, outcomes = rng.integers(0, 4, 400), []
    for version in versions(higgs(), k, scale, rng):
        recipe = Recipe([Cartesian(), Without('DER_pt_tot'), *STEPS[name]]).fit(version)
        outcomes.append(recipe(higgs())['flat'])
    for outcome in outcomes[1:]: torch.testing.assert_close(outcome, outcomes[0], rtol=2e-3, atol=2e-3)

@law(max_examples=50)
@given(k=counts, scale=scales, seed=st.integers(0, 1000))
def test_quantiles(k, scale, seed):
    "Exact, also where a fraction of the weight ends on an event to the digit, in any unit and order."
    if not k.any(): return
    rng, q = np.random.default_rng(seed), [0., 0.25, 0.5, 0.75, 1.]
    x, k = torch.from_numpy(rng.normal(size=30)), torch.from_numpy(k)
    want = weighted_quantiles(x.repeat_interleave(k), torch.ones(k.sum()), q)
    order = torch.from_numpy(rng.permutation(30))
    for found in (weighted_quantiles(x, k, q), weighted_quantiles(x, scale*k.double(), q), weighted_quantiles(x[order], scale*k[order].double(), q)):
        assert found.tolist() == want.tolist()

@law(max_examples=30)
@given(k=counts, scale=scales, seed=st.integers(0, 1000))
def test_class_balance(k, scale, seed):
    "Each class ends with the same sum; weights are the event's share of its class, whatever else is there."
    rng = np.random.default_rng(seed)
    k[:3], y = 1, rng.permutation(np.arange(30) % 3)
    y[:3] = 0, 1, 2
    b = balance_classes(k.astype(float), y)
    totals = [b[y == c].sum() for c in range(3)]
    np.testing.assert_allclose(totals, totals[0])
    assert b[k > 0].mean() == pytest.approx(1) and (b[k == 0] == 0).all()
    np.testing.assert_allclose(balance_classes(scale*k, y), b)
    order = rng.permutation(30)
    np.testing.assert_allclose(balance_classes(k[order].astype(float), y[order]), b[order])
    share = lambda w, y: w/w.sum()
    twice = repeated(k)
    np.testing.assert_allclose(np.bincount(twice, share(balance_classes(np.ones(len(twice)), y[twice]), y[twice]), 30), share(b, y))
    np.testing.assert_allclose(mean_one(scale*k), k/k[k > 0].mean())

# Members do not notice each other

def whole_kit(*more):
    "Callbacks with memory; the rate is so high that some members, not all, are stopped early."
    return [one_cycle(0.1), Augment(*POSES), SaveBest(), EarlyStop(0), *more]

class Own(nn.Module):
    "A user's module, written for one network."
    def __init__(self, layout):
        super().__init__()
        self.jets = nn.Embedding(4, 2)
        self.body = nn.Sequential(nn.Linear(len(layout.columns) + 2, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 1))
    def forward(self, x): return self.body(torch.cat([x['flat'], self.jets(x['codes'][..., 0])], -1))[..., 0]

class Remembering(nn.Module):
    "A user's module with a recurrent layer and running statistics, which cannot be mapped."
    def __init__(self, layout):
        super().__init__()
        self.norm, self.gru, self.out = nn.BatchNorm1d(len(layout.columns)), nn.GRU(len(layout.columns), 4, batch_first=True), nn.Linear(4, 1)
    def forward(self, x): return self.out(self.gru(self.norm(x['flat'])[:, None])[0][:, -1])[..., 0]

BUILDS = dict(plain=lambda layout: mlp(layout, width=8, depth=3, kind='plain', activation='relu'),
              residual=lambda layout: mlp(layout, width=8, depth=3, kind='residual', activation='mish'),
              dense=lambda layout: mlp(layout, width=8, depth=3, kind='dense', activation='silu'),
              own=lambda layout: partial(Own, layout), remembering=lambda layout: partial(Remembering, layout))

@pytest.mark.parametrize('kind', BUILDS)
def test_stacked_is_alone(kind):
    "A member that trains among others, with augmentation, one cycle and early stopping, ends as it does alone."
    build = BUILDS[kind](fitted().layout)
    together = small_learner(3, cbs=whole_kit(), build=build)
    losses = together.fit(higgs(), epochs=2.5, bs=32).table('valid_loss')
    scores = member_scores(together.ens, fitted(), higgs())
    for m in range(3):
        alone = small_learner([m], cbs=whole_kit(), build=build)
        loss = alone.fit(higgs(), epochs=2.5, bs=32, folds=FoldPlan(3, (m,))).table('valid_loss')[m]
        torch.testing.assert_close(alone.ens.rows[0], together.ens.rows[m], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(member_scores(alone.ens, fitted(), higgs())[0], scores[m], atol=1e-5)
        np.testing.assert_allclose(loss, losses[m][:len(loss)], rtol=1e-4)

def test_a_member_never_sees_the_fold_it_scores():
    "Whatever the features of a fold are, the member that leaves it out ends with the same bits; the others do not."
    events, rows = higgs(), []
    touched = events.folds(3) == 1
    for x in (events.x, {**events.x, 'PRI_tau_pt': np.where(touched, 7*events.x['PRI_tau_pt'], events.x['PRI_tau_pt'])}):
        learn = small_learner(3, cbs=[one_cycle(1e-2), Augment(*POSES)])
        learn.fit(replace(events, x=x), epochs=2, bs=32)
        rows.append(learn.ens.rows)
    assert [torch.equal(a, b) for a, b in zip(*rows)] == [False, True, False]

class Open(Callback):
    "Has a look inside every step, so that torch must take it."
    def after_backward(self, learn): self.seen = learn.ens.grads.abs().sum()

@pytest.mark.parametrize('name', ['bce', 'cross_entropy', 'mse'])
@pytest.mark.parametrize('kind', ['plain', 'residual', 'dense'])
def test_closed_steps_are_open_steps(kind, name):
    "Whole steps in compiled code come to what torch makes of them, with every callback there is; a member alone gets the same bits."
    pytest.importorskip('numba')
    events = dict(bce=higgs, cross_entropy=partial(toy_classes, 400, seed=1), mse=partial(toy_regression, 400, seed=1))[name]()
    recipe = Recipe([Cartesian(), Imputed(), Scaled()] if name == 'bce' else [Scaled()]).fit(events)
    outputs = events.schema.n_classes if name == 'cross_entropy' else None
    def learner(members, *more):
        cbs = [one_cycle(0.01), *([Augment(*POSES)] if name == 'bce' else []), SaveBest(), *more]
        return small_learner(members, cbs=cbs, recipe=recipe, loss=dict(bce=bce, cross_entropy=cross_entropy, mse=mse)[name], build=mlp(recipe.layout, width=9, depth=3, kind=kind, outputs=outputs))
    closed, opened, alone = learner(3), learner(3, looker := Open()), learner([1])
    for learn, plan in ((closed, 3), (opened, 3), (alone, FoldPlan(3, (1,)))): learn.fit(events, epochs=2.5, bs=50, folds=plan)
    assert closed.closed and not opened.closed and looker.seen > 0
    torch.testing.assert_close(closed.ens.rows, opened.ens.rows, rtol=2e-3, atol=2e-4)
    assert torch.equal(alone.ens.rows[0], closed.ens.rows[1])
    for name in ('valid_loss', 'train_loss'): np.testing.assert_allclose(closed.history.table(name), opened.history.table(name), rtol=1e-4)

# The same seed, the same bits; a pause is nothing

@cache
def undisturbed(seed):
    learn = small_learner(3, cbs=whole_kit(), seed=seed)
    learn.fit(higgs(), epochs=3.5, bs=32)
    return learn

@cache
def seeds(n=2):
    "Seeds of trainings in which some members are stopped early, and some are not."
    mixed = (s for s in range(50) if undisturbed(s).alive.any() and not undisturbed(s).alive.all())
    return [next(mixed) for _ in range(n)]

def test_same_seed_same_bits():
    "The global random stream decides nothing and is left alone; another seed gives another network."
    one, other = seeds()
    torch.manual_seed(1); np.random.seed(1)
    before = torch.get_rng_state()
    again = small_learner(3, cbs=whole_kit(), seed=one)
    again.fit(higgs(), epochs=3.5, bs=32)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(again.ens.rows, undisturbed(one).ens.rows) and again.history.rows == undisturbed(one).history.rows
    assert not torch.isclose(undisturbed(other).ens.rows, undisturbed(one).ens.rows).all(1).any()

class Watch(Callback):
    "What each member sees: which events, in which poses."
    def __init__(self): self.index, self.x = [], []
    def after_loss(self, learn):
        self.index.append(learn.batch.index.clone())
        self.x.append(learn.batch.x['flat'].clone())

class SameEvents(Callback):
    "The same events in the same order for all members and seeds."
    def before_batch(self, learn): learn.batch = take(learn.sample, torch.arange(400).expand(len(learn.ens), -1))

def test_members_and_seeds_differ():
    "Two members with the same training events, two seeds: each has another order, and sees the same events in other poses."
    order, x = {}, {}
    for seed in (0, 1):
        one, other = Watch(), Watch()
        small_learner(2, cbs=[one], seed=seed).fit(higgs(), epochs=1, bs=400, folds=1)
        small_learner(2, cbs=[SameEvents(), Augment(*POSES), other], seed=seed).fit(higgs(), epochs=1, bs=400, folds=1)
        assert (one.index[0].sort(1).values == torch.arange(400)).all()
        order |= {(seed, m): one.index[0][m] for m in range(2)}
        x |= {(seed, m): other.x[0][m] for m in range(2)}
    for i, a in enumerate(x):
        for b in [*x][:i]:
            assert (order[a] == order[b]).float().mean() < 0.05
            assert torch.isclose(x[a][:, 0], x[b][:, 0]).float().mean() < 0.05 and torch.equal(x[a][:, -1], x[b][:, -1])

@pytest.mark.parametrize('kind', ['plain', 'residual', 'dense'])
def test_threads_change_no_bit(kind):
    "The members are shared out among however many threads: each member's arithmetic stays the same."
    rows, threads = [], torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            learn = small_learner(3, cbs=whole_kit(), build=BUILDS[kind](fitted().layout))
            learn.fit(higgs(), epochs=1.5, bs=64)
            rows.append(learn.ens.rows)
            assert torch.get_num_threads() == n
    finally: torch.set_num_threads(threads)
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[0], rows[2])

@law(max_examples=8)
@given(pauses=st.sets(st.integers(1, 28), min_size=1, max_size=3), which=st.integers(0, 1))
def test_resumed_is_uninterrupted(tmp_path_factory, pauses, which):
    "Stopped at any steps and read back from disk each time, a training ends with the same bits."
    path, training, seed = tmp_path_factory.mktemp('pause')/'bundle', None, seeds()[which]
    assert undisturbed(seed).step == 28
    for pause in [*sorted(pauses), None]:
        learn = small_learner(3, cbs=whole_kit(StopAt(pause)), seed=seed)
        if training: learn.restore(training)
        learn.fit(higgs(), epochs=3.5, bs=32)
        assert learn.complete == (pause is None)
        make_bundle(learn).save(path, overwrite=True)
        training = load_bundle(path).training
    assert torch.equal(learn.ens.rows, undisturbed(seed).ens.rows) and learn.history.rows == undisturbed(seed).history.rows

# An event keeps its identity

ids = st.lists(st.integers(-2**31, 2**31 - 1), min_size=1, max_size=50, unique=True)

@law(max_examples=50)
@given(ids=ids, folds=st.integers(1, 20), rng=st.randoms(use_true_random=False))
def test_fold_of_an_event(ids, folds, rng):
    "Shuffling, appending, and the type that a reader gave to whole numbers leave each event in its fold."
    values = np.array(ids)
    h = event_hash(dict(id=values))
    fold = h % np.uint64(folds)
    assert len(np.unique(h)) == len(ids)
    order = rng.sample(range(len(ids)), len(ids))
    np.testing.assert_array_equal(event_hash(dict(id=values[order])) % np.uint64(folds), fold[order])
    np.testing.assert_array_equal(event_hash(dict(id=np.r_[values, 2**40 + values]))[:len(ids)], h)
    for dtype in (np.int32, float, object): np.testing.assert_array_equal(event_hash(dict(id=values.astype(dtype))), h)
    np.testing.assert_array_equal(event_hash(dict(id=pd.array(ids, dtype='Int64').to_numpy())), h)
    other = event_hash(dict(id=values, sample=np.full(len(ids), 'ttbar')))
    assert not set(other) & set(h)

@law(max_examples=5)
@given(cut=st.integers(1, 399), seed=st.integers(0, 1000))
def test_fold_survives_files(tmp_path_factory, cut, seed):
    "Through a fold file written in parts, from a shuffled table whose other columns are also shuffled."
    folder, rng = tmp_path_factory.mktemp('folds'), np.random.default_rng(seed)
    shuffled = higgs_table().iloc[rng.permutation(400), rng.permutation(higgs_table().shape[1])]
    schema = higgs().schema
    with FoldFile(write_foldfile(folder/'a.h5', schema.parse(shuffled[:cut]))) as first, first.append(folder/'b.h5', schema.parse(shuffled[cut:])) as both:
        found = dict(zip(both.df(columns=['EventId']).EventId, both.folds(7)))
    assert found == dict(zip(higgs().x['EventId'], higgs().folds(7)))

# Recipes

MIDDLE = [Derived('higgs_winner'), Without(('DER_mass_MMC', 'PRI_jet_num')), Aligned('tau', 'lep', 'tau')]
END = [[Imputed('median', indicator=True), Scaled()], [Imputed('mean'), Scaled('robust')], [Imputed('zero'), Principal(0.9), Scaled()]]

@law(max_examples=10)
@given(middle=st.sets(st.integers(0, 2)), end=st.integers(0, 2))
def test_recipe_survives_json(middle, end):
    "Any chain of steps, read back from JSON, makes the same bits; and says the same of itself."
    chain = [Cartesian(keep_pt=0 not in middle), *(MIDDLE[i] for i in sorted(middle)), *END[end]]
    if 0 in middle: chain = [MIDDLE[0], *(s for s in chain if s != MIDDLE[0])]
    recipe = Recipe(chain).fit(higgs())
    text = json.dumps(recipe.to_dict())
    again = Recipe.from_dict(json.loads(text))
    a, b = recipe(higgs()), again(higgs())
    assert torch.equal(a['flat'], b['flat']) and torch.equal(a['codes'], b['codes']) and a['flat'].isfinite().all()
    assert json.dumps(again.to_dict()) == text and again.layout == recipe.layout and again.schema == recipe.schema

def turned(df, angle, flip_y, flip_z):
    "The same events in another pose, in physical units."
    df = df.copy()
    for c in [c for c in df if c.endswith('_phi')]:
        phi = np.where(flip_y, -df[c], df[c]) + angle
        df[c] = np.where(df[c] == -999, -999, (phi + np.pi) % (2*np.pi) - np.pi)
    for c in [c for c in df if c.endswith('_eta') and flip_z]: df[c] = np.where(df[c] == -999, -999, -df[c])
    return df

@law(max_examples=10)
@given(u=st.floats(0, 1, exclude_max=True), flip_y=st.booleans(), flip_z=st.booleans(), end=st.integers(0, 1))
def test_poses_commute_with_the_recipe(u, flip_y, flip_z, end):
    "To turn and mirror an event and then prepare it is to prepare it and then turn and mirror."
    recipe = Recipe([Cartesian(), *END[end]]).fit(higgs())
    x = recipe(higgs())['flat']
    where = blocks(recipe.layout.vectors, recipe.layout.columns)
    want = pose(x.clone(), where, ('flip_y', 'rotate', 'flip_z'), torch.tensor([flip_y, u, flip_z], dtype=torch.float32).expand(len(x), 3))
    got = recipe(higgs().schema.parse(turned(higgs_table(), 2*np.pi*u, flip_y, flip_z)))['flat']
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)

# Predictions

@law(max_examples=8)
@given(rows_at_once=st.integers(7, 1000), views=st.integers(1, 9))
def test_pieces_do_not_matter(rows_at_once, views):
    "How many events go through the recipe at once changes no score."
    ens = undisturbed(0).ens
    score = partial(member_scores, ens, fitted(), higgs(), transforms=POSES, views=views)
    np.testing.assert_allclose(score(rows_at_once=rows_at_once), score(), atol=2e-6)

@law(max_examples=8)
@given(seed=st.integers(0, 1000), n=st.integers(1, 400))
def test_order_and_company_do_not_matter(seed, n):
    "Any events in any order, as table, events or array, labelled or not, get the scores that they get together."
    bundle, rows = make_bundle(undisturbed(0)), np.random.default_rng(seed).permutation(400)[:n]
    want = bundle.predict(higgs())
    for found in (bundle.predict(higgs().take(rows)), bundle.predict(higgs_table().iloc[rows]), bundle.predict(higgs_table().iloc[rows].drop(columns=['Label', 'Weight', 'KaggleWeight']))):
        np.testing.assert_allclose(found.score, want.score.iloc[rows], atol=2e-6)
        np.testing.assert_array_equal(found.n_members, want.n_members.iloc[rows])
    assert (want.n_members == 1).all() and want.score_std.isna().all()

def test_an_array_is_a_table_of_features():
    bundle, features = make_bundle(undisturbed(0)), higgs().schema.features
    new = higgs_table().assign(EventId=lambda df: df.EventId + 10**6)
    with pytest.warns(UserWarning, match='known only by source name and row number'): by_array = bundle.predict(new[features].to_numpy())
    pd.testing.assert_frame_equal(by_array, bundle.predict(new), check_exact=False, atol=2e-6)
    assert (by_array.n_members == 3).all() and (by_array.score_std > 0).all()
