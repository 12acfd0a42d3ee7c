"Bad input, each with an error that says what, where and what to do, status 1, and nothing half-written."
import json
import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from hepdev.core import DataError, FileError, HepdevError
from hepdev.data.foldfile import FoldFile, write_foldfile
from hepdev.data.higgsml import higgs_schema
from hepdev.data.toy import toy_events
from hepdev.physics.simulate import simulate_higgs
from hepdev.ensemble.bundle import BUNDLE, load_bundle
from hepdev.scale.job import Job, run_job
from shell import inside, listing, refused

JOB = dict(network=dict(width=6, depth=2), members=3, epochs=1, bs=64)

@cache
def good():
    "Events of the challenge, its sets mixed."
    return simulate_higgs(400, seed=5, sets={'t': 0.75, 'v': 0.25}).sample(frac=1, random_state=1).reset_index(drop=True)

@pytest.fixture
def place(tmp_path):
    "A folder with a recipe, as all commands here use it."
    (tmp_path/'job.json').write_text(json.dumps(JOB))
    return tmp_path

def with_value(column, value, rows):
    df = good().astype({column: object}) if isinstance(value, str) else good().copy()
    df.loc[rows, column] = value
    return df

train_rows = np.flatnonzero(good().KaggleSet == 't')[[40, 90]].tolist()
where = f'2 rows (first: {train_rows[0]}, {train_rows[1]})'   # of the file, whatever the sets

# Tables, refused by hepdev-higgs: what was done to the table, and what the message must say

TABLES = dict(
    missing_column=(lambda df: df.drop(columns='PRI_tau_pt'), ["'PRI_tau_pt'", 'Nearest']),
    misspelt_column=(lambda df: df.rename(columns={'PRI_tau_pt': 'PRI_tua_pt'}), ["'PRI_tau_pt'", "Nearest: 'PRI_tua_pt'"]),
    missing_label=(lambda df: df.drop(columns='Label'), ["'Label'"]),
    misspelt_weight=(lambda df: df.drop(columns='Weight').rename(columns={'KaggleWeight': 'weight'}), ["'Weight'", "'weight'"]),
    label_neither=(lambda df: with_value('Label', 'x', train_rows), ["'Label'", "'x'", "'b', 's'", where]),
    label_empty=(lambda df: with_value('Label', None, train_rows), ["'Label'", "'b', 's'", where]),
    nan=(lambda df: with_value('PRI_met', np.nan, train_rows), ["'PRI_met'", 'nan', where]),
    inf=(lambda df: with_value('PRI_met', np.inf, train_rows), ["'PRI_met'", 'inf', where]),
    minus_inf_beside_missing=(lambda df: with_value('PRI_jet_leading_pt', -np.inf, train_rows), ["'PRI_jet_leading_pt'", '-inf', where]),
    words=(lambda df: with_value('PRI_met', 'n/a?', train_rows), ["'PRI_met'", "'n/a?'", where]),
    jets=(lambda df: with_value('PRI_jet_num', 5, train_rows), ["'PRI_jet_num'", '0, 1, 2, 3', where]),
    weight_nan=(lambda df: with_value('KaggleWeight', np.nan, train_rows), ["'KaggleWeight'", where]),
    no_id=(lambda df: with_value('EventId', np.nan, train_rows), ["'EventId'", where]),
    weights_zero=(lambda df: df.assign(KaggleWeight=0.), ['eight', 'background']),
    weights_of_signal_zero=(lambda df: df.assign(KaggleWeight=df.KaggleWeight*(df.Label == 'b')), ['eight', 'signal']),
    negative_weights=(lambda df: with_value('KaggleWeight', -0.1, train_rows), ['negative', "'keep', 'clip' or 'pair'"]),
    header_only=(lambda df: df[:0], ['bad.csv', 'no events']),
    fewer_events_than_folds=(lambda df: pd.concat([df[(df.KaggleSet == 't') & (df.Label == l)][:1] for l in 'sb']), ['2 events', '3 folds']),
    one_class=(lambda df: df[df.Label == 's'], ['one class', 'background']),
    nothing_to_train_on=(lambda df: df[df.KaggleSet == 'v'], ["'t'", "'v'"]),
    unknown_set=(lambda df: with_value('KaggleSet', 'x', train_rows), ['KaggleSet', "'x'"]))

