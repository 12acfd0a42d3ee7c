"Scores without torch: by a child process that cannot import it, and in an environment that does not have it; and graphs that are not what they should be."
import hashlib
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import root

pytest.importorskip('onnxruntime', reason='prediction with graphs needs onnxruntime')
pytest.importorskip('onnxscript', reason='export needs onnxscript')

from hepdev.core import DataError, FileError
from hepdev.data.folder import write_folder
from hepdev.data.foldfile import write_foldfile
from hepdev.data.higgsml import higgs_schema
from hepdev.physics.simulate import simulate_higgs
from hepdev.scale.export import save_served
from hepdev.scale.job import Job, run_job
from hepdev.scale.serve import SERVED, load_served

ABSENT = ('torch', 'scipy', 'sklearn', 'matplotlib', 'tqdm', 'safetensors', 'onnx', 'onnxscript')
BLOCK = f'''
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {ABSENT}: raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Absent())
'''
SCORE = '''
import numpy as np, pandas as pd, sys, hepdev
from hepdev.core import FileError
from hepdev.data.foldfile import FoldFile
from hepdev.data.sources import read_table
from hepdev.scale.serve import load_served
served = load_served('served')
with FoldFile('events.h5') as f: served.predict(f).to_csv('by_foldfile.csv', index=False)
served.predict(read_table('events.csv')).to_csv('by_table.csv', index=False)
served.predict(read_table('events.csv'), views=3).to_csv('three.csv', index=False)
assert 'torch' not in sys.modules
'''

@cache
def trained(folder):
    "A bundle, its export, and events that are half its own, in a folder."
    df = simulate_higgs(900, seed=2)
    events = higgs_schema(df.columns).parse(df)
    bundle = run_job(Job(network=dict(width=8, depth=2), members=3, epochs=2, bs=64), events.take(slice(0, 500)), folder/'bundle')
    save_served(bundle, folder/'served')
    df.to_csv(folder/'events.csv', index=False)
    write_foldfile(folder/'events.h5', events)
    return bundle, events

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp('serve')
    trained(folder)
    return folder

def run(python, code, place, **env):
    done = subprocess.run([python, '-c', code], cwd=place, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

def same_as_torch(place):
    bundle, events = trained(place)
    for name, views in (('by_foldfile', 8), ('by_table', 8), ('three', 3)):
        got, want = pd.read_csv(place/f'{name}.csv'), bundle.predict(events, views=views)
        assert list(got) == list(want) and (got.n_members == want.n_members).all() and {1, 3} == {*got.n_members}
        assert np.allclose(got, want, atol=1e-5, equal_nan=True)
        (place/f'{name}.csv').unlink()

def test_scores_where_torch_cannot_be_imported(place):
    run(sys.executable, BLOCK + SCORE, place, PYTHONPATH=str(root))
    same_as_torch(place)

@pytest.mark.slow
def test_scores_in_an_environment_without_torch(place, tree, tmp_path):
    subprocess.run([sys.executable, '-m', 'venv', tmp_path/'env'], check=True)
    python = tmp_path/'env/bin/python'
    def pip(*args):
        done = subprocess.run([python, '-m', 'pip', 'install', '-q', '-c', root/'constraints.txt', *args], capture_output=True, text=True)
        if done.returncode: pytest.skip(f'packages cannot be had here: {done.stderr.strip().splitlines()[-1]}')
    pip('numpy', 'pandas', 'h5py', 'fastcore', 'onnxruntime')
    pip('--no-deps', str(tree))
    have = subprocess.run([python, '-m', 'pip', 'list', '--format=json'], capture_output=True, text=True, check=True).stdout
    have = {p['name'] for p in json.loads(have)}
    assert 'hepdev' in have and not have & {'torch', 'scipy', 'scikit-learn', 'matplotlib', 'tqdm', 'safetensors', 'onnx'}, have
    env = dict(PYTHONPATH='', PYTHONSAFEPATH='1')
    run(python, SCORE, place, **env)
    same_as_torch(place)
    done = subprocess.run([tmp_path/'env/bin/hepdev-predict', 'served', '--data', 'events.csv', '--out', 'scores.csv', '--backend', 'onnx'], cwd=place, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bundle, events = trained(place)
    assert np.allclose(pd.read_csv(place/'scores.csv').score, bundle.predict(events).score, atol=1e-5)

def changed(served, to, **parts):
    "A copy with other contents and a manifest that fits them, as a stranger could make it."
    files = json.loads((served/'manifest.json').read_text())['files']
    write_folder(to, SERVED, {name: parts.get(name.split('.')[0], (served/e['file']).read_bytes()) for name, e in files.items()})
    return to

def test_a_graph_that_gives_other_numbers_is_refused(place, tmp_path):
    import onnx
    from onnx import numpy_helper
    model = onnx.load_from_string(next((place/'served').glob('*.onnx')).read_bytes())
    largest = max((i for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT), key=lambda i: numpy_helper.to_array(i).size)
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest)*1.01, largest.name))
    with pytest.raises(FileError, match='differs from what it was exported from'): load_served(changed(place/'served', tmp_path/'a', graph=model.SerializeToString()))
    del model.graph.output[1]
    with pytest.raises((FileError, DataError)): load_served(changed(place/'served', tmp_path/'b', graph=model.SerializeToString()))

def test_weights_in_other_files_and_huge_files_are_refused(place, tmp_path):
    import onnx
    model = onnx.load_from_string(next((place/'served').glob('*.onnx')).read_bytes())
    onnx.external_data_helper.convert_model_to_external_data(model, location='passwd', size_threshold=0)
    onnx.save_model(model, str(tmp_path/'outside.onnx'))
    with pytest.raises(FileError, match='other files'): load_served(changed(place/'served', tmp_path/'a', graph=(tmp_path/'outside.onnx').read_bytes()))
    with pytest.raises(FileError, match='at most 100 are read'): load_served(place/'served', largest=100)

def test_every_changed_byte_of_a_manifest_or_part_is_found(place, tmp_path):
    served = changed(place/'served', tmp_path/'a')
    rng, want = np.random.default_rng(0), {p: p.read_bytes() for p in served.iterdir() if p.is_file()}
    for path, data in want.items():
        for at in rng.integers(0, len(data), 25 if path.name == 'manifest.json' else 3):
            bad = bytearray(data)
            bad[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(bad)
            if path.name != 'manifest.json' or json_of(bad) != json_of(data):
                with pytest.raises(FileError): load_served(served)
            path.write_bytes(data)
        path.write_bytes(data[:len(data)//2])
        with pytest.raises(FileError): load_served(served)
        path.write_bytes(data)
    assert len(load_served(served)) == 3

def json_of(data):
    try: return json.loads(data)
    except ValueError: return None

def test_the_graph_names_no_file_of_this_machine(place):
    data = next((place/'served').glob('*.onnx')).read_bytes()
    assert str(root).encode() not in data and b'site-packages' not in data and hashlib.sha256(data).hexdigest()[:12] in next((place/'served').glob('*.onnx')).name
