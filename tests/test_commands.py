"The commands as users run them: what they write, what they read, and that one feeds the next."
import json
import os
import re
import shutil
import time
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
import uproot

from hepdev.data.foldfile import FoldFile, write_foldfile
from hepdev.data.schema import Column, Events, Schema, event_hash
from hepdev.data.sources import read_table
from hepdev.ensemble.predict import member_scores
from hepdev.evaluate.metrics import roc_auc
from hepdev.physics.simulate import simulate_higgs
from hepdev.ensemble.bundle import load_bundle
from hepdev.scale.export import save_served
from hepdev.scale.job import Job, run_job
from hepdev.scale.tables import read_scores
from shell import homes, inside, listing, refused, run, start

FIGURES = ('roc', 'scores', 'ams', 'history', 'lr_range')
JOB = dict(network=dict(width=8, depth=2), members=3, epochs=3, bs=64)

def check_run(folder):
    "A finished run: the table, five figures with something in them, a complete bundle, and nothing else."
    assert sorted(p.name for p in folder.iterdir()) == sorted(['result.txt', 'bundle', *(f'{f}.png' for f in FIGURES)])
    for figure in FIGURES:
        image = matplotlib.image.imread(folder/f'{figure}.png')[..., :3]
        ink = (image < 0.9).any(-1)
        assert min(ink.shape) > 300 and 0.01 < ink.mean() < 0.8, figure
        assert len(np.unique((image*255).astype(int).reshape(-1, 3) @ (1 << 16, 1 << 8, 1))) > 20, figure
    bundle = load_bundle(folder/'bundle')
    assert bundle.complete
    return bundle

@pytest.fixture(scope='module')
def tables():
    "Events of the challenge, three sets in one file, in no order of the sets."
    return simulate_higgs(2000, seed=1, sets={'t': 0.6, 'b': 0.2, 'v': 0.2}).sample(frac=1, random_state=0).reset_index(drop=True)

@pytest.fixture(scope='module')
def place(tmp_path_factory, tables):
    "A folder with a table, a recipe, and what hepdev-higgs made of them."
    d = tmp_path_factory.mktemp('commands')
    tables.to_csv(d/'events.csv.gz', index=False)
    (d/'job.json').write_text(json.dumps(JOB))
    done = inside('hepdev-higgs', '--data', 'events.csv.gz', '--out', 'run', '--recipe', 'job.json', cwd=d)
    assert (done.status, done.err) == (0, ''), done.err
    (d/'printed.txt').write_text(done.out)
    return d

# hepdev-higgs

def test_higgs_on_its_own_events(tmp_path):
    "Without a file it simulates, and writes to hepdev-higgs-run."
    (tmp_path/'job.json').write_text(json.dumps(JOB))
    done = run('hepdev-higgs', '--events', 2000, '--recipe', 'job.json', cwd=tmp_path)
    assert (done.status, done.err) == (0, '') and 'simulating 2000 events' in done.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ['hepdev-higgs-run', 'job.json']
    check_run(tmp_path/'hepdev-higgs-run')
    assert (tmp_path/'hepdev-higgs-run'/'result.txt').read_text().strip() in done.out

@pytest.mark.slow
def test_bare_higgs(tmp_path):
    "No arguments at all: 50,000 events, the default recipe."
    done = run('hepdev-higgs', cwd=tmp_path)
    assert (done.status, done.err) == (0, '') and 'simulating 50000 events' in done.out
    assert len(check_run(tmp_path/'hepdev-higgs-run').ens) == 16

def test_higgs_on_a_file(place, tables):
    "Every line of the table: members on the fold that they left out, all out of fold, public and private; each number with its uncertainty."
    bundle, text = check_run(place/'run'), (place/'run'/'result.txt').read_text()
    train = tables[tables.KaggleSet == 't']
    assert len(bundle.ens) == 3 and len(bundle.trained_on) == len(train)
    for who in ('member 0', 'member 1', 'member 2'): assert re.search(rf'{who} +fold \d of the training set \(\d+\) +0\.\d+ ± 0\.\d+', text), who
    for who in (r'out of fold +training set \(1200\)', r'ensemble +public test set \(400\)', r'ensemble +private test set \(400\)'):
        assert re.search(rf'{who} +0\.\d+ ± 0\.\d+ +\d\.\d+ ± 0\.\d+', text), who
    for word in ('cut', 'background efficiency', 'training: ', 'prediction: '): assert word in text
    score = bundle.predict(train).score.to_numpy()
    shown = float(re.search(r'out of fold.*? (0\.\d+) ±', text)[1])
    assert float(roc_auc(score, (train.Label == 's').to_numpy(), train.KaggleWeight.to_numpy())) == pytest.approx(shown, abs=0.006)