@pytest.mark.parametrize('name', TABLES)
def test_bad_table(place, name):
    change, says = TABLES[name]
    change(good()).to_csv(place/'bad.csv', index=False)
    refused('hepdev-higgs', '--data', 'bad.csv', '--out', 'run', '--recipe', 'job.json', cwd=place, says=says)

@pytest.mark.parametrize('name, data, says', [
    ('bad.csv', b'', 'is empty'), ('bad.csv.gz', b'', 'is empty'), ('bad.parquet', b'', 'is empty'), ('bad.parquet', b'PAR1', 'cut short'),
    ('bad.csv', b'\x00\xff\xfe\x00'*50, 'bad.csv'), ('bad.csv.gz', b'EventId,Label\n1,s\n', 'no gzip file'), ('bad.xlsx', b'PK', 'none of the endings')])
def test_file_that_is_no_table(place, name, data, says):
    (place/name).write_bytes(data)
    refused('hepdev-higgs', '--data', name, '--out', 'run', '--recipe', 'job.json', cwd=place, says=[name, says])
    refused('hepdev-fold', name, '--out', 'new.h5', cwd=place, says=[name, says])

@pytest.mark.parametrize('part', [0.02, 0.5, 0.999])
@pytest.mark.parametrize('name', ['bad.csv.gz', 'bad.parquet'])
def test_truncated_file(place, name, part):
    "A download that stopped: at its beginning, half way, at its last bytes."
    good().to_parquet(place/name) if name.endswith('parquet') else good().to_csv(place/name, index=False)
    (place/name).write_bytes((place/name).read_bytes()[:int(part*(place/name).stat().st_size)])
    refused('hepdev-higgs', '--data', name, '--out', 'run', '--recipe', 'job.json', cwd=place, says=[name, 'cut short'])

def test_misspelt_file(place):
    good().to_csv(place/'events.csv', index=False)
    refused('hepdev-higgs', '--data', 'event.csv', '--out', 'run', cwd=place, says=["'event.csv'", "Nearest: 'events.csv'"])

@pytest.mark.parametrize('policy', ['keep', 'clip', 'pair'])
def test_negative_weights_with_a_policy(place, policy):
    "What is refused without a policy runs to its end with one."
    with_value('KaggleWeight', -0.1, train_rows).to_csv(place/'events.csv', index=False)
    (place/'job.json').write_text(json.dumps({**JOB, 'negative': policy}))
    done = inside('hepdev-higgs', '--data', 'events.csv', '--out', 'run', '--recipe', 'job.json', cwd=place)
    assert done.status == 0 and load_bundle(place/'run'/'bundle').complete, done.err

# Settings that cannot be

SETTINGS = dict(
    no_members=(['--members', 0], None, ['members']), negative_members=(['--members', -2], None, ['members']),
    no_epochs=(['--epochs', 0], None, ['epochs']), negative_epochs=(['--epochs', -1], None, ['epochs']), nan_epochs=(['--epochs', 'nan'], None, ['epochs']),
    unknown_device=(['--device', 'cuba'], None, ['cuba']), unknown_recipe=(['--recipe', 'strong2002'], None, ["Nearest: 'strong2020'"]),
    no_recipe_file=(['--recipe', 'nowhere.json'], None, ['nowhere.json']),
    recipe_no_json=([], '{', ['job.json', 'JSON']), recipe_no_dict=([], '[1]', ['job']), setting=([], '{"epoch": 3}', ["Nearest: 'epochs'"]),
    kind_of_setting=([], '{"epochs": "ten"}', ['epochs', 'ten']), batch=([], '{"bs": 0}', ['bs']),
    step=([], '{"steps": [["Imputd", {}]]}', ["Nearest: 'Imputed'"]), setting_of_step=([], '{"steps": [["Imputed", {"rul": "mean"}]]}', ['rul']),
    setting_of_network=([], '{"network": {"widht": 3}}', ['widht']), network=([], '{"network": {"kind": "densely"}}', ["Nearest: 'dense'"]),
    augment=([], '{"augment": ["rotat"]}', ["Nearest: 'rotate'"]), policy=([], '{"negative": "clipp"}', ["Nearest: 'clip'"]))

@pytest.mark.parametrize('name', SETTINGS)
def test_bad_setting(place, name):
    "Refused by hepdev-train before it trains."
    args, job, says = SETTINGS[name]
    if job: (place/'job.json').write_text(job)
    write_foldfile(place/'events.h5', toy_events(100, seed=0))
    refused('hepdev-train', 'events.h5', '--out', 'bundle', *(() if '--recipe' in args else ('--recipe', 'job.json')), *args, cwd=place, says=says)

