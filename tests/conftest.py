"What all tests share: one thread per process (the processes run side by side), and a scratch copy of the project."
import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault('OMP_NUM_THREADS', '1')

root = Path(__file__).resolve().parent.parent

@pytest.fixture
def tree(tmp_path):
    "A copy of everything from which package and documentation are made."
    copy, scraps = tmp_path/'tree', shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', '.last_checked')
    copy.mkdir()
    for path in root.iterdir():
        if path.is_file(): shutil.copy2(path, copy)
    for folder in ('hepdev', 'nbs'): shutil.copytree(root/folder, copy/folder, symlinks=True, ignore=scraps)
    return copy