def test_same_seed_same_bits_and_test_sets_are_never_fitted(place, tables, tmp_path):
    "Other events in b and v, and another place in the file for t: the same networks and the same out-of-fold line."
    other = simulate_higgs(900, seed=2).assign(EventId=lambda df: df.EventId + 10**6, KaggleSet=lambda df: np.where(df.EventId % 3 == 0, 'b', 'v'))
    pd.concat([other, tables[tables.KaggleSet == 't']]).to_csv(tmp_path/'events.csv', index=False)
    done = inside('hepdev-higgs', '--data', 'events.csv', '--out', 'run', '--recipe', place/'job.json', cwd=tmp_path)
    assert (done.status, done.err) == (0, ''), done.err
    bundles, texts = ([f(d/'run') for d in (place, tmp_path)] for f in (lambda d: load_bundle(d/'bundle'), lambda d: (d/'result.txt').read_text()))
    assert torch.equal(bundles[0].ens.rows, bundles[1].ens.rows)
    for line in ('out of fold.*', 'cut: .*'): assert re.search(line, texts[0])[0].split() == re.search(line, texts[1])[0].split()

PARTS = dict(a_few_of_b=lambda t, b: pd.concat([t, b[b.Label == 'b'][:3]]), one_signal_of_b=lambda t, b: pd.concat([t, b[b.Label == 'b'][:5], b[b.Label == 's'][:1]]),
             a_hundred_of_t=lambda t, b: t[200:300])

@pytest.mark.parametrize('part', PARTS)
def test_any_part_of_the_file(tables, tmp_path, part):
    "The first lines of the file, wherever they end: a set of which too little is there to say anything does not cost the training."
    t, b = (tables[tables.KaggleSet == k] for k in 'tb')
    PARTS[part](t, b).to_csv(tmp_path/'part.csv', index=False)
    (tmp_path/'job.json').write_text(json.dumps(JOB))
    done = inside('hepdev-higgs', '--data', 'part.csv', '--out', 'run', '--recipe', 'job.json', cwd=tmp_path)
    assert done.status == 0, done.err
    check_run(tmp_path/'run')
    assert re.search(r'out of fold.* 0\.\d+ ± 0\.\d+ +\d\.\d+ ± \d\.\d+', (tmp_path/'run'/'result.txt').read_text())

def test_weight_zero_is_absence_through_the_whole_job(tables, tmp_path):
    "Learning-rate test, folds, recipe, training, validation, cut, bootstrap: events of weight 0 leave no trace but in the number of events."
    (tmp_path/'job.json').write_text(json.dumps(JOB))
    t, lines = tables[tables.KaggleSet == 't'].reset_index(drop=True), []
    zero = t.assign(KaggleWeight=t.KaggleWeight.where(t.index % 3 > 0, 0.))
    for name, df in (('zero', zero), ('absent', zero[zero.KaggleWeight > 0])):
        df.to_csv(tmp_path/f'{name}.csv', index=False)
        done = inside('hepdev-higgs', '--data', f'{name}.csv', '--out', name, '--recipe', 'job.json', cwd=tmp_path)
        assert (done.status, done.err) == (0, ''), done.err
        text = (tmp_path/name/'result.txt').read_text()
        lines.append(re.findall(r'^ *(?:member \d|out of fold|cut:).*', text, re.M))
    assert len(lines[0]) == 5
    for a, b in zip(*lines): assert re.sub(r'\(\d+\)| +', ' ', a).split() == re.sub(r'\(\d+\)| +', ' ', b).split()