@pytest.mark.parametrize('args, says', [(['--views', 0], 'views'), (['--views', -3], 'views'), (['--events', 0], 'events'), (['--members', 0], 'members')])
def test_bad_setting_of_higgs(place, args, says):
    data = () if '--events' in args else ('--data', 'events.csv')
    good().to_csv(place/'events.csv', index=False)
    refused('hepdev-higgs', *data, '--out', 'run', '--recipe', 'job.json', *args, cwd=place, says=[says])

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_no_gpu(place):
    write_foldfile(place/'events.h5', toy_events(100, seed=0))
    refused('hepdev-train', 'events.h5', '--out', 'bundle', '--recipe', 'job.json', '--device', 'cuda', cwd=place, says=['cuda'])

@pytest.mark.parametrize('args, says', [(['hepdev-train', 'events.h5'], '--out'), (['hepdev-predict', 'bundle'], '--data'), (['hepdev-fold', 'a.csv'], '--out'), (['hepdev-fold'], 'tables')])
def test_what_is_needed(place, args, says): refused(*args, cwd=place, says=[says])

def test_one_member(place):
    "One network alone leaves nothing out: trained on everything, or refused with that reason, but not lost on the way."
    write_foldfile(place/'events.h5', toy_events(100, seed=0))
    before = listing(place)
    done = inside('hepdev-train', 'events.h5', '--out', 'bundle', '--recipe', 'job.json', '--members', 1, cwd=place)
    if done.status == 0: assert len(load_bundle(place/'bundle').ens) == 1
    else: assert 'member' in done.err and listing(place) == before

# Fold files that cannot be trained on

def test_fold_file_without_truth(place):
    "Events without labels, and a table whose label was never named: there is nothing to learn."
    events = toy_events(200, seed=0)
    events.df().drop(columns=['label', 'weight']).to_csv(place/'new.csv', index=False)
    write_foldfile(place/'like.h5', events)
    for out, args in (('like_new.h5', ['--like', 'like.h5']), ('bare.h5', ['--id', 'event'])):
        assert inside('hepdev-fold', 'new.csv', '--out', out, *args, cwd=place).status == 0
        refused('hepdev-train', out, '--out', 'bundle', '--recipe', 'job.json', cwd=place, says=['label'])

FOLDFILES = dict(weights_zero=(lambda df: df.assign(weight=0.), ['weights', 'zero']), negative=(lambda df: df.assign(weight=np.where(df.event % 9 == 0, -1, 1)*df.weight), ['negative', 'policy']),
                 one_class=(lambda df: df[df.label == 's'], ['lass']), too_few=(lambda df: pd.concat([df[df.label == l][:1] for l in 'sb']), ['2 events', '3 folds']))

@pytest.mark.parametrize('name', FOLDFILES)
def test_bad_fold_file(place, name):
    change, says = FOLDFILES[name]
    schema = toy_events(10, seed=0).schema
    write_foldfile(place/'events.h5', schema.parse(change(toy_events(200, seed=0).df())))
    refused('hepdev-train', 'events.h5', '--out', 'bundle', '--recipe', 'job.json', cwd=place, says=says)

@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_fold_of_a_table_with_holes(place, value):
    with_value('PRI_met', value, [3, 17, 200]).to_csv(place/'bad.csv', index=False)
    refused('hepdev-fold', 'bad.csv', '--out', 'new.h5', '--label', 'Label', '--weight', 'Weight', '--id', 'EventId', '--missing', '-999', cwd=place,
            says=["'PRI_met'", 'bad.csv', '3 rows (first: 3, 17, 200)'])

def test_later_file_of_several(place):
    "The second table is bad: nothing of the first stays, and a fold file that was there before is as it was."
    good().to_csv(place/'a.csv', index=False)
    with_value('Label', 'x', [5]).to_csv(place/'b.csv', index=False)
    good()[:50].drop(columns='PRI_met').to_csv(place/'c.csv', index=False)
    options = '--label Label --weight Weight --id EventId --missing -999'.split()
    assert inside('hepdev-fold', 'a.csv', '--out', 'old.h5', *options, cwd=place).status == 0
    refused('hepdev-fold', 'a.csv', 'c.csv', '--out', 'old.h5', '--overwrite', *options, cwd=place, says=["'PRI_met'", 'c.csv'])
    refused('hepdev-fold', 'a.csv', 'c.csv', '--out', 'new.h5', *options, cwd=place, says=["'PRI_met'", 'c.csv'])

