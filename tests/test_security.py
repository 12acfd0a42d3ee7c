"""The package has no way to run what a file says: a reading of its source."""
import ast
from pathlib import Path

import pytest

import hepdev

root = Path(hepdev.__file__).parent
files = sorted(root.rglob('*.py'))

modules = {'pickle': 'runs code', 'cPickle': 'runs code', 'dill': 'runs code', 'cloudpickle': 'runs code', 'marshal': 'runs code', 'shelve': 'unpickles', 'joblib': 'unpickles', 'jsonpickle': 'runs code',
           'imp': 'imports by name', 'runpy': 'runs code', 'code': 'runs code', 'pty': 'starts processes', 'telnetlib': 'opens connections', 'subprocess': 'starts processes', 'importlib': 'imports by name',
           'ctypes': 'calls anything', 'multiprocessing': 'pickles between processes', 'socket': 'opens connections', 'urllib.request': 'opens connections', 'http': 'opens connections', 'requests': 'opens connections', 'ftplib': 'opens connections'}
calls = {'eval', 'exec', 'compile', '__import__', 'breakpoint', 'input', 'os.system', 'os.popen', 'os.startfile', 'pd.eval', 'pandas.eval', 'pd.read_pickle', 'numpy.loads', 'np.loads', 'torch.hub.load',
         'torch.jit.load', 'torch.package.PackageImporter', 'yaml.load', 'yaml.unsafe_load', 'yaml.full_load', 'yaml.load_all', 'joblib.load', 'pickle.load', 'pickle.loads', 'marshal.loads', 'ak.from_buffers', 'os.fork'}
methods = {'eval', 'query', 'read_pickle', 'to_pickle', 'unsafe_load'} # of DataFrames and of libraries, whatever they are called on
prefixes = ('os.exec', 'os.spawn', 'os.posix_spawn')

allowed = { # (file, what): why it can do no harm
    ('__init__.py', 'importlib'): 'imports the home of a noun of its own table',
    ('core.py', 'socket'): 'the name of this machine, for whoever finds the lock',
    ('data/convert.py', 'subprocess'): 'starts workers of its own, a fixed command; they get their tasks as JSON',
    ('data/higgsml.py', 'urllib.request'): 'fetches the public data set from its one address when asked to; length and digest are compared',
    ('models/mlp.py', 'importlib'): 'imports compiled parts of the package, by names in its own source',
    ('scale/bench.py', 'subprocess'): 'measures scripts that its caller names, without a shell',
    ('scale/bench_files.py', 'subprocess'): 'measures code in its own source in processes of their own, without a shell',
    ('physics/generate.py', 'multiprocessing'): 'its own processes, which are sent the number of a part and give back a path',
    ('scale/bench_objects.py', 'subprocess'): 'measures functions of its own in processes of their own, without a shell',
}

def dotted(node):
    "`a.b.c` of an expression; '' if it is something else."
    if isinstance(node, ast.Name): return node.id
    return f'{dotted(node.value)}.{node.attr}' if isinstance(node, ast.Attribute) and dotted(node.value) else ''

def constant(call, name):
    "Value of a keyword argument that is written out; None if it is not there."
    return next((k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)

def imports(node):
    "Modules that a statement imports, of those that are looked for."
    if isinstance(node, ast.Import): names = [a.name for a in node.names]
    else: names = [node.module, *(f'{node.module}.{a.name}' for a in node.names)] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
    return {m for m in modules for n in names if (n == m or n.startswith(f'{m}.')) and not n.startswith('importlib.metadata')} - ({'importlib'} if 'importlib.metadata' in names else set())

def dangers(tree):
    "What of a module could run code or start processes: yields line and what."
    for node in ast.walk(tree):
        yield from ((node.lineno, m) for m in imports(node))
        if isinstance(node, ast.ImportFrom) and node.module == 'os': yield from ((node.lineno, f'os.{a.name}') for a in node.names if f'os.{a.name}' in calls or f'os.{a.name}'.startswith(prefixes))
        if not isinstance(node, ast.Call): continue
        name = dotted(node.func)
        last = node.func.attr if isinstance(node.func, ast.Attribute) else ''
        if name in calls or name.startswith(prefixes) or last in methods and not (last == 'eval' and not node.args): yield node.lineno, name or last   # `net.eval()` takes nothing
        if constant(node, 'shell'): yield node.lineno, 'shell=True'
        if constant(node, 'allow_pickle'): yield node.lineno, 'allow_pickle=True'
        if name == 'torch.load' and constant(node, 'weights_only') is not True: yield node.lineno, 'torch.load'
        if last == 'extractall' or name == 'shutil.unpack_archive': yield node.lineno, last or name

@pytest.mark.parametrize('file', files, ids=lambda f: str(f.relative_to(root)))
def test_nothing_runs_what_a_file_says(file):
    where = file.relative_to(root).as_posix()
    found = [(line, what) for line, what in dangers(ast.parse(file.read_text())) if (where, what) not in allowed]
    assert not found, f'{where}: ' + ', '.join(f'line {line}: {what} ({modules.get(what, "runs what it is given")})' for line, what in found) + '. Do without, or say in `allowed` why it can do no harm.'

def test_what_is_allowed_is_used():
    for where, what in allowed: assert (root/where).exists() and what in {w for _, w in dangers(ast.parse((root/where).read_text()))}, f'{where} does not use {what} any more: strike it from the list.'

@pytest.mark.parametrize('source', ['import pickle', 'from pickle import loads', 'import os\nos.system(x)', 'from os import system', 'eval(x)', 'exec(x)', 'compile(x, "", "exec")', '__import__(x)', 'f(x, shell=True)',
                                    'torch.load(f)', 'torch.load(f, weights_only=False)', 'yaml.load(f)', 'np.load(f, allow_pickle=True)', 'df.eval(x)', 'df.query(x)', 'pd.read_pickle(f)', 'import joblib', 'import shelve',
                                    'import marshal', 'import subprocess', 'def f():\n    import importlib', 'os.execv(a, b)', 'from urllib.request import urlopen', 'import urllib.request', 'from urllib import request', 'from importlib import import_module', 'tar.extractall(p)', 'from subprocess import run', 'import multiprocessing.pool'])
def test_is_noticed(source): assert list(dangers(ast.parse(source)))

@pytest.mark.parametrize('source', ['net.eval()', 'torch.load(f, weights_only=True)', 'yaml.safe_load(f)', 'np.load(f)', 'json.loads(t)', 're.compile(p)', 'os.replace(a, b)', 'from urllib.parse import quote', 'from importlib.metadata import version'])
def test_is_harmless(source): assert not list(dangers(ast.parse(source)))