def test_higgs_on_real_events(tmp_path):
    "The first 3,000 events of the challenge: all of set t, so no test sets; and predictions from the bundle."
    data = os.environ.get('HEPDEV_DATA')
    if not data: pytest.skip('HEPDEV_DATA names no folder with the real events')
    real = Path(data)/'higgsml'/'atlas-higgs-2014-first16000.csv.gz'
    read_table(real).iloc[:3000].to_parquet(tmp_path/'first.parquet')
    (tmp_path/'job.json').write_text(json.dumps(JOB))
    done = inside('hepdev-higgs', '--data', 'first.parquet', '--out', 'run', '--recipe', 'job.json', cwd=tmp_path)
    assert (done.status, done.err) == (0, '')
    check_run(tmp_path/'run')
    text = (tmp_path/'run'/'result.txt').read_text()
    assert 'ensemble' not in text and float(re.search(r'out of fold.*?\(3000\) +(0\.\d+) ±', text)[1]) > 0.8
    read_table(real).iloc[2900:3100].drop(columns=['Label', 'Weight', 'KaggleWeight', 'KaggleSet']).to_csv(tmp_path/'more.csv', index=False)
    done = inside('hepdev-predict', 'run/bundle', '--data', 'more.csv', '--out', 'scores.csv', cwd=tmp_path)
    assert (done.status, done.err) == (0, '')
    assert pd.read_csv(tmp_path/'scores.csv').n_members.tolist() == [1]*100 + [3]*100

# hepdev-predict

@pytest.fixture(scope='module')
def scores(place):
    "Scores of all events of the table, by the installed command."
    done = run('hepdev-predict', 'run/bundle', '--data', 'events.csv.gz', '--out', 'scores.csv', cwd=place)
    assert (done.status, done.err) == (0, '') and '2000 events, 1200 of them scored out of fold' in done.out
    return pd.read_csv(place/'scores.csv')

def predicted(place, df, name, *more):
    "Scores of a table, written by its ending, by the command."
    df.to_parquet(place/name) if name.endswith('parquet') else df.to_csv(place/name, index=False)
    done = inside('hepdev-predict', 'run/bundle', '--data', name, '--out', f'{name}.scores.csv', *more, '--overwrite', cwd=place)
    assert (done.status, done.err) == (0, ''), done.err
    return pd.read_csv(place/f'{name}.scores.csv')

def test_scores_of_a_file(place, tables, scores):
    "Ids and scores in the order of the file. Events that were trained on: one member, the one that left their fold out, and no spread."
    assert list(scores) == ['EventId', 'score', 'score_std', 'n_members']
    assert scores.EventId.tolist() == tables.EventId.tolist()
    known = tables.KaggleSet == 't'
    assert (scores.n_members == np.where(known, 1, 3)).all()
    assert scores.score_std[known].isna().all() and (scores.score_std[~known] > 0).all() and scores.score.between(0, 1).all()
    bundle = load_bundle(place/'run'/'bundle')
    events = bundle.recipe.schema.parse(tables, target=False)
    by_member, fold = member_scores(bundle.ens, bundle.recipe, events, transforms=bundle.transforms, views=8), events.folds(3)
    want = np.where(known, by_member[fold, np.arange(2000)], by_member.mean(0))
    np.testing.assert_allclose(scores.score, want, atol=2e-6)
    np.testing.assert_allclose(scores.score_std[~known], by_member.std(0, ddof=1)[~known], atol=2e-6)

@pytest.mark.parametrize('name', ['other.csv', 'other.csv.gz', 'other.parquet'])
def test_columns_in_any_order_and_others_between(place, tables, scores, name):
    "Shuffled columns, unknown ones among them, no label and no weight, rows in another order: the same scores."
    rng = np.random.default_rng(3)
    df = tables.drop(columns=['Label', 'Weight', 'KaggleWeight', 'KaggleSet', 'Process']).assign(run=7, comment='none').sample(frac=1, random_state=4)
    found = predicted(place, df.iloc[:, rng.permutation(df.shape[1])], name)
    assert found.EventId.tolist() == df.EventId.tolist()
    pd.testing.assert_frame_equal(found, scores.iloc[df.index].reset_index(drop=True), check_exact=False, atol=3e-6, rtol=0)

