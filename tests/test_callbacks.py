"Every callback of the package: one member or ten, a user's own module, nothing couples members, a pause changes no bit."
import importlib
import math
import pkgutil
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import hepdev.ensemble
import hepdev.train
from hepdev.data.folds import FoldPlan
from hepdev.data.recipe import Cartesian, Imputed, Recipe, Scaled
from hepdev.data.schema import Column, Schema
from hepdev.ensemble.snapshots import Snapshots, fge
from hepdev.models.heads import mlp
from hepdev.models.stack import Ensemble
from hepdev.train.augment import Augment
from hepdev.train.average import EMA, SWA, RenewedSWA
from hepdev.train.columns import Parametrised, Subsample
from hepdev.train.data import Bagging, Mixup, Reweight, Smooth, Targets
from hepdev.train.decorrelate import DisCo, Pivot
from hepdev.train.faster import FastForward
from hepdev.train.gradients import Accumulate, ClipGrad
from hepdev.train.learner import Callback, Learner
from hepdev.train.losses import bce, mae
from hepdev.train.lsuv import LSUV
from hepdev.train.parameters import Decay, Freeze, RateFactors
from hepdev.train.schedule import RateSweep, cycles, one_cycle
from hepdev.train.significance import Significance
from hepdev.train.stop import EarlyStop, SaveBest
from hepdev.train.thresholds import BinnedHuber

N, BS, EPOCHS, HURT = 180, 40, 2.4, 4 # events, events of a batch, passes over them, the step at which a member explodes

made = {   # what is tried, by a name: callbacks in an order that can work
    'rates': lambda: [one_cycle(2e-2)],
    'cycles': lambda: [cycles(2e-2, number=3)],
    'fge': lambda: [fge(2e-2, number=2, epochs=0.5)],
    'sweep': lambda: [RateSweep(1e-4, 1e-2)],
    'best': lambda: [SaveBest()],
    'stop': lambda: [EarlyStop(0)],
    'stop in cycles': lambda: [cycles(2e-2, number=3), EarlyStop(0, per='cycle')],
    'ema': lambda: [EMA(0.8, 3), SaveBest('valid_loss_average'), EarlyStop(1, 'valid_loss_average')],
    'swa': lambda: [cycles(2e-2, number=6), SWA(1, 'cycle')],
    'renewed': lambda: [RenewedSWA(0.5, 0.5, renew=1)],
    'snapshots': lambda: [cycles(2e-2, number=3), Snapshots(2)],
    'augment': lambda: [Augment('rotate', 'flip_y', 'flip_z')],
    'lsuv': lambda: [LSUV()],
    'clip norm': lambda: [ClipGrad(norm=0.05)],
    'clip value': lambda: [ClipGrad(value=0.01)],
    'accumulate': lambda: [Accumulate(3), ClipGrad(norm=0.1)],
    'factors': lambda: [RateFactors({'body': 0.3})],
    'decay': lambda: [Decay(0.5)],
    'freeze': lambda: [Freeze('body', since=0.3, until=1.6)],
    'half precision': lambda: [FastForward(dtype=torch.bfloat16)],
    'bagging': lambda: [Bagging()],
    'targets': lambda: [Targets(lambda y: 1 - y)],
    'reweight': lambda: [Reweight(lambda x, y: torch.exp(x['a']/2))],
    'smooth': lambda: [Smooth(0.1)],
    'mixup': lambda: [Mixup(0.3)],
    'subsample': lambda: [Subsample(0.5)],
    'parametrised': lambda: [Parametrised('m')],
    'significance': lambda: [Significance(signal=50., background=500., after=0.5)],
    'disco': lambda: [DisCo(sample(False)[0].x['m'], 0.3)],
    'pivot': lambda: [Pivot(sample(False)[0].x['m'], 0.3, start=0.5)],
    'binned huber': lambda: [BinnedHuber([0.5])],
    'many': lambda: [LSUV(), cycles(2e-2, number=3), Augment('rotate'), Bagging(), Subsample(0.7), Reweight(lambda x, y: 1 + y), Smooth(0.1), Mixup(0.3), Accumulate(2), ClipGrad(norm=0.1),
                     Decay(0.1), RateFactors({'body': 0.5}), Freeze('body', until=0.8), SWA(1, 0.5), SaveBest('valid_loss_average'), EarlyStop(3), Snapshots()]}
regressions = {'binned huber'}

class Own(nn.Module):
    "A user's own network."
    def __init__(self):
        super().__init__()
        self.body, self.top = nn.Sequential(nn.Linear(6, 4), nn.Tanh()), nn.Linear(4, 1)

    def forward(self, x): return self.top(self.body(x['flat']))[..., 0]

