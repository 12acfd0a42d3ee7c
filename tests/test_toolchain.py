"The project's own machinery: metadata, notebooks and the modules made from them, what may be imported and called."
import ast
import importlib
import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from email.parser import Parser
from importlib.metadata import EntryPoint, packages_distributions, version
from pathlib import Path

import hepdev
import pytest
from packaging.requirements import Requirement

root = Path(__file__).resolve().parent.parent
settings = ConfigParser(delimiters=['='])
settings.read(root/'settings.ini', encoding='utf-8')
cfg = settings['DEFAULT']
project = tomllib.loads((root/'pyproject.toml').read_text(encoding='utf-8'))
modules = sorted(p for p in (root/'hepdev').rglob('*.py') if p.name != '_modidx.py')
notebooks = sorted((root/'nbs').glob('[!_.]*.ipynb'))
numbered = [n for n in notebooks if re.match(r'\d{3}_', n.name)]

def lines(key): return [l.strip() for l in cfg[key].splitlines() if l.strip()]
def requirements(key): return {r.name.lower(): r for r in map(Requirement, lines(key))}
def plain(name): return re.sub('[-_.]+', '-', name).lower()
def cells(path): return json.loads(path.read_text(encoding='utf-8'))['cells']
def code(path): return [''.join(c['source']) for c in cells(path) if c['cell_type'] == 'code']
def none(found): assert not found, '\n'.join(f'{k}: {v}' for k, v in found.items())
def dotted(path): return '.'.join(path.relative_to(root).with_suffix('').parts).removesuffix('.__init__')

# Metadata

def test_one_version():
    assert cfg['version'] == hepdev.__version__ == version('hepdev')
    assert f"## {cfg['version']}" in (root/'CHANGELOG.md').read_text(encoding='utf-8')
    assert project['project']['name'] == cfg['lib_name'] == project['tool']['nbdev']['lib_path']
    assert project['project']['requires-python'] == f">={cfg['min_python']}"

def test_every_requirement_is_pinned():
    pins = {r.name: r for r in map(Requirement, (l for l in (root/'constraints.txt').read_text().splitlines() if l and l[0] != '#'))}
    for key in (k for k in cfg if k.endswith('requirements')):
        for name, need in requirements(key).items():
            tested = str(pins[plain(name)].specifier).removeprefix('==')
            assert need.specifier.contains(tested), f'{need} does not allow the tested {tested}'