def test_one_event_and_several_pieces(place, tables, scores):
    "A file of one event, and one that is read in pieces."
    pd.testing.assert_frame_equal(predicted(place, tables.iloc[[7]], 'one.csv'), scores.iloc[[7]].reset_index(drop=True), check_exact=False, atol=3e-6, rtol=0)
    pd.testing.assert_frame_equal(predicted(place, tables, 'pieces.csv', '--rows', 300), scores, check_exact=False, atol=3e-6, rtol=0)

def test_compressed_scores(place, tables, scores):
    done = inside('hepdev-predict', 'run/bundle', '--data', 'events.csv.gz', '--out', 'scores.csv.gz', cwd=place)
    assert done.status == 0
    pd.testing.assert_frame_equal(pd.read_csv(place/'scores.csv.gz'), scores)

@pytest.mark.parametrize('name', ['less.csv', 'less.parquet'])
def test_missing_column(place, tables, name):
    "Named, with the nearest; nothing is written."
    df = tables.rename(columns={'PRI_lep_eta': 'PRI_lep_Eta'})
    df.to_parquet(place/name) if name.endswith('parquet') else df.to_csv(place/name, index=False)
    refused('hepdev-predict', 'run/bundle', '--data', name, '--out', 'less_scores.csv', cwd=place, says=["'PRI_lep_eta'", "Nearest: 'PRI_lep_Eta'", name])

@pytest.fixture(scope='module')
def trees(place, tables):
    "The events as two ROOT files, the words left out; each has the tree that is meant and a larger one."
    numbers = tables.select_dtypes('number')
    for name, rows in (('a', slice(0, 900)), ('b', slice(900, 2000))):
        with uproot.recreate(place/f'tree_{name}.root') as f:
            for tree, columns in (('nominal', numbers[rows]), ('other', pd.DataFrame(dict(x=np.zeros(5000))))):
                f.mktree(tree, dict(columns.dtypes)).extend({n: c.to_numpy() for n, c in columns.items()})
    return place

def same(found, scores):
    "The same ids and scores in the same order, whatever holds them."
    assert list(found) == list(scores) and found.EventId.tolist() == scores.EventId.tolist() and found.n_members.tolist() == scores.n_members.tolist()
    for n in ('score', 'score_std'): np.testing.assert_allclose(found[n], scores[n], atol=3e-6, rtol=0)

@pytest.mark.parametrize('ending', ['root', 'parquet', 'h5', 'csv.gz'])
def test_every_format(trees, scores, ending):
    "Two trees in, one table out, in each format, without changing the input; the same as from CSV to CSV."
    before = {p.name: p.read_bytes() for p in trees.glob('tree_?.root')}
    done = inside('hepdev-predict', 'run/bundle', '--data', 'tree_?.root', '--tree', 'nominal', '--out', f'all.{ending}', '--rows', 400, cwd=trees)
    assert (done.status, done.err) == (0, ''), done.err
    assert '2000 events, 1200 of them scored out of fold' in done.out and '900 rows of tree_a.root' in done.out and '1100 rows of tree_b.root' in done.out
    same(read_scores(trees/f'all.{ending}'), scores)
    assert {p.name: p.read_bytes() for p in trees.glob('tree_?.root')} == before and not [*trees.glob('.*')]

def test_friend_tree(trees, tables):
    "As many entries as the original, which is read beside it; a tree without entries has a friend without entries."
    with uproot.recreate(trees/'none.root') as f: f.mktree('nominal', dict(tables.select_dtypes('number').dtypes))
    for name, tree in (('tree_b', 'tree_b.root:nominal'), ('none', 'none.root')):
        assert inside('hepdev-predict', 'run/bundle', '--data', tree, '--out', f'{name}.scores.root', cwd=trees).status == 0
        with uproot.open({trees/f'{name}.root': 'nominal'}) as original, uproot.open({trees/f'{name}.scores.root': 'scores'}) as friend:
            assert friend.num_entries == original.num_entries and friend.keys() == ['EventId', 'score', 'score_std', 'n_members']
            assert friend['EventId'].array(library='np').tolist() == original['EventId'].array(library='np').tolist()
    with uproot.open(trees/'tree_b.scores.root') as f: assert json.loads(str(f['about']))['files'] == [['tree_b.root:nominal', 1100]]

