"""Commands that die, or meet a failing disk, at a chosen moment. The package knows nothing of it: `kill.c`, preloaded into the process, stands between it and the system.

A process with everything imported forks a child for each trial, so that a trial costs what the command costs. Run as a script, it is that process."""
import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

calls = ('write', 'fsync', 'rename')
moments = ('count', 'before', 'middle', 'after', 'fail')
points = ('before write', 'middle write', 'after write', 'before fsync', 'after fsync', 'before rename', 'after rename')

def available():
    "Can such processes be made here?"
    return sys.platform == 'linux' and shutil.which('cc') is not None

@cache
def library():
    "Path of the compiled `kill.c`."
    path = Path(tempfile.mkdtemp())/'kill.so'
    subprocess.run(['cc', '-shared', '-fPIC', '-O1', '-w', '-o', path, Path(__file__).with_suffix('.c'), '-ldl'], check=True)
    return path

class Zygote:
    "The process that forks; use as a context."
    def __enter__(self):
        here = Path(__file__).resolve().parent
        env = {**os.environ, 'LD_PRELOAD': str(library()), 'KILL_LIBRARY': str(library()), 'OMP_NUM_THREADS': '1',
               'PYTHONPATH': os.pathsep.join([str(here.parent), str(here), *filter(None, [os.environ.get('PYTHONPATH')])])}
        self.process = subprocess.Popen([sys.executable, __file__], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(20)

    def run(self, *args, cwd, point=None, at=1, code=0, after=None, fsize=None):
        "Run a command in `cwd`, to die at the `at`-th call of a point, or after so many seconds; dict of status (negative: the signal), out, err, counts of calls, seconds."
        moment, call = point.split() if point else ('count', 'write')
        ask = dict(args=[str(a) for a in args], cwd=str(cwd), call=calls.index(call), moment=moments.index(moment), at=at, code=code, after=after, fsize=fsize)
        self.process.stdin.write(json.dumps(ask) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

def save(source, out):
    "A command of its own: load one bundle and save it in the place of another."
    from hepdev.ensemble.bundle import load_bundle
    load_bundle(source).save(out, overwrite=True)

def child(ask, report):
    "The command, armed; what it said goes to the pipe `report`."
    from shell import inside, Outcome
    os.setpgid(0, 0)
    os.chdir(ask['cwd'])
    if ask['fsize']: resource.setrlimit(resource.RLIMIT_FSIZE, (ask['fsize'], ask['fsize']))
    lib = ctypes.CDLL(os.environ['KILL_LIBRARY'])
    lib.arm(os.getcwd().encode(), ask['call'], ctypes.c_long(ask['at']), ask['moment'], ask['code'])
    if ask['args'][0] == 'save':
        save(*ask['args'][1:])
        done = Outcome(0, '', '')
    else: done = inside(*ask['args'], cwd=ask['cwd'])
    lib.count.restype = ctypes.c_long
    os.write(report, json.dumps(dict(out=done.out, err=done.err, counts={c: lib.count(i) for i, c in enumerate(calls)})).encode())
    os._exit(done.status)

def trial(ask):
    "Fork, wait, and perhaps kill."
    read, write = os.pipe()
    start = time.monotonic()
    if (pid := os.fork()) == 0:
        status = 99
        try: child(ask, write)
        except BaseException as e:
            os.write(write, json.dumps(dict(out='', err=f'{type(e).__name__}: {e}', counts={})).encode())
            status = 98
        finally: os._exit(status)
    os.close(write)
    if ask['after'] is not None:
        while time.monotonic() - start < ask['after'] and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None: time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    seconds = time.monotonic() - start
    try: os.killpg(pid, signal.SIGKILL)   # workers of a dead parent end by themselves; not to wait for them here
    except ProcessLookupError: pass
    with open(read) as f: said = f.read()
    return dict(dict(out='', err='', counts={}), status=status, seconds=seconds, **(json.loads(said) if said else {}))

def serve():
    "Fork a trial for each line of the input."
    from shell import homes
    for module in homes.values(): __import__(module)
    warm()
    with open(os.dup(1), 'w') as answers:
        os.dup2(2, 1)
        for line in sys.stdin: print(json.dumps(trial(json.loads(line))), file=answers, flush=True)

def warm():
    "Compile what is compiled, so that no child has to."
    from hepdev.data.toy import toy_events
    from hepdev.scale.job import Job, run_job
    events = toy_events(100, seed=0)
    with tempfile.TemporaryDirectory() as d: run_job(Job(network=dict(width=8, depth=2), members=2, epochs=1, bs=32), events, Path(d)/'b').predict(events)

if __name__ == '__main__': serve()