@cache
def sample(regression):
    "Events with a jet that can be turned, and their recipe."
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(N) % 2)
    target = y + 0.3*rng.normal(size=N) if regression else y
    df = pd.DataFrame(dict(pt=20 + rng.exponential(20 + 10*y), eta=rng.normal(0.5*y, 1), phi=rng.uniform(-math.pi, math.pi, N), a=rng.normal(y), m=rng.normal(1 + 0.3*y), w=rng.gamma(3, 1/3, N),
                           target=target, event=np.arange(N)))
    schema = Schema([*map(Column, ('pt', 'eta', 'phi', 'a', 'm'))], target='target', classes=None if regression else {0: 0, 1: 1}, weight='w', event_id='event',
                    vectors={'jet': dict(pt='pt', eta='eta', phi='phi')})
    events = schema.parse(df)
    return events, Recipe([Cartesian(), Imputed(), Scaled()]).fit(events)

def learner(name, own, members, *cbs):
    "Ready to train, with the callbacks of that name."
    _, recipe = sample(name in regressions)
    torch.manual_seed(0)
    return Learner(Ensemble(Own if own else mlp(recipe.layout, width=4, depth=1), members, seed=1), recipe, mae if name in regressions else bce, cbs=[*cbs, *made[name]()])

def train(learn, folds=None):
    "Train, silently."
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*does not help')
        learn.fit(sample(not learn.recipe.schema.classes)[0], epochs=EPOCHS, bs=BS, folds=folds)
    return learn

class Explode(Callback):
    "Ruin a batch of member 1, and of nobody else."
    def before_batch(self, learn):
        if learn.step == HURT and 1 in learn.ens.ids: learn.batch.x['flat'][learn.ens.ids.index(1), 3] = float('nan')

class OneStep(Callback):
    "Interrupt after each step."
    def after_step(self, learn): learn.interrupted = True

def different(a, b):
    "Names under which two states differ by a bit."
    def same(a, b):
        if isinstance(a, torch.Tensor): return isinstance(b, torch.Tensor) and np.array_equal(a.detach(), b.detach(), equal_nan=a.is_floating_point())
        if isinstance(a, np.ndarray): return np.array_equal(a, b, equal_nan=a.dtype.kind == 'f')
        if isinstance(a, dict): return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        if isinstance(a, list | tuple): return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
        return a == b or a != a and b != b
    return [k for k in a if k not in b or not same(a[k], b[k])]

timed = {('RateSweep', 'lr'), ('RateSweep', 'loss'), ('FastForward', 'times')} # of one sitting: a range test is not resumed, times are of the clock

def noted(cb):
    "The plain data that a callback holds, remembered or made again."
    plain = torch.Tensor, np.ndarray, int, float, str, list, tuple, dict, type(None)
    return {k: v for k, v in vars(cb).items() if isinstance(v, plain) and (type(cb).__name__, k) not in timed}

everything = pytest.mark.parametrize('own', (False, True), ids=('mlp', "a user's module")), pytest.mark.parametrize('name', made)

def test_no_callback_is_missing():
    for package in (hepdev.train, hepdev.ensemble):
        for module in pkgutil.iter_modules(package.__path__, f'{package.__name__}.'): importlib.import_module(module.name)
    tried, waiting, found = {type(cb) for make in made.values() for cb in make()}, [Callback], set()
    while waiting: waiting += (new := [c for c in waiting.pop().__subclasses__() if c.__module__.startswith(('hepdev.train.', 'hepdev.ensemble.'))]); found |= {*new}
    assert not found - tried, f'not in the table of this file: {sorted(c.__name__ for c in found - tried)}'
    assert len(found) > 20

@pytest.mark.parametrize('members', (1, 10))
@everything[0]
@everything[1]
def test_one_member_and_ten(name, own, members):
    learn = learner(name, own, members)
    start = learn.ens.rows.clone()
    train(learn)
    assert learn.complete and learn.ens.rows.isfinite().all() and learn.ens.rows.shape == start.shape
    assert (learn.ens.rows != start).any(1).all()
    assert learn.history.table('train_loss').notna().any().all() and learn.history.table('train_loss').shape[1] == members

@everything[0]
@everything[1]
def test_a_member_that_explodes_hurts_nobody_else(name, own):
    hurt = learner(name, own, 3, Explode())
    with pytest.warns(UserWarning, match=f'Member 1: loss is nan at step {HURT}'): train(hurt)
    assert not hurt.alive[1] and hurt.ens.rows.isfinite().all()
    for m in (0, 2):
        alone = train(learner(name, own, [m], Explode()), FoldPlan(3, (m,)))
        assert alone.alive[0] == hurt.alive[m]
        torch.testing.assert_close(alone.ens.rows[0], hurt.ens.rows[m], rtol=0, atol=0.02 if name == 'half precision' else 1e-3)

@everything[0]
@everything[1]
def test_interrupted_after_every_step_it_ends_with_the_same_bits(name, own):
    class Awake(Callback): # looks after each step, too, and does nothing
        def after_step(self, learn): pass
    whole, part = train(learner(name, own, 3, Awake())), train(learner(name, own, 3, OneStep()))
    for pauses in range(2, whole.step):
        rest = learner(name, own, 3, OneStep())
        rest.restore(part.state())
        part = train(rest)
        assert part.step == pauses and not part.complete
    last = learner(name, own, 3, Awake())
    last.restore(part.state())
    assert not different(whole.state(), train(last).state())
    for a, b in zip(whole.cbs, last.cbs, strict=True): assert not different(noted(a), noted(b)), type(a).__name__