def test_several_bundles(place, scores):
    "A prefix for each, and for each its own count of events that it was trained on."
    run_job(Job(network=dict(width=6, depth=1), members=2, epochs=1, bs=64), load_bundle(place/'run'/'bundle').recipe.schema.parse(read_table(place/'events.csv.gz')), place/'all')
    done = inside('hepdev-predict', 'old=run/bundle,all', '--data', 'events.csv.gz', '--out', 'several.parquet', cwd=place)
    assert (done.status, done.err) == (0, '') and '1200 of them scored out of fold because they were in the training of old' in done.out and '2000 of them' in done.out
    found = read_scores(place/'several.parquet')
    assert list(found) == ['EventId', 'old_score', 'old_score_std', 'old_n_members', 'all_score', 'all_score_std', 'all_n_members'] and (found.all_n_members == 1).all()
    same(found[['EventId', 'old_score', 'old_score_std', 'old_n_members']].rename(columns=lambda n: n.removeprefix('old_')), scores)

def scored_before_the_end(place, out, pieces):
    "The command as a process that is killed, as a machine loses power, once it has kept some pieces."
    process = start('hepdev-predict', 'run/bundle', '--data', 'tree_?.root', '--tree', 'nominal', '--out', out, '--rows', 50, '--views', 32, cwd=place)
    kept = lambda: [*(place/f'.{out}.pieces').glob('[0-9a-f]*.npz')]
    while len(kept()) < pieces and process.poll() is None: time.sleep(0.005)
    process.kill()
    process.wait()
    return kept()

@pytest.mark.parametrize('ending', ['csv.gz', pytest.param('root', marks=pytest.mark.slow)])
def test_killed_and_resumed(trees, ending):
    "What was scored stays and is not scored again; the end is that of an undisturbed run, and nothing else is left."
    command = ('hepdev-predict', 'run/bundle', '--data', 'tree_?.root', '--tree', 'nominal', '--rows', 50, '--views', 32)
    kept = scored_before_the_end(trees, f'killed.{ending}', 5)
    assert 5 <= len(kept) < 40 and not (trees/f'killed.{ending}').exists()
    (trees/f'.killed.{ending}.pieces'/'thesis.tex').touch()
    assert inside(*command, '--out', f'killed.{ending}', '--resume', cwd=trees).status == 0
    assert inside(*command, '--out', f'whole.{ending}', cwd=trees).status == 0
    pd.testing.assert_frame_equal(read_scores(trees/f'killed.{ending}'), read_scores(trees/f'whole.{ending}'), check_exact=True)
    if ending != 'root': assert (trees/f'killed.{ending}').read_bytes() == (trees/f'whole.{ending}').read_bytes()
    assert [p.name for p in trees.glob('.*')] == [f'.killed.{ending}.pieces']
    (trees/f'.killed.{ending}.pieces'/'thesis.tex').unlink()
    (trees/f'.killed.{ending}.pieces').rmdir()

def test_onnx(trees, scores):
    "An export, inside the bundle or alone: the same table as with torch; where it is missing, said."
    save_served(load_bundle(trees/'run'/'bundle'), trees/'export')
    for i, args in enumerate((['export'], ['run/bundle', '--backend', 'onnx'])):
        if i: (trees/'export').rename(trees/'run'/'bundle'/'served')
        done = inside('hepdev-predict', *args, '--data', 'tree_?.root', '--tree', 'nominal', '--out', f'onnx{i}.root', cwd=trees)
        assert (done.status, done.err) == (0, '') and '1200 of them scored out of fold' in done.out
        found = read_scores(trees/f'onnx{i}.root')
        assert list(found) == list(scores) and found.n_members.tolist() == scores.n_members.tolist()
        for n in ('score', 'score_std'): np.testing.assert_allclose(found[n], scores[n], atol=1e-5, rtol=0)
    refused('hepdev-predict', 'run/bundle/served', '--backend', 'torch', '--data', 'tree_a.root:nominal', '--out', 's.root', cwd=trees, says=['run/bundle/served'])
    refused('hepdev-predict', 'run/bundle/served', '--device', 'cuda', '--data', 'tree_a.root:nominal', '--out', 's.root', cwd=trees, says=['--device cuda'])
    shutil.rmtree(trees/'run'/'bundle'/'served')