# Damaged fold files and bundles

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A folder with a bundle."
    folder = tmp_path_factory.mktemp('made')
    run_job(Job(network=dict(width=6, depth=2), members=3, epochs=1, bs=64), toy_events(200, seed=0), folder/'bundle')
    return folder

@pytest.fixture
def bundle(made): return load_bundle(made/'bundle')

STEMS = ('manifest.json', 'about-*', 'recipe-*', 'weights-*', 'trained_on-*', 'state-*.json', 'state-*.safetensors')

@pytest.fixture
def broken(made, tmp_path):
    "A copy of a bundle, to be broken."
    return shutil.copytree(made/'bundle', tmp_path/'bundle')

def accepted(read, file, changed):
    "What happens when `file` is changed, if it is anything else than a `FileError`."
    data = file.read_bytes()
    file.write_bytes(changed)
    try: read()
    except FileError: return None
    except Exception as e: return repr(e)
    finally: file.write_bytes(data)
    return 'accepted'

def flips(data, rng, regions=48):
    "Positions in every region of the data, its ends among them, each with a bit to flip there."
    edges = np.linspace(0, len(data), min(regions, len(data)) + 1).astype(int)
    at = {0, len(data) - 1, *(int(rng.integers(a, b)) for a, b in zip(edges, edges[1:]))}
    for i in sorted(at): yield i, data[:i] + bytes([data[i] ^ 1 << int(rng.integers(8))]) + data[i + 1:]

@pytest.mark.parametrize('stem', STEMS)
def test_flipped_byte_in_a_bundle(broken, stem):
    "One bit, anywhere in any file."
    file, = broken.glob(stem)
    regions = 10**6 if stem == 'manifest.json' else 48
    found = {i: said for i, changed in flips(file.read_bytes(), np.random.default_rng(0), regions) if (said := accepted(lambda: load_bundle(broken), file, changed))}
    assert not found

