"""Every widget in a real browser: in JupyterLab and in Voila, a user moves, clicks, runs and reads."""
import time

import pytest

from browser import browser, changed, drag, opened, panel, pixels, press, says, server, shot, write_notebook

toy = '''
from hepdev import Ensemble, Imputed, Learner, Recipe, SaveBest, Scaled, bce, mlp, one_cycle, roc_auc
from hepdev.data.toy import toy_events
events = toy_events({events}, seed=0); recipe = Recipe([Imputed(), Scaled()]).fit(events)
def learner(*cbs): return Learner(Ensemble(mlp(recipe.layout, width=16, depth=2), 5), recipe, bce, cbs=[one_cycle(1e-3), SaveBest(), *cbs], metrics=[roc_auc])
'''
slowly = '''
import time
from hepdev import Callback
class Slowly(Callback):
    def after_step(self, learn): time.sleep(5e-3)
'''
notebooks = dict(
    lr_finder=[toy.format(events=2000), 'from hepdev.widgets.lr_finder import LRFinder\nlearn = learner()\nLRFinder(learn, events, bs=64, steps=200)'],
    live=[toy.format(events=2000) + slowly, 'from hepdev.widgets.live import Live\nLive(learner(Slowly()), events, epochs=8, bs=32)'],
    two=[toy.format(events=2000) + slowly, '''from ipywidgets import VBox
from hepdev.widgets.live import Live
learn = learner(Slowly()); VBox([Live(learn, events, epochs=50, bs=32).box, Live(learn, events, epochs=50, bs=32).box])'''],
    wrong=[toy.format(events=2000), 'from hepdev.widgets.lr_finder import LRFinder\nLRFinder(learner(), events.take(events.y == 1))'],
    left=[toy.format(events=2000) + slowly, '''from pathlib import Path
from hepdev.widgets.live import Live
class Told(Callback):
    def after_step(self, learn): Path('left.txt').write_text(str(learn.step))
live = Live(learner(Slowly(), Told()), events, epochs=1000, bs=32, patience=3)
live'''])

@pytest.fixture(scope='module')
def chrome():
    with browser() as b: yield b

@pytest.fixture(scope='module', params=['lab', 'voila'])
def place(request, tmp_path_factory, chrome):
    "A kind of server, its address, and the folder of its notebooks."
    folder = tmp_path_factory.mktemp(request.param)
    for name, cells in notebooks.items(): write_notebook(folder/f'{name}.ipynb', *cells)
    with server(request.param, folder) as base: yield request.param, base, folder

@pytest.fixture
def show(place, chrome):
    kind, base, _ = place
    return lambda name: opened(chrome, kind, base, f'{name}.ipynb')

def test_lr_finder(show):
    "The curve comes, the line is dragged, and the rate where it was let go is the learner's."
    with show('lr_finder') as page:
        says(page, 'has not been run')
        empty = pixels(page)
        press(page, 'run')
        words = says(page, 'Chosen:')
        assert changed(page, empty) > 0.005 and 'suggestion:' in words
        chosen = lambda: float(panel(page).inner_text().split('Chosen: ')[1].split(',')[0])
        first, before = chosen(), pixels(page)
        drag(page, (0.8, 0.5), (0.4, 0.5))
        changed(page, before)
        page.wait_for_function("t => !document.querySelector('.hepdev-summary').innerText.includes(t)", arg=f'Chosen: {first:.3g},')
        page.wait_for_timeout(500)
        assert 1e-5 < (second := chosen()) < first
        panel(page).get_by_role('slider').focus()
        page.keyboard.press('ArrowRight')
        says(page, f'Chosen: {second*10**0.01:.3g},')
        press(page, 'use')
        says(page, f'The learner trains with {second*10**0.01:.3g}')
        shot(page, 'lr_finder')

def test_live(show):
    "A training is watched, looked at, paused and ended."
    with show('live') as page:
        says(page, 'has not begun')
        empty = pixels(page)
        press(page, 'start')
        says(page, 'valid_loss: mean')
        changed(page, empty)
        press(page, 'peek')
        says(page, 'each event judged by the members that left it out')
        press(page, 'pause')
        says(page, 'is paused')
        paused = pixels(page)
        panel(page).get_by_role('combobox').select_option('roc_auc')
        says(page, 'roc_auc: mean')
        assert changed(page, paused) > 0.001
        press(page, 'go on')
        says(page, 'runs')
        shot(page, 'live')
        press(page, 'end')
        assert 'step 0' not in says(page, 'is over')

def test_what_goes_wrong_shows(show):
    with show('wrong') as page:
        press(page, 'run')
        assert 'of class 1' in says(page, 'DataError')
        assert panel(page).locator('[role=alert]').count() == 1

def test_two_widgets_on_one_learner(show):
    with show('two') as page:
        press(page, 'start')
        says(page, 'runs')
        press(page, 'start', n=1)
        says(page, 'at work already', n=1)
        press(page, 'pause')
        says(page, 'is paused')

def test_closing_the_page_stops_the_work(place, chrome):
    "While the page is open the work goes on longer than patience lasts; after that it ends."
    kind, base, folder = place
    steps = lambda: int((folder/'left.txt').read_text() or 0)
    with opened(chrome, kind, base, 'left.ipynb') as page:
        press(page, 'start')
        says(page, 'runs')
        page.wait_for_timeout(6000)
        first = steps()
        page.wait_for_timeout(1000)
        assert steps() > first > 0, 'it stopped while somebody looked'
        page.close()
        time.sleep(8)
        last = steps()
        time.sleep(1.5)
        assert steps() == last, 'it goes on though nobody looks'
