"""Notebooks as a user sees them: a real JupyterLab and Voila, and a page of headless Chromium."""
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

root = Path(__file__).resolve().parent.parent
flags = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
ready = 'window.jupyterapp && window.jupyterapp.shell.currentWidget && window.jupyterapp.shell.currentWidget.sessionContext'

def chromium():
    "Path of the browser; where there is none the test is skipped, but not in CI, which has to bring one."
    names = 'chromium', 'chromium-browser', 'google-chrome', '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome'
    found = next(filter(None, map(shutil.which, names)), None)
    if not found and os.environ.get('CI'): pytest.fail('CI needs Chromium, and there is none.')
    if not found: pytest.skip('Chromium is not installed.')
    return found

@contextmanager
def browser():
    from playwright.sync_api import sync_playwright
    path = chromium()
    with sync_playwright() as play:
        open_browser = play.chromium.launch(executable_path=path, args=flags)
        try: yield open_browser
        finally: open_browser.close()

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def write_notebook(path, *sources):
    cells = [dict(cell_type='code', id=f'cell{i}', metadata={}, source=s, execution_count=None, outputs=[]) for i, s in enumerate(sources)]
    kernel = dict(display_name='Python 3', language='python', name='python3')
    path.write_text(json.dumps(dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))

def environment(folder):
    "Settings of nobody's but this test's; the kernel imports the package under test."
    config = folder/'config'
    (config/'labconfig').mkdir(parents=True, exist_ok=True)
    (config/'labconfig'/'page_config.json').write_text(json.dumps(dict(disabledExtensions={'@jupyterlab/apputils-extension:announcements': True})))
    settings = folder/'settings'/'@jupyterlab'/'notebook-extension'
    settings.mkdir(parents=True, exist_ok=True)
    (settings/'tracker.jupyterlab-settings').write_text(json.dumps(dict(windowingMode='none')))  # all cells are in the page, wherever it is scrolled to
    places = {f'JUPYTER_{k}_DIR': str(folder/k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')} | {'IPYTHONDIR': str(folder/'ipython'), 'JUPYTERLAB_WORKSPACES_DIR': str(folder/'workspaces'), 'JUPYTERLAB_SETTINGS_DIR': str(folder/'settings')}
    path = os.pathsep.join(filter(None, [str(root), os.environ.get('PYTHONPATH')]))
    return {k: v for k, v in os.environ.items() if k != 'MPLBACKEND'} | places | {'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}

@contextmanager
def server(kind, folder):
    "Address of a JupyterLab or Voila that serves the notebooks of a folder."
    port = free_port()
    commands = dict(
        lab=['jupyterlab', '--no-browser', '--ip=127.0.0.1', f'--port={port}', '--allow-root', '--IdentityProvider.token=', '--LabApp.expose_app_in_browser=True', f'--ServerApp.root_dir={folder}'],
        voila=['voila', str(folder), '--no-browser', f'--port={port}', '--Voila.ip=127.0.0.1', '--VoilaConfiguration.show_tracebacks=True'])
    with open(folder/f'{kind}.log', 'w') as log:
        process = subprocess.Popen([sys.executable, '-m', *commands[kind]], cwd=folder, env=environment(folder), stdout=log, stderr=log)
    try:
        wait_for(f'http://127.0.0.1:{port}/{"api" if kind == "lab" else ""}', process, folder/f'{kind}.log')
        yield f'http://127.0.0.1:{port}'
    finally:
        process.terminate()
        try: process.wait(20)
        except subprocess.TimeoutExpired: process.kill()

def wait_for(url, process, log):
    for _ in range(300):
        try: return urllib.request.urlopen(url, timeout=2).close()
        except OSError: time.sleep(0.3)
        assert process.poll() is None, f'the server ended:\n{log.read_text()}'
    raise TimeoutError(f'{url}\n{log.read_text()}')

@contextmanager
def opened(open_browser, kind, base, name):
    "A page in which all cells of a notebook were run, and its first widget is there; the kernel ends with it."
    page = open_browser.new_page(viewport=dict(width=1280, height=1000))
    if kind == 'voila': page.goto(f'{base}/voila/render/{name}')
    else:
        page.goto(f'{base}/lab/workspaces/{Path(name).stem}/tree/{name}?reset') # a workspace of its own, in which no other notebook is open
        page.wait_for_function(ready, timeout=90_000)
        page.evaluate("""async () => { const app = window.jupyterapp, panel = app.shell.currentWidget;
            await panel.context.ready; await panel.sessionContext.ready; await app.commands.execute('notebook:run-all-cells'); }""")
    try:
        page.wait_for_selector('.hepdev-panel .jupyter-matplotlib canvas', state='attached', timeout=90_000)
        panel(page).scroll_into_view_if_needed()
        yield page
        if kind == 'lab' and not page.is_closed(): page.evaluate('window.jupyterapp.shell.currentWidget.sessionContext.shutdown()')
    finally:
        if not page.is_closed(): page.close()

def panel(page, n=0): return page.locator('.hepdev-panel').nth(n)
def press(page, text, n=0): panel(page, n).locator('button').filter(has_text=text).first.click()

def says(page, text, n=0, seconds=60):
    "Wait until the widget's words contain a text; all its words."
    from playwright.sync_api import expect
    expect(panel(page, n)).to_contain_text(text, timeout=1000*seconds)
    return panel(page, n).inner_text()

def settled(page, n=0):
    "The widget's words, once they have stood still: all that was done has been answered."
    words, since = None, time.monotonic()
    while time.monotonic() - since < 0.7:
        page.wait_for_timeout(50)
        if (now := panel(page, n).inner_text()) != words: words, since = now, time.monotonic()
    return words

def figure(page, n=0): return panel(page, n).locator('.jupyter-matplotlib canvas').last

def drag(page, start, end, n=0):
    "Drag in the figure, between points given as fractions of its width and height from the upper left corner."
    box = figure(page, n).bounding_box()
    at = lambda f: (box['x'] + f[0]*box['width'], box['y'] + f[1]*box['height'])
    page.mouse.move(*at(start))
    page.mouse.down()
    page.mouse.move(*at(end), steps=5)
    page.mouse.up()

def pixels(page, n=0, seconds=20):
    "What the figure looks like, as soon as there is something in it."
    for _ in range(10*seconds):
        found = np.asarray(Image.open(io.BytesIO(figure(page, n).screenshot())).convert('L'), int)
        if found.std() > 5: return found
        page.wait_for_timeout(100)
    raise AssertionError('The figure is empty.')

def changed(page, before, n=0, seconds=20):
    "Wait until the figure looks different from before; the share of its pixels that do."
    for _ in range(10*seconds):
        now = pixels(page, n)
        if now.shape != before.shape: return 1.
        if (share := (abs(now - before) > 30).mean()) > 1e-4: return share
        page.wait_for_timeout(100)
    raise AssertionError('The figure did not change.')

def shot(page, name):
    "A picture for the documentation, where HEPDEV_SHOTS asks for new ones; few colours keep it small."
    if not os.environ.get('HEPDEV_SHOTS'): return
    pixels(page)
    page.wait_for_timeout(1000)
    (root/'nbs'/'images').mkdir(exist_ok=True)
    Image.open(io.BytesIO(panel(page).screenshot())).convert('RGB').quantize(160).save(root/'nbs'/'images'/f'{name}.png', optimize=True)
