"The commands as users run them: what they write, what they read, and that one feeds the next."
import json
import os
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch

from hepdev.data.foldfile import FoldFile
from hepdev.data.sources import read_table
from hepdev.ensemble.predict import member_scores
from hepdev.evaluate.metrics import roc_auc
from hepdev.physics.simulate import simulate_higgs
from hepdev.ensemble.bundle import load_bundle
from shell import homes, inside, listing, refused, run

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

def test_one_event_and_several_pieces(place, tables, scores, monkeypatch):
    "A file of one event, and one that is read in pieces."
    pd.testing.assert_frame_equal(predicted(place, tables.iloc[[7]], 'one.csv'), scores.iloc[[7]].reset_index(drop=True), check_exact=False, atol=3e-6, rtol=0)
    monkeypatch.setattr('hepdev.data.sources.iter_table.__kwdefaults__', {'rows': 300})
    pd.testing.assert_frame_equal(predicted(place, tables, 'pieces.csv'), scores, check_exact=False, atol=3e-6, rtol=0)

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
    assert done.status == 0 and '--out' in done.out and '--overwrite' in done.out and len(done.out) > 400