@pytest.mark.slow
def test_memory_of_a_long_file(tmp_path):
    "Twenty million events of thirty columns, one view: never more than 1.5 GB, of which half a GB is torch's."
    names, rows = [f'x{i}' for i in range(30)], 20_000_000
    schema = Schema(tuple(map(Column, names)), target='label', classes={0: 0, 1: 1}, event_id='event')
    def pieces(n, first, size=250_000):
        for start in range(first, first + n, size):
            rng, ids = np.random.default_rng(start), np.arange(start, start + min(size, first + n - start))
            x = {m: rng.standard_normal(len(ids), dtype=np.float32) for m in names}
            yield Events(schema, x | {'event': ids}, (x['x0'] > 0).astype(np.int64), None, event_hash({'event': ids}))
    run_job(Job(steps=(('Scaled', {}),), network=dict(width=33, depth=3), members=10, epochs=1), next(pieces(4000, 0)), tmp_path/'bundle')
    write_foldfile(tmp_path/'long.h5', pieces(rows, 10**6))
    process = start('hepdev-predict', 'bundle', '--data', 'long.h5', '--out', 'scores.root', '--views', 1, cwd=tmp_path)
    _, status, used = os.wait4(process.pid, 0)
    with uproot.open(tmp_path/'scores.root') as f: assert f['scores'].num_entries == rows
    print(f'{used.ru_maxrss/1e6:.2f} GB, {used.ru_utime + used.ru_stime:.0f} s')
    assert status == 0 and used.ru_maxrss < 1.5e6

# Real trees: https://github.com/scikit-hep/scikit-hep-testdata

TREES = {
    'uproot-HZZ.root': """
select: NJet >= 2 and triggerIsoMu24
columns:
  mjj: sqrt((nth(Jet_E, 0) + nth(Jet_E, 1))**2 - (nth(Jet_Px, 0) + nth(Jet_Px, 1))**2 - (nth(Jet_Py, 0) + nth(Jet_Py, 1))**2 - (nth(Jet_Pz, 0) + nth(Jet_Pz, 1))**2)
  met: hypot(MET_px, MET_py)
  btag: max(Jet_btag)
derived: {top: btag > 2}
target: top
weight: EventWeight""",
    'uproot-Zmumu.root': """
columns: {pt1: , eta1: , phi1: {unit: rad}, pt2: , eta2: , opening: 'delta_r(eta1, phi1, eta2, phi2)', Q1: {kind: categorical, categories: [-1, 1]}}
derived: {heavy: M > 85}
vectors: {mu: {pt: pt1, eta: eta1, phi: phi1}}
target: heavy
event_id: [Run, Event]
sample: Type""",
    'nanoAOD_2015_CMS_Open_Data_ttbar.root': """
select: nJet >= 1
columns: {jet_pt: first(Jet_pt), jet_eta: first(Jet_eta), MET_pt: , muons: {kind: categorical, categories: [0, 1, 2, 3, 4, 5]}}
derived: {muons: count(Muon_pt), busy: nJet > 4}
target: busy
event_id: [run, luminosityBlock, event]"""}

@pytest.mark.parametrize('name', TREES)
def test_real_trees(tmp_path, name):
    "Folded with selection and derived columns, trained on, and the bundle applied to the tree as it is: a row for each entry, scores as from the fold file, out of fold for each event that was selected."
    data = os.environ.get('HEPDEV_DATA')
    if not data: pytest.skip('HEPDEV_DATA names no folder with the real events')
    (tmp_path/name).symlink_to(Path(data)/'root'/name)
    (tmp_path/'events.yaml').write_text(TREES[name] + '\nclasses: {false: 0, true: 1}\n')
    (tmp_path/'job.json').write_text(json.dumps(JOB | dict(negative='keep')))
    for args in (['hepdev-fold', name, '--conversion', 'events.yaml', '--out', 'events.h5'], ['hepdev-train', 'events.h5', '--out', 'bundle', '--recipe', 'job.json'],
                 ['hepdev-predict', 'bundle', '--data', name, '--out', 'friend.root', '--rows', 150], ['hepdev-predict', 'bundle', '--data', 'events.h5', '--out', 'fold.h5']):
        done = inside(*args, cwd=tmp_path)
        assert done.status == 0, done.err
    friend, fold = read_scores(tmp_path/'friend.root'), read_scores(tmp_path/'fold.h5')
    with uproot.open(tmp_path/name) as f: entries = max(t.num_entries for t in f.values(filter_classname='TTree'))
    assert len(friend) == entries and len(fold) <= entries and (fold.n_members == 1).all()
    trained = friend[friend.n_members == 1]
    assert len(trained) == len(fold) and set(friend.n_members) <= {0, 1, 3} and friend.score.isna().equals(friend.n_members == 0)
    np.testing.assert_allclose(trained.score, fold.score, atol=3e-6)
    for n in set(fold) - {'score', 'score_std', 'n_members'}: assert trained[n].tolist() == fold[n].tolist()