@pytest.mark.parametrize('stem', STEMS)
def test_truncated_or_missing_file_of_a_bundle(broken, stem):
    file, = broken.glob(stem)
    data = file.read_bytes()
    for n in (0, 1, len(data)//2, len(data) - 1): assert accepted(lambda: load_bundle(broken), file, data[:n]) is None, n
    assert accepted(lambda: load_bundle(broken), file, data + b'\0') is None
    file.unlink()
    with pytest.raises(FileError, match='missing|no manifest'): load_bundle(broken)
    refused('hepdev-predict', 'bundle', '--data', 'new.csv', '--out', 'scores.csv', cwd=broken.parent, says=['bundle'])

@pytest.mark.parametrize('change', [dict(files=[]), dict(files={}), dict(files=None), dict(format='1'), dict(format=None), dict(kind='thesis')])
def test_manifest_of_another_shape(broken, change):
    "A manifest that is JSON, but not one of ours."
    manifest = json.loads((broken/'manifest.json').read_text())
    assert accepted(lambda: load_bundle(broken), broken/'manifest.json', json.dumps({**manifest, **change}).encode()) is None
    for key in manifest: assert accepted(lambda: load_bundle(broken), broken/'manifest.json', json.dumps({k: v for k, v in manifest.items() if k != key}).encode()) is None, key

def test_newer_format(bundle, tmp_path, monkeypatch):
    "Made by a later version: said so, before anything in it is looked at."
    monkeypatch.setattr('hepdev.ensemble.bundle.BUNDLE', replace(BUNDLE, format=99))
    bundle.save(tmp_path/'bundle')
    monkeypatch.undo()
    with pytest.raises(FileError, match='99.*Update hepdev'): load_bundle(tmp_path/'bundle')
    refused('hepdev-predict', 'bundle', '--data', 'a.csv', '--out', 'scores.csv', cwd=tmp_path, says=['Update hepdev'])

def test_damaged_bundle_is_not_used(broken):
    "By no command: hepdev-predict writes nothing, hepdev-train does not resume from it."
    place, file = broken.parent, next(broken.glob('weights-*'))
    toy_events(20, seed=1).df().to_csv(place/'new.csv', index=False)
    write_foldfile(place/'events.h5', toy_events(200, seed=0))
    data = bytearray(file.read_bytes())
    data[len(data)//2] ^= 1
    file.write_bytes(data)
    refused('hepdev-predict', 'bundle', '--data', 'new.csv', '--out', 'scores.csv', cwd=place, says=[file.name])
    refused('hepdev-train', 'events.h5', '--out', 'bundle', '--resume', cwd=place, says=[file.name])

def test_flipped_byte_in_a_fold_file(tmp_path):
    write_foldfile(tmp_path/'a.h5', toy_events(200, seed=0))
    data, rng = (tmp_path/'a.h5').read_bytes(), np.random.default_rng(0)
    def read():
        with FoldFile(tmp_path/'a.h5') as f: f.events()
    changes = [*flips(data[:512], rng, 512), *flips(data, rng, 100)]
    found = {i: said for i, changed in changes if (said := accepted(read, tmp_path/'a.h5', changed if len(changed) > 512 else changed + data[512:]))}
    for n in (0, 1, 511, 512, len(data)//2, len(data) - 1): assert accepted(read, tmp_path/'a.h5', data[:n]) is None, n
    assert not found

# Scoring

def test_bad_table_to_score(made, tmp_path):
    "Undeclared NaN or Inf, a missing column: named; a good first half is not left behind."
    df = toy_events(50, seed=3).df()
    for name, bad, says in (('nan', df.assign(x1=np.where(df.index == 49, np.nan, df.x1)), ["'x1'", 'nan', 'row 49']),
                            ('inf', df.assign(x1=np.where(df.index > 47, np.inf, df.x1)), ["'x1'", 'inf', '2 rows (first: 48, 49)']), ('less', df.drop(columns='x3'), ["'x3'"])):
        bad.to_csv(tmp_path/f'{name}.csv', index=False)
        refused('hepdev-predict', made/'bundle', '--data', f'{name}.csv', '--out', 'scores.csv', cwd=tmp_path, says=[*says, f'{name}.csv'])

def test_failure_in_a_later_piece(made, tmp_path):
    "The first pieces of a long file were scored when the bad one came: the output is not there."
    df = toy_events(50, seed=3).df()
    df.assign(x1=np.where(df.index == 49, np.nan, df.x1)).to_csv(tmp_path/'bad.csv', index=False)
    refused('hepdev-predict', made/'bundle', '--data', 'bad.csv', '--out', 'scores.csv', '--rows', 20, cwd=tmp_path, says=["'x1'", 'row 49'])

@pytest.mark.parametrize('views', [0, -1])
def test_bad_number_of_views(made, tmp_path, views):
    toy_events(50, seed=3).df().to_csv(tmp_path/'a.csv', index=False)
    refused('hepdev-predict', made/'bundle', '--data', 'a.csv', '--out', 'scores.csv', '--views', views, cwd=tmp_path, says=['views'])

def test_bad_arrays(bundle):
    "From Python the same errors, as exceptions that are also the built-in kind."
    with pytest.raises(DataError, match=r'shape \(5, 3\).*4'): bundle.predict(np.zeros((5, 3)))
    with pytest.raises(DataError, match='no events'): bundle.predict(toy_events(5, seed=0).df()[:0])
    with pytest.raises(KeyError, match="'x2'.*Nearest"): bundle.predict(toy_events(5, seed=0).df().rename(columns={'x2': 'x22'}))
    with pytest.raises(ValueError, match="'x0'.*inf in row 0"): bundle.predict(np.full((1, 4), np.inf))

# Output that would overwrite something

def put_something(place):
    (place/'run').mkdir()
    (place/'run'/'thesis.tex').write_text('years of work')
    (place/'run'/'weights-mine.safetensors').write_bytes(b'mine')
    return listing(place/'run')

def kept(place, before): return {k: v for k, v in listing(place/'run').items() if k in before} == before

def test_folder_that_holds_something_else(place):
    "Refused without --overwrite by both commands; with it, what was there survives, also a second time."
    good().to_csv(place/'events.csv', index=False)
    write_foldfile(place/'events.h5', toy_events(100, seed=0))
    before = put_something(place)
    higgs, train = ('hepdev-higgs', '--data', 'events.csv', '--out', 'run', '--recipe', 'job.json'), ('hepdev-train', 'events.h5', '--out', 'run', '--recipe', 'job.json')
    for args in (higgs, train): refused(*args, cwd=place, says=['run', 'not empty', 'overwrite'])
    for args in (train, train, higgs):
        done = inside(*args, '--overwrite', cwd=place)
        assert done.status == 0 and kept(place, before), done.err
    assert load_bundle(place/'run').complete and load_bundle(place/'run'/'bundle').complete
    refused(*train, cwd=place, says=['run', 'not empty'])

def test_new_bundle_takes_the_place_of_the_old(place):
    "Nothing of the old one stays: as many files as a bundle has."
    write_foldfile(place/'events.h5', toy_events(100, seed=0))
    for seed in (0, 1): assert inside('hepdev-train', 'events.h5', '--out', 'run', '--recipe', 'job.json', '--seed', seed, '--overwrite', cwd=place).status == 0
    assert len(listing(place/'run')) == len(STEMS) and load_bundle(place/'run').ens.seed == 1

@pytest.mark.parametrize('entry', ['../thesis.tex', 'thesis.tex', '/thesis.tex', 'other/thesis.tex'])
def test_old_manifest_is_no_list_of_what_to_delete(place, bundle, entry):
    "A manifest that names what is not a part of a bundle: nothing that we did not write is deleted, whatever it says."
    b = place/'run'
    bundle.save(b)
    (b/'other').mkdir()
    for d in (place, b, b/'other'): (d/'thesis.tex').write_text('years of work')
    manifest = json.loads((b/'manifest.json').read_text())
    manifest['files']['about.json']['file'] = entry if entry[0] != '/' else str(place/'thesis.tex')
    (b/'manifest.json').write_text(json.dumps(manifest))
    try: bundle.save(b, overwrite=True)
    except FileError: pass
    for d in (place, b, b/'other'): assert (d/'thesis.tex').exists(), d

def test_manifest_of_somebody_else(place):
    "A folder with another program's manifest.json is not taken for a bundle, nor its file replaced."
    (place/'run').mkdir()
    (place/'run'/'manifest.json').write_text('{"name": "web page"}')
    write_foldfile(place/'events.h5', toy_events(100, seed=0))
    refused('hepdev-train', 'events.h5', '--out', 'run', '--recipe', 'job.json', '--overwrite', cwd=place, says=['manifest.json'])

def test_output_that_is_a_file_or_lies_under_one(place, made):
    (place/'file').write_text('here already')
    (place/'here.csv').mkdir()
    good().to_csv(place/'events.csv', index=False)
    toy_events(50, seed=3).df().to_csv(place/'new.csv', index=False)
    write_foldfile(place/'events.h5', toy_events(100, seed=0))
    for out in ('file', 'file/run'):
        refused('hepdev-higgs', '--data', 'events.csv', '--out', out, '--recipe', 'job.json', cwd=place, says=['file'])
        refused('hepdev-train', 'events.h5', '--out', out, '--recipe', 'job.json', cwd=place, says=['file'])
    for out in ('file/scores.csv', 'here.csv'): refused('hepdev-predict', made/'bundle', '--data', 'new.csv', '--out', out, '--overwrite', cwd=place, says=[out])
    refused('hepdev-fold', 'new.csv', '--out', 'file/new.h5', cwd=place, says=['file'])

def test_scores_and_fold_files_are_not_overwritten(place, made):
    toy_events(50, seed=3).df().to_csv(place/'new.csv', index=False)
    predict = ('hepdev-predict', made/'bundle', '--data', 'new.csv', '--out', 'scores.csv')
    assert inside(*predict, cwd=place).status == 0
    refused(*predict, cwd=place, says=['scores.csv', 'exists'])
    (place/'scores.csv').write_text('old')
    assert inside(*predict, '--overwrite', cwd=place).status == 0 and len(pd.read_csv(place/'scores.csv')) == 50
    (place/'thesis.h5').write_text('years of work')
    refused('hepdev-fold', 'new.csv', '--out', 'thesis.h5', cwd=place, says=['thesis.h5'])
    refused('hepdev-fold', 'new.csv', '--out', 'thesis.h5', '--overwrite', cwd=place, says=['thesis.h5', 'not a hepdev fold file'])

def test_errors_are_of_the_kind_that_callers_catch():
    "`HepdevError` for whoever wants all of them, and ValueError, KeyError, OSError for whoever does not know us."
    bad = good().drop(columns='PRI_met')
    with pytest.raises(KeyError) as e: higgs_schema(bad.columns).parse(bad)
    assert isinstance(e.value, HepdevError) and str(e.value).startswith('No column')
    with pytest.raises(OSError): load_bundle('nowhere')
