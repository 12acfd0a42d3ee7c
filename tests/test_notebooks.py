"Every notebook passes nbdev_test, each in a fresh process, so that none leans on what another left behind."
import subprocess
import sysconfig
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent
notebooks = sorted((root/'nbs').glob('[!_.]*.ipynb'))

@pytest.mark.parametrize('notebook', notebooks, ids=[n.stem for n in notebooks])
def test_notebook(notebook):
    run = subprocess.run([Path(sysconfig.get_path('scripts'))/'nbdev_test', notebook], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0 and 'Success.' in run.stdout, run.stdout + run.stderr
