"Networks for objects: what a bundle, a pause, company, padding and order may not change, and the laws of relativity that blocks keep."
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache, partial
from math import pi
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hepdev.data.foldfile import FoldFile, write_foldfile
from hepdev.data.folds import FoldPlan
from hepdev.data.recipe import Cartesian, Each, Energy, Imputed, Layout, Recipe, Relative, Scaled
from hepdev.data.schema import Particles, concat
from hepdev.data.targets import no_scale
from hepdev.data.toy import toy_jets
from hepdev.ensemble.bundle import load_bundle, make_bundle
from hepdev.ensemble.predict import member_scores
from hepdev.evaluate.metrics import roc_auc
from hepdev.models.clouds import cloud_layout, clouds
from hepdev.models.composed import composed, stacked
from hepdev.models.init import seeded
from hepdev.models.objects import blocks
from hepdev.models.stack import Ensemble
from hepdev.physics.augment import pose
from hepdev.physics.kinematics import boost, mass, pt_eta_phi, to_cartesian
from hepdev.train.augment import Augment
from hepdev.train.learner import Callback, Learner
from hepdev.train.losses import bce, linked
from hepdev.train.schedule import one_cycle

law = partial(settings, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])

def printed(name, **known):
    "What a piece of code in the prose of the notebook on composed networks defines."
    notebook = Path(__file__).resolve().parent.parent/'nbs'/'289_models.composed.ipynb'
    prose = '\n'.join(''.join(c['source']) for c in json.loads(notebook.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown')
    exec(next(code for code in re.findall('```python\n(.*?)```', prose, re.S) if re.search(rf'(def|class) {name}\b', code)), known)
    return known[name]

# Whole: training, pause, bundle

HEADS = dict(deep_sets=dict(width=8, depth=2), particle_net=dict(widths=[[8], [8]], k=3), recurrent=dict(width=6),
             particle_transformer=dict(width=8, heads=2, depth=1, embed=[8], pairs=[4]))

some_jets = cache(partial(toy_jets, size=12, mean=7.))

@cache
def recipe(**each):
    "Particles relative to their jet, and its columns."
    return Recipe([Each('constituents', [Relative('jet'), Energy(), Cartesian(), Scaled()], **each), Cartesian(), Imputed(), Scaled()]).fit(some_jets(200, seed=1))

def learner(kind, members=2, cbs=(), **more):
    build = composed(recipe().layout, heads={'flat': {}, 'constituents': dict(kind=kind, **HEADS[kind])}, body=dict(kind='dense', width=8, depth=1))
    return Learner(Ensemble(build, members), recipe(), bce, cbs=cbs, **more)

def fitted(learn, epochs=1, **more):
    learn.fit(some_jets(200, seed=1), epochs=epochs, bs=25, **more)
    return learn

def same_state(a, b): return all(torch.equal(x, y) for x, y in zip(a.ens.state_dict().values(), b.ens.state_dict().values(), strict=True))

SCORE = '''import sys
import numpy as np
from hepdev.data.foldfile import FoldFile
from hepdev.ensemble.bundle import load_bundle
bundle, data, out = sys.argv[1:]
with FoldFile(data) as ff: np.save(out, load_bundle(bundle).predict(ff, views=4).to_numpy())'''

@pytest.mark.parametrize('kind', HEADS)
def test_bundle_in_a_fresh_process(tmp_path, kind):
    "A process that has imported nothing but bundles reads it and gives the same bits, in four views, for old events and new ones."
    bundle = make_bundle(fitted(learner(kind, cbs=[Augment('rotate', 'flip_z')])))
    bundle.save(tmp_path/'bundle')
    write_foldfile(tmp_path/'jets.h5', concat([some_jets(200, seed=1), some_jets(60, seed=2)]))
    subprocess.run([sys.executable, '-c', SCORE, tmp_path/'bundle', tmp_path/'jets.h5', tmp_path/'said.npy'], check=True)
    with FoldFile(tmp_path/'jets.h5') as ff: want = bundle.predict(ff, views=4)
    assert np.array_equal(np.load(tmp_path/'said.npy'), want.to_numpy(), equal_nan=True) and want.n_members.tolist() == [1]*200 + [2]*60

@pytest.mark.parametrize('kind', HEADS)
def test_together_or_alone(kind):
    plainly = dict(opt=partial(torch.optim.SGD, lr=1e-2)) # Adam turns rounding into whole steps where a gradient is zero, as that of a shift before a normalisation
    many, one = fitted(learner(kind, 3, **plainly)), fitted(learner(kind, [2], **plainly), folds=FoldPlan(3, (2,)))
    a, b = (member_scores(learn.ens, recipe(), some_jets(60, seed=2)) for learn in (one, many))
    np.testing.assert_allclose(a[0], b[2], atol=1e-5)
    np.testing.assert_allclose(one.history.last('valid_loss')[0], many.history.last('valid_loss')[2], atol=1e-5)

class StopAt(Callback):
    "What Ctrl-C does, at a known step."
    def __init__(self, step): self.step = step
    def after_step(self, learn): learn.interrupted |= learn.step == self.step

@pytest.mark.parametrize('kind', HEADS)
def test_goes_on_to_the_same_bits(tmp_path, kind):
    "Interrupted within an epoch or at its end, through the file; with running means of normalisations, schedule and poses."
    start = lambda last: learner(kind, cbs=[one_cycle(1e-2), Augment('rotate'), last])
    whole = fitted(start(Callback()), epochs=2)
    for step in (3, 4):
        make_bundle(fitted(start(StopAt(step)), epochs=2)).save(tmp_path/f'{step}')
        part = load_bundle(tmp_path/f'{step}')
        assert not part.complete and part.training['step'] == step
        again = start(Callback())
        again.restore(part.training)
        assert same_state(fitted(again, epochs=2), whole) and again.history.rows == whole.history.rows

@pytest.mark.parametrize('kind', HEADS)
def test_a_quarter_turn_is_one_of_four_views(kind):
    "Columns and particles turn together, so that the mean over four views of a jet is that over four views of the same jet, turned."
    bundle, jets = make_bundle(fitted(learner(kind, cbs=[Augment('rotate')]))), some_jets(60, seed=2)
    turn = lambda phi: (phi + 1.5*pi) % (2*pi) - pi
    x = jets.objects['constituents'].x.copy()
    x[..., 2] = turn(x[..., 2])
    turned = replace(jets, x=jets.x | dict(jet_phi=turn(jets.x['jet_phi'])), objects=dict(constituents=Particles(x, jets.objects['constituents'].n)))
    change = {views: np.abs(bundle.predict(turned, views=views).score - bundle.predict(jets, views=views).score).max() for views in (1, 4)}
    assert change[4] < 1e-3 and change[1] > 0.05  # masses of pairs feel the rounding of a turn

# Outputs at particles

def test_outputs_at_particles(tmp_path):
    "Which particles have a neighbour within 0.1? The target of an event is a row of P numbers."
    def asked(jets):
        p = jets.objects['constituents']
        d = np.hypot(p.x[:, :, None, 1] - p.x[:, None, :, 1], (p.x[:, :, None, 2] - p.x[:, None, :, 2] + pi) % (2*pi) - pi)
        d[:, range(12), range(12)] = np.nan
        near = np.where(p.mask, (np.nan_to_num(d, nan=9.).min(-1) < 0.1), np.nan)
        return replace(jets, y=near, schema=replace(jets.schema, target=tuple(f'near_{i}' for i in range(12)), classes=None))
    old, new = asked(some_jets(600, seed=1)), asked(some_jets(200, seed=2))
    build = composed(recipe(fixed=True).layout, node='constituents', heads={'constituents': dict(kind='particle_net', widths=[[16, 16]], k=2, pool=None)}, body=dict(kind='plain', width=16, depth=1))
    loss = printed('at_particles', torch=torch, bce=bce, linked=linked)
    learn = Learner(Ensemble(build, 2), recipe(fixed=True), loss, scale=no_scale, cbs=[one_cycle(2e-2)])
    learn.fit(old, epochs=10, bs=25)
    there = np.isfinite(new.y)
    make_bundle(learn).save(tmp_path/'bundle')
    said = load_bundle(tmp_path/'bundle').predict(new).filter(regex='score_[0-9]').to_numpy()
    assert said.shape == new.y.shape and not said[~there].any()
    assert float(roc_auc(said[there], new.y[there])) > 0.9

# Blocks

TINY = [('columns', {}), ('deep_sets', dict(width=4, depth=1)), ('deep_sets', dict(width=4, depth=1, energy='cloud', columns=('deta', 'dphi'))), ('recurrent', dict(width=3, both=True)),
        ('convolutions', dict(widths=(4, 4), squeeze=2)), ('convolutions', dict(widths=(4, 4), kind='resnext', groups=2)), ('particle_net', dict(widths=((4,), (4,)), k=2)),
        ('interaction_net', dict(width=4, effects=3, outputs=4)), ('grav_net', dict(width=4, space=2, carried=3, k=2)),
        ('particle_transformer', dict(width=4, heads=2, depth=1, embed=(4,), pairs=(4,))), ('attention', dict(width=4, heads=2, depth=1)), ('offset_attention', dict(width=4, depth=1)),
        ('lorentz_boost', dict(systems=3)), ('lorentz_boost', dict(systems=3, extract=2, width=4))]
TINY += [(kind, settings | dict(pool=None)) for kind, settings in TINY if kind != 'lorentz_boost' and 'energy' not in settings]
ORDERED = ('recurrent', 'convolutions', 'lorentz_boost')

def test_every_block_is_here(): assert {kind for kind, _ in TINY} == set(blocks)

@pytest.mark.parametrize('kind, tiny', TINY, ids=[' '.join([kind, *(f'{k}={v}' for k, v in tiny.items() if k in ('energy', 'kind', 'extract', 'pool'))]) for kind, tiny in TINY])
def test_padding_order_and_company(kind, tiny):
    "None of them changes what a block says of an event, in double precision; order may where a block reads particles one after the other, company while it trains."
    P = 6
    with seeded(0, kind): net = stacked(blocks[kind](cloud_layout(P), **tiny)).double()
    def say(x, mask): return net(x[None], mask[None])[0].detach()
    same = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-7)

    @law(max_examples=20)
    @given(counts=st.lists(st.integers(0, P), min_size=1, max_size=5), more=st.integers(0, 3), junk=st.sampled_from([np.nan, 0., -1e9]), order=st.permutations(range(P)), seed=st.integers(0, 99), train=st.booleans())
    def check(counts, more, junk, order, seed, train):
        net.train(train)
        x, mask = clouds(len(counts), size=P, mean=99, seed=seed)[0].double(), torch.arange(P) < torch.tensor(counts)[:, None]
        out = say(x*mask[..., None], mask)
        nodes = out.shape[1:2] == (P,) and tiny.get('pool', 0) is None
        assert out.isfinite().all()
        dirty = torch.nn.functional.pad(torch.where(mask[..., None], x, junk), (0, 0, 0, more), value=junk)
        got = say(dirty, torch.nn.functional.pad(mask, (0, more)))
        same(got[:, :P] if nodes else got, out)
        assert not (nodes and got[:, P:].any())
        if kind not in ORDERED: same(say(dirty[:, order], mask[:, order]), out[:, order] if nodes else out)  # what is not there stands between
        if not train: same(say(x[-1:], mask[-1:]), out[-1:])
    check()

# Relativity

velocity = st.tuples(st.floats(0, 0.95), st.floats(-1, 1), st.floats(-pi, pi)).map(lambda v: v[0]*torch.tensor([(1 - v[1]**2)**0.5*np.cos(v[2]), (1 - v[1]**2)**0.5*np.sin(v[2]), v[1]], dtype=torch.float64))
particle = st.tuples(st.floats(0, 1000), st.floats(-3, 3), st.floats(-pi, pi), st.floats(0, 200))

@law(max_examples=100)
@given(particles=st.lists(particle, min_size=1, max_size=6), beta=velocity)
def test_mass_is_the_same_in_every_frame(particles, beta):
    "Of each particle and of all together; particles that are not there, zeros, add nothing."
    p = to_cartesian(*torch.tensor(particles, dtype=torch.float64).T)
    for a, b in ((p, boost(p, beta)), (p.sum(0), boost(torch.cat([p, 0*p]), beta).sum(0))):
        small = 1e-12*torch.maximum(a[..., 3], b[..., 3]).square()
        assert ((mass(a).square() - mass(b).square()).abs() <= small + 1e-12).all()

LORENTZ = [(dict(systems=4), 'turn'), (dict(systems=4, read=('m', 'pt', 'eta')), 'turn'), (dict(systems=4, read=('m',), angles=False), 'boost')]

@pytest.mark.parametrize('reads, move', LORENTZ)
def test_lorentz_network_sees_no_turn_and_masses_no_boost(reads, move):
    "Through head and body: made of what a turn about the beam leaves alone, the network does not see it; made of masses, it sees no boost either."
    layout = Layout((), {}, {}, {'cloud': cloud_layout()})
    x, mask, _ = clouds(20, mean=9)
    p = to_cartesian(*pt_eta_phi(x[..., 3:].double()))

    @law(max_examples=25)
    @given(u=st.floats(0, 1), beta=velocity, seed=st.integers(0, 99))
    def check(u, beta, seed):
        net = Ensemble(composed(layout, heads={'cloud': dict(kind='lorentz_boost', **reads)}, body=dict(kind='plain', width=4, depth=1)), 1, seed=seed).double()
        say = lambda x: net(dict(cloud=x[None], cloud_mask=mask[None]))[0].detach()
        here = torch.cat([x[..., :3].double(), p], -1)*mask[..., None]
        there = pose(here.clone(), ([3], [4], [5]), ['rotate'], torch.full((20, 1, 1), u)) if move == 'turn' else torch.cat([here[..., :3], boost(p, beta)], -1)*mask[..., None]
        torch.testing.assert_close(say(there), say(here), rtol=1e-5, atol=1e-5)
    check()

# A network of somebody else's

@pytest.mark.slow
def test_a_network_of_torch_geometric(tmp_path):
    "The one printed in the notebook trains, members together as alone, and is saved and read like ours."
    pytest.importorskip('torch_geometric')
    build, jets = partial(printed('Geometric'), recipe().layout), some_jets(900, seed=3)
    def made(members): return Learner(Ensemble(build, members), recipe(), bce, metrics=[roc_auc], cbs=[one_cycle(2e-2), Augment('rotate', 'flip_z')])
    many, one = made(3), made([1])
    many.fit(jets, epochs=4, bs=50)
    one.fit(jets, epochs=4, bs=50, folds=FoldPlan(3, (1,)))
    assert many.history.last('roc_auc').mean() > 0.8 and not many.ens.net.mapped
    torch.testing.assert_close(one.ens.rows[0], many.ens.rows[1], rtol=1e-3, atol=1e-3)
    bundle, new = make_bundle(many), some_jets(200, seed=4)
    bundle.save(tmp_path/'bundle')
    assert load_bundle(tmp_path/'bundle', model=build).predict(new, views=4).equals(bundle.predict(new, views=4))
