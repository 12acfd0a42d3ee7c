"""The documentation without Quarto: README.md from the index notebook, and every page as HTML.

`python tests/docs.py` writes README.md and the figures that it shows."""
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml
from nbconvert import HTMLExporter, MarkdownExporter

root = Path(__file__).resolve().parent.parent
index = root/'nbs'/'index.ipynb'

def readme():
    "Text of README.md, and the bytes of each figure in it by its path."
    nb = nbformat.read(index, 4)
    nb.metadata.language_info = {'name': 'python'}
    nb.cells = [c for c in nb.cells if not re.match(r'#\| *hide', c.source)]
    for c in nb.cells: c.source = re.sub(r'\A(#\|.*\n)+', '', c.source)
    text, made = MarkdownExporter().from_notebook_node(nb, resources={'unique_key': 'index', 'output_files_dir': 'index_files'})
    text = re.sub(r'\]\(([\w.]+\.ipynb)', r'](nbs/\1', text)
    text = re.sub(r'^[ \t]+$', '', text, flags=re.M)
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n', made['outputs']

def process(tree):
    "Notebooks as nbdev hands them to Quarto: directives obeyed, documentation of each exported name added."
    code = 'from nbdev.serve import proc_nbs; proc_nbs(force=True, n_workers=0)'
    run = subprocess.run([sys.executable, '-c', code], cwd=tree, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr.rpartition('Exception: ')[2]
    return sorted((tree/'_proc').glob('*.ipynb'))

def page(path):
    "Name of the page made from a processed notebook, and its HTML."
    raw = json.loads(path.read_text(encoding='utf-8'))
    for cell in raw['cells']:
        cell.pop('has_sd', None)
        cell['metadata'].pop('execution', None)
    raw['metadata'].pop('widgets', None)
    nb = nbformat.reads(json.dumps(raw), 4)
    front = yaml.safe_load(nb.cells[0].source.strip().strip('-')) if nb.cells[0].cell_type == 'raw' else {}
    return front.get('output-file', f'{path.stem}.html'), HTMLExporter().from_notebook_node(nb)[0]

if __name__ == '__main__':
    text, figures = readme()
    (root/'README.md').write_text(text, encoding='utf-8')
    for name, data in figures.items():
        (root/name).parent.mkdir(exist_ok=True)
        (root/name).write_bytes(data)