def test_build(tree):
    made = tree.parent/'dist'
    run = subprocess.run([sys.executable, '-m', 'build', '--no-isolation', '--outdir', made, tree], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    with tarfile.open(next(made.glob('*.tar.gz'))) as sdist: assert any(n.endswith('/settings.ini') for n in sdist.getnames())
    with zipfile.ZipFile(next(made.glob('*.whl'))) as wheel:
        files = wheel.namelist()
        info = {Path(n).name: wheel.read(n).decode() for n in files if '.dist-info/' in n}
    assert {p.relative_to(root).as_posix() for p in modules} <= set(files)
    head, _, readme = info['METADATA'].partition('\n\n')
    supplied = dict(Parser().parsestr(head).items())
    field = {'version': 'Version', 'description': 'Summary', 'authors': 'Author-email', 'keywords': 'Keywords', 'classifiers': 'Classifier',
             'license': 'License-Expression', 'dependencies': 'Requires-Dist', 'optional-dependencies': 'Provides-Extra'}
    assert {*project['project']['dynamic']} == {*field, 'readme', 'entry-points', 'scripts'}
    assert not [name for name in field if not supplied.get(field[name])] and readme.strip() == (tree/'README.md').read_text(encoding='utf-8').strip()
    commands = info['entry_points.txt']
    assert '[nbdev]\nhepdev = hepdev._modidx:d' in commands and all(line in commands for line in lines('console_scripts'))

@pytest.mark.parametrize('line', lines('console_scripts'))
def test_command_exists(line):
    name, target = map(str.strip, line.split('='))
    assert callable(EntryPoint(name, target, 'console_scripts').load())
    assert (Path(sysconfig.get_path('scripts'))/name).exists(), 'install again: pip install -e .'

def test_readme_tells_what_ci_runs():
    command = re.search(r'^python3 -m venv .*pytest.*$', (root/'.ci'/'run').read_text(), re.M).group()
    assert command in (root/'README.md').read_text(encoding='utf-8')

# Notebooks and modules

def test_modules_follow_from_notebooks(tree):
    kept = {p.relative_to(tree): p.read_bytes() for d in ('hepdev', 'nbs') for p in (tree/d).rglob('*') if p.is_file()}
    scripts = Path(sysconfig.get_path('scripts'))
    for p in (tree/'hepdev').rglob('*.py'):
        if p != tree/'hepdev'/'__init__.py': p.unlink()
    for tool in ('nbdev-clean', 'nbdev-export'): subprocess.run([scripts/tool], cwd=tree, check=True)
    (tree/'nbs'/'.last_checked').unlink(missing_ok=True)
    made = {p.relative_to(tree): p.read_bytes() for d in ('hepdev', 'nbs') for p in (tree/d).rglob('*') if p.is_file()}
    changed = sorted(str(p) for p in kept.keys() | made.keys() if kept.get(p) != made.get(p))
    assert not changed, f'changed by nbdev-clean && nbdev-export: {changed}'

def test_names_of_notebooks():
    for n in notebooks:
        source = '\n'.join(code(n))
        homes, exports = re.findall(r'^#\| *default_exp:? +(\S+)', source, re.M), re.search(r'^#\| *export', source, re.M)
        if homes or exports: assert n in numbered and homes == [n.stem[4:]], f'{n.name} exports to {homes}'

def blemishes(path):
    "What a reader or a diff would trip over in a notebook."
    nb = json.loads(path.read_text(encoding='utf-8'))
    outputs = [o for c in nb['cells'] for o in c.get('outputs', [])]
    kinds = {kind for o in outputs for kind in o.get('data', {})}
    if path.stat().st_size >= 1e6: yield f'{path.stat().st_size/1e6:.1f} MB'
    if extra := nb['metadata'].keys() - {'kernelspec'}: yield f'metadata {extra}'
    if extra := {k for c in nb['cells'] for k in c['metadata']}: yield f'cell metadata {extra}'
    if 'image/svg+xml' in kinds: yield 'an SVG figure'
    if any(o['output_type'] == 'error' for o in outputs): yield 'an error among the outputs'
    if re.search(r'\bplt\.(subplots|figure)\(', '\n'.join(code(path))) and 'image/png' not in kinds: yield 'figures that were not saved'
    if found := re.search(r'(/home|/root|/Users|/tmp|[A-Z]:\\Users)/\w[^"\s]*', json.dumps([nb['cells']])): yield f'a path of one machine: {found.group()}'

def test_notebooks_are_clean():
    none({n.name: bad for n in notebooks if (bad := list(blemishes(n)))})

def parse(source): return ast.parse('\n'.join(l for l in source.splitlines() if not re.match(r'\s*[%!]', l)))

def mixed(source):
    "Does a cell import and do something else than set the format of figures? The documentation runs cells that import."
    body, imports = parse(source).body, (ast.Import, ast.ImportFrom)
    body = [n for n in body if not ast.unparse(n).startswith('set_matplotlib_formats(')]
    within = body if re.search(r'^#\| *export', source, re.M) else [n for top in body for n in ast.walk(top)]
    return any(isinstance(n, imports) for n in within) and not all(isinstance(n, imports) for n in body)

def test_imports_stand_alone():
    none({n.name: bad for n in notebooks if (bad := [s[:150] for s in code(n) if mixed(s)])})

def imported(tree, package=''):
    "Full names of what a piece of code imports, wherever it does."
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = '.'.join(package.split('.')[:len(package.split('.')) - node.level + 1]) if node.level else ''
            home = '.'.join(filter(None, [base, node.module]))
            for a in node.names:
                if home == 'hepdev' and a.name in hepdev._home: yield f'hepdev.{hepdev._home[a.name]}'
                yield f'{home}.{a.name}'
                yield home

def test_a_notebook_imports_only_lower_ones():
    number = {'hepdev.' + n.stem[4:]: n.stem for n in numbered}
    for n in numbered:
        for source in code(n):
            for module in set(imported(parse(source))) & number.keys():
                own = 'hepdev.' + n.stem[4:]
                assert number[module] < n.stem or module == own, f'{n.stem} imports {number[module]}'

# What the package imports and calls

whole_modules = {f'hepdev.models.{m}': 'fast_requirements' for m in ('kernel', 'steps')} | {
    dotted(p): 'widgets_requirements' for p in modules if p.parent.name == 'widgets'}  # imported only where their extra is installed

def test_third_parties_are_declared():
    dists = packages_distributions()
    always, sometimes = requirements('requirements'), {r for k in cfg if k.endswith('_requirements') for r in requirements(k)}
    for p in modules:
        tree = ast.parse(p.read_text())
        for node in ast.walk(tree):
            if not isinstance(node, ast.Import | ast.ImportFrom) or getattr(node, 'level', 0): continue
            for top in {name.split('.')[0] for name in imported(node)} - sys.stdlib_module_names - {'hepdev'}:
                own = requirements(whole_modules[dotted(p)]).keys() if dotted(p) in whole_modules else set()
                asked = always.keys() | own if node in tree.body else always.keys() | sometimes
                assert asked & {plain(d) for d in dists.get(top, [top])}, f'{dotted(p)} imports {top}, which settings.ini does not ask for'

def forbidden(node):
    "Why a piece of syntax may not stand in the package, or None."
    if isinstance(node, ast.Import | ast.ImportFrom):
        tops = {a.name.split('.')[0] for a in node.names} if isinstance(node, ast.Import) else {(node.module or '').split('.')[0]}
        if bad := tops & {'pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal'}: return f'imports {bad}'
    if not isinstance(node, ast.Call): return None
    called, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
    last = called.split('.')[-1]
    if called in ('eval', 'exec', 'compile', '__import__', 'os.system', 'os.popen'): return called
    if last == 'eval' and (node.args or node.keywords): return f'{called} of an expression'
    if last in ('query', 'read_pickle', 'to_pickle'): return called
    if options.get('shell', 'False') != 'False': return f'{called} with a shell'
    if options.get('allow_pickle', 'False') != 'False': return f'{called} with pickle'
    if called == 'torch.load' and options.get('weights_only') != 'True': return 'torch.load that may run code'
    if called == 'yaml.load': return 'yaml.load; yaml.safe_load is safe'

def test_nothing_in_the_package_runs_what_it_reads():
    none({f'{p}:{node.lineno}': why for p in modules for node in ast.walk(ast.parse(p.read_text())) if (why := forbidden(node))})

@pytest.mark.parametrize('bad', ['import pickle', 'from joblib import load', 'eval(text)', 'df.eval(text)', 'os.system(cmd)', 'run(cmd, shell=True)',
                                 'torch.load(f)', 'torch.load(f, weights_only=False)', 'np.load(f, allow_pickle=True)'])
def test_the_watch_sees(bad): assert any(map(forbidden, ast.walk(ast.parse(bad))))

@pytest.mark.parametrize('good', ['model.eval()', 'torch.load(f, weights_only=True)', 'np.load(f)', 'subprocess.run(cmd)'])
def test_the_watch_lets_pass(good): assert not any(map(forbidden, ast.walk(ast.parse(good))))

def fresh(code):
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout

def test_import_is_light():
    heavy = ['torch', 'matplotlib', 'pandas', 'h5py', 'sklearn', 'fastcore']
    seconds = float(fresh('import sys, time; start = time.perf_counter(); import hepdev; took = time.perf_counter() - start; '
                          f'loaded = [m for m in {heavy} if m in sys.modules]; assert not loaded, loaded; print(took)'))
    assert seconds < 1.5

def test_nouns():
    for noun in hepdev.__all__: assert getattr(hepdev, noun) is getattr(importlib.import_module(f'hepdev.{hepdev._home[noun]}'), noun)
    assert set(hepdev.__all__) <= set(dir(hepdev))
    with pytest.raises(AttributeError, match="Nearest: 'Learner'"): hepdev.Learnr
    assert not hasattr(hepdev, '__wrapped__')

def test_each_module_imports_alone():
    fresh(f'''import importlib, sys
for name in {[dotted(p) for p in modules]}:
    for loaded in [m for m in sys.modules if m.split('.')[0] == 'hepdev']: del sys.modules[loaded]
    importlib.import_module(name)''')

def test_plotting_only_where_used():
    drawing = [dotted(p) for p in modules if re.search(r'^(import|from) matplotlib', p.read_text(), re.M)]
    assert not [m for m in drawing if not re.match(r'hepdev\.(evaluate\.plots|interpret|widgets|apply)', m)]