PREDICT = dict(
    ending=(['--data', 'events.csv.gz', '--out', 'scores.txt'], ['scores.txt', '.root, .parquet']), nothing=(['--data', 'nowhere*.root', '--out', 's.root'], ['nowhere*.root']),
    tree=(['--data', 'tree_a.root', '--tree', 'nominla', '--out', 's.root'], ["'nominla'", "Nearest: 'nominal'"]), largest=(['--data', 'tree_a.root', '--out', 's.root'], ["'DER_mass_MMC'", 'tree_a.root:other']),
    backend=(['--data', 'events.csv.gz', '--out', 's.csv', '--backend', 'onxx'], ["Nearest: 'onnx'"]), no_export=(['--data', 'events.csv.gz', '--out', 's.csv', '--backend', 'onnx'], ['run/bundle has no export']),
    rows=(['--data', 'events.csv.gz', '--out', 's.csv', '--rows', 0], ['--rows 0']), damaged=(['--data', 'damaged.root', '--out', 's.root'], ['damaged.root']),
    later=(['--data', 'tree_a.root:nominal,damaged.root', '--out', 's.root'], ['damaged.root']), one_lacks=(['--data', 'events.csv.gz,less.csv', '--out', 's.parquet'], ["'PRI_lep_eta'", 'less.csv']),
    jagged=(['--data', 'lists.parquet', '--out', 's.csv'], ["'PRI_met'", 'lists.parquet', 'one value']), exists=(['--data', 'events.csv.gz', '--out', 'events.csv.gz'], ['exists']))

@pytest.mark.parametrize('name', PREDICT)
def test_bad_prediction(trees, tables, name):
    "Named before anything is scored; nothing is written."
    (trees/'damaged.root').write_bytes((trees/'tree_a.root').read_bytes()[:5000])
    tables[:5].drop(columns='PRI_lep_eta').to_csv(trees/'less.csv', index=False)
    tables[:5].assign(PRI_met=[[1., 2.]]*5).to_parquet(trees/'lists.parquet')
    args, says = PREDICT[name]
    refused('hepdev-predict', 'run/bundle', *args, cwd=trees, says=says)

def test_events_without_id(place, tables, scores):
    "Scored by all, with a warning, since nobody can tell whether they were trained on."
    tables.drop(columns='EventId').to_csv(place/'noid.csv', index=False)
    done = inside('hepdev-predict', 'run/bundle', '--data', 'noid.csv', '--out', 'noid_scores.csv', cwd=place)
    found = pd.read_csv(place/'noid_scores.csv')
    assert done.status == 0 and "lacks 'EventId'" in done.err and done.err.count('\n') == 1
    assert (found.n_members == 3).all() and len(found) == 2000
    new = (tables.KaggleSet != 't').to_numpy()
    np.testing.assert_allclose(found.score[new], scores.score[new], atol=3e-6)

def test_bundle_is_all_that_prediction_needs(place, tables, scores, tmp_path):
    "Moved to another folder and read only, without the data that it was made from."
    (place/'run'/'bundle').rename(tmp_path/'moved')
    try:
        for p in (tmp_path/'moved').iterdir(): p.chmod(0o444)
        (tmp_path/'moved').chmod(0o555)
        tables.to_csv(tmp_path/'e.csv', index=False)
        before = listing(tmp_path/'moved')
        done = inside('hepdev-predict', 'moved', '--data', 'e.csv', '--out', 's.csv', cwd=tmp_path)
        assert (done.status, done.err) == (0, '') and listing(tmp_path/'moved') == before
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path/'s.csv'), scores)
    finally:
        (tmp_path/'moved').chmod(0o755)
        (tmp_path/'moved').rename(place/'run'/'bundle')

