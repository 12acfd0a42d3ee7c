"""The commands as a user runs them: `run` starts the installed script as a process, `inside` runs the same script in this
process, which saves the start of an interpreter where only the outcome counts."""
import io
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import hepdev

homes = {'hepdev-fold': 'hepdev.data.draft', 'hepdev-train': 'hepdev.scale.job', 'hepdev-predict': 'hepdev.scale.score', 'hepdev-higgs': 'hepdev.apply.higgs',
         'hepdev-verify': 'hepdev.scale.verify'}

@dataclass(frozen=True)
class Outcome:
    status:int
    out:str
    err:str

@cache
def script(name):
    "Path of the installed command; where the package is not installed, of a script like the one that pip would make."
    beside = Path(sys.executable).parent/name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found and homes[name] in Path(found).read_text(): return found
    function, path = name.replace('-', '_'), Path(tempfile.mkdtemp())/name
    path.write_text(f'#!{sys.executable}\nimport sys\nfrom {homes[name]} import {function}\nif __name__ == "__main__": sys.exit({function}())\n')
    path.chmod(0o755)
    return str(path)

def start(name, *args, cwd, **options):
    "The command as a process of its own, of the package that the tests import."
    path = [str(Path(hepdev.__file__).parent.parent), *filter(None, [os.environ.get('PYTHONPATH')])]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(path), 'PYTHONUNBUFFERED': '1'}
    return subprocess.Popen([script(name), *map(str, args)], cwd=cwd, env=env, **options)

def run(name, *args, cwd):
    "Outcome of the command as a process of its own."
    process = start(name, *args, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.communicate()
    return Outcome(process.returncode, out, err)

def inside(name, *args, cwd):
    "Outcome of the command's script in this process; an exception that the script lets through is raised."
    before, argv, out, err = os.getcwd(), sys.argv, io.StringIO(), io.StringIO()
    sys.argv, status = [name, *map(str, args)], 0
    os.chdir(cwd)
    try:
        with redirect_stdout(out), redirect_stderr(err): runpy.run_path(script(name), run_name='__main__')
    except SystemExit as end:
        if isinstance(end.code, str): err.write(end.code + '\n')
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        os.chdir(before)
        sys.argv = argv
    return Outcome(status, out.getvalue(), err.getvalue())

def listing(folder):
    "Everything in a folder: path and content of each file."
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob('*'))}

def refused(name, *args, cwd, says):
    "The command ends with status 1 and one line that has all of `says`, prints no traceback and leaves every file as it was."
    before = listing(cwd)
    done = inside(name, *args, cwd=cwd)
    assert done.status == 1, f'{name} {args} ended with status {done.status}:\n{done.out}'
    assert done.err.startswith(f'{name}: ') and done.err.count('\n') == 1 and 'Traceback' not in done.err, done.err
    for word in says: assert word in done.err, f'{word!r} is not in: {done.err}'
    assert listing(cwd) == before, set(listing(cwd)) ^ set(before) or 'a file was changed'
    return done
