"README.md follows from the index notebook; every page renders; what a page points to exists."
import re
import subprocess
import sys
import urllib.parse

import pytest
import yaml
from docs import index, page, process, readme, root

needs_index = pytest.mark.skipif(not index.exists(), reason='nbs/index.ipynb is not there yet')

@needs_index
def test_readme_is_the_index():
    text, figures = readme()
    mend = 'run: python tests/docs.py'
    assert (root/'README.md').read_text(encoding='utf-8') == text, mend
    for name, data in figures.items(): assert (root/name).read_bytes() == data, mend

def test_links_of_the_top_level():
    for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'):
        for target in re.findall(r'\]\(([^)#\s]+)', (root/name).read_text(encoding='utf-8')):
            assert '://' in target or (root/target).exists(), f'{name} points to {target}'

def anchors(html): return {a.lower() for a in re.findall(r'\bid="([^"]+)"', html)}

def resolves(target, here, pages, tree):
    "Is `target`, a link on the page `here`, one that the site can follow?"
    target, _, anchor = urllib.parse.unquote(target).partition('#')
    if target.startswith('/blob/'): return (tree/target.split('/', 3)[3]).exists()
    name = target.lstrip('/') or here
    if not name.endswith('.html'): return (tree/'nbs'/name).exists()
    return name in pages and (not anchor or anchor.lower() in anchors(pages[name]))

def test_pages(tree):
    made = process(tree)
    assert [p.name for p in made] == sorted(p.name for p in (tree/'nbs').glob('[!_.]*.ipynb'))
    pages = dict(page(p) for p in made)
    assert len(pages) == len(made), 'two notebooks make one page'
    dead = [f'{here} -> {target}' for here, html in pages.items()
            for target in re.findall(r'<a (?!class="anchor-link")[^>]*href="([^"]+)"', html)
            if not re.match(r'[a-z]+:', target) and not resolves(target, here, pages, tree)]
    assert not dead, '\n'.join(dead)
    for broken in ('/nowhere.html', '/core.html#nowhere', '999_nowhere.ipynb', '/blob/main/hepdev/nowhere.py#L1'):
        assert not resolves(broken, 'core.html', pages, tree)

def test_site_settings(tree):
    code = 'from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml; refresh_quarto_yml(); nbdev_sidebar()'
    subprocess.run([sys.executable, '-c', code], cwd=tree, check=True)
    site = yaml.safe_load((tree/'nbs'/'_quarto.yml').read_text())
    assert site == yaml.safe_load((tree/'_quarto.yml').read_text()) and site['project']['type'] == 'website'
    assert (tree/'nbs'/site['format']['html']['css']).exists()
    made = {name: yaml.safe_load((tree/'nbs'/name).read_text()) for name in site['metadata-files']}
    assert made['nbdev.yml']['project']['output-dir'] == site['project']['output-dir']
    listed = made['sidebar.yml']['website']['sidebar']['contents']
    assert sorted(listed) == sorted(p.name for p in (tree/'nbs').glob('[!_.]*.ipynb'))