# hepdev-fold, hepdev-train, hepdev-predict

def test_chain(tmp_path, tables):
    "Two tables into a fold file, a training from it, scores of a table and of a fold file."
    df = tables.drop(columns=['KaggleSet', 'KaggleWeight', 'Process'])
    train, new = df[:1500], df[1500:]
    train[:800].to_csv(tmp_path/'a.csv', index=False)
    train[800:].to_parquet(tmp_path/'b.parquet')
    new.drop(columns=['Label', 'Weight']).to_csv(tmp_path/'new.csv.gz', index=False)
    (tmp_path/'job.json').write_text(json.dumps(JOB))
    def ok(*args):
        done = run(*args, cwd=tmp_path)
        assert (done.status, done.err) == (0, ''), done.err
        return done.out
    out = ok('hepdev-fold', 'a.csv', 'b.parquet', '--out', 'train.h5', '--label', 'Label', '--weight', 'Weight', '--id', 'EventId', '--missing', '-999')
    assert '1500 events' in out and "'b': 0, 's': 1" in out
    with FoldFile(tmp_path/'train.h5') as f:
        back = f.df()[list(train)]
        pd.testing.assert_frame_equal(back, train.reset_index(drop=True), check_dtype=False, rtol=1e-5)
    assert '3 members' in ok('hepdev-train', 'train.h5', '--out', 'bundle', '--recipe', 'job.json')
    assert 'new.csv: 500 events, 0 of them' in ok('hepdev-predict', 'bundle', '--data', 'new.csv.gz', '--out', 'new.csv')
    for args in (['hepdev-fold', 'new.csv.gz', '--like', 'train.h5', '--out', 'new.h5'], ['hepdev-predict', 'bundle', '--data', 'new.h5', '--out', 'again.csv'],
                 ['hepdev-predict', 'bundle', '--data', 'train.h5', '--out', 'train.csv']):
        done = inside(*args, cwd=tmp_path)
        assert (done.status, done.err) == (0, ''), done.err
    found, again, seen = (pd.read_csv(tmp_path/f'{n}.csv') for n in ('new', 'again', 'train'))
    pd.testing.assert_frame_equal(found, again, check_exact=False, atol=3e-6, rtol=0)
    assert found.EventId.tolist() == new.EventId.tolist() and (found.n_members == 3).all() and (seen.n_members == 1).all()
    for table, s in ((new, found), (train, seen)): assert roc_auc(s.score.to_numpy(), (table.Label == 's').to_numpy(), table.Weight.to_numpy()) > 0.7

def test_settings_on_the_command_line_go_before_the_recipe(tmp_path, tables):
    (tmp_path/'job.json').write_text(json.dumps(JOB))
    tables[:400].drop(columns='KaggleWeight').to_csv(tmp_path/'a.csv', index=False)
    inside('hepdev-fold', 'a.csv', '--out', 'a.h5', '--label', 'Label', '--weight', 'Weight', '--id', 'EventId', '--missing', '-999', '--spectators', 'Process,KaggleSet', cwd=tmp_path)
    done = inside('hepdev-train', 'a.h5', '--out', 'b', '--recipe', 'job.json', '--members', 2, '--epochs', 1.5, '--seed', 4, cwd=tmp_path)
    assert (done.status, done.err) == (0, '')
    bundle = load_bundle(tmp_path/'b')
    job = bundle.notes['job']
    assert (len(bundle.ens), bundle.plan.left_out, bundle.ens.seed) == (2, (0, 1), 4)
    assert (job['members'], job['epochs'], job['seed'], job['bs'], job['network']) == (2, 1.5, 4, 64, JOB['network'])

@pytest.mark.parametrize('name', homes)
def test_help(name, tmp_path):
    "Every command explains itself and each of its options, and exits well."
    done = inside(name, '--help', cwd=tmp_path)
    assert done.status == 0 and len(done.out) > 400
    for option in ['--parts'] if name == 'hepdev-verify' else ['--out', '--overwrite']: assert option in done.out
