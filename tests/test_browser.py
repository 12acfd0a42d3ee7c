"""Every widget in a real browser: in JupyterLab and in Voila, a user moves, clicks, runs and reads."""
import time

import pytest

from browser import browser, changed, drag, opened, panel, pixels, press, says, server, settled, shot, write_notebook

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
    cut=["""
import numpy as np
from hepdev.evaluate.significance import scale_to
from hepdev.widgets.cut import Cut
rng = np.random.default_rng(0)
process = rng.choice(['Z', 'top', 'W', 'H'], 250_000, p=[0.45, 0.1, 0.1, 0.35])
y = (process == 'H').astype(int)
score = 1/(1 + np.exp(-rng.normal(np.select([y == 1, process == 'top'], [2., 1.], 0.), 1)))
Cut(score, y, scale_to(np.ones(250_000), y, {1: 692., 0: 411_000.}).numpy(), process=process)"""],
    importance=["""
from hepdev import Job, make_bundle, simulate_higgs
from hepdev.data.higgsml import higgs_schema
from hepdev.widgets.importance import Importance
table = simulate_higgs(8000, seed=0)
events = higgs_schema(list(table.columns)).parse(table)
train = events.take(slice(0, 4000))
learn = Job(network=dict(width=16, depth=2), members=4, bs=64).learner(train); learn.fit(train, epochs=4, bs=64)
Importance(make_bundle(learn), events.take(slice(4000, None)))"""],
    compare=[toy.format(events=6000), """
from hepdev import Without, make_bundle
from hepdev.widgets.compare import Compare
runs = {}
for name, epochs, steps in (('long', 6, []), ('short', 1, []), ('without x0', 6, [Without('x0')])):
    recipe = Recipe([*steps, Imputed(), Scaled()]).fit(events.take(slice(0, 3000)))
    learn = learner(); learn.fit(events.take(slice(0, 3000)), epochs=epochs, bs=64); runs[name] = make_bundle(learn, epochs=epochs)
Compare(runs, events)"""],
    two=[toy.format(events=2000) + slowly, '''from ipywidgets import VBox
from hepdev.widgets.live import Live
learn = learner(Slowly()); VBox([Live(learn, events, epochs=50, bs=32).box, Live(learn, events, epochs=50, bs=32).box])'''],
    wrong=[toy.format(events=2000), 'from hepdev.widgets.lr_finder import LRFinder\nLRFinder(learner(), events.take(events.y == 1))'],
    left=[toy.format(events=2000) + slowly, '''from hepdev.widgets.live import Live
class Told(Callback):
    def after_step(self, learn):
        with open('left.txt', 'a') as f: f.write('.')
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
        settled(page)
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

def waits(page, act, text):
    "Seconds from what a user does to the words that answer it."
    start = time.perf_counter()
    act()
    page.wait_for_function("t => document.querySelector('.hepdev-summary').innerText.includes(t)", arg=text, polling=5, timeout=20_000)
    return time.perf_counter() - start

def test_cut(show, record_property):
    "A cut among 250,000 events: dragged, typed, moved by keys, and the best one."
    with show('cut') as page:
        best = pixels(page)
        assert 'This is the best cut.' in says(page, 'Score ≥')
        shot(page, 'cut')
        drag(page, (0.1, 0.25), (0.3, 0.25))
        assert changed(page, best) > 0.001 and 'The best cut is' in says(page, 'The best cut is')
        settled(page)
        dragged = pixels(page)
        number, seconds = panel(page).get_by_role('spinbutton'), {}
        number.fill('0.9')
        seconds['number'] = waits(page, lambda: number.press('Enter'), 'Score ≥ 0.9:')
        assert changed(page, dragged) > 0.001 and 'signal' in panel(page).locator('.hepdev-table').inner_text()
        settled(page)
        panel(page).get_by_role('slider').focus()
        seconds['key'] = waits(page, lambda: page.keyboard.press('ArrowRight'), 'Score ≥ 0.901')
        seconds['best'] = waits(page, lambda: press(page, 'best'), 'This is the best cut.')
        record_property('seconds to react', seconds)

def test_importance(show, record_property):
    "Bars come, are sorted and clicked; a threshold lists what would go; a few columns run again."
    with show('importance') as page:
        first = says(page, 'as a function of')
        column = lambda words: words.split('as a function of ')[1].split()[0]
        bars = pixels(page)
        shot(page, 'importance')
        drag(page, (0.27, 0.5), (0.27, 0.5))
        changed(page, bars)
        assert column(settled(page)) != column(first)
        seconds = waits(page, lambda: panel(page).get_by_label('response of').select_option('PRI_jet_num'), 'as a function of PRI_jet_num')
        record_property('seconds to react', seconds)
        panel(page).get_by_label('sort by').select_option('name')
        says(page, 'by name: DER_deltaeta_jet_jet')
        panel(page).get_by_role('slider').focus()
        for _ in range(10): page.keyboard.press('ArrowRight')
        says(page, 'of 30 would be dropped: ')
        panel(page).get_by_label('run on').select_option(['PRI_met', 'PRI_tau_pt'])
        press(page, 'run')
        says(page, 'of 2 would be dropped')
        panel(page).get_by_label('run on').select_option([])
        press(page, 'run')
        says(page, 'Nothing is chosen')

def test_compare(show):
    "Three runs side by side: histories, ROC curves, differences with errors, scores."
    with show('compare') as page:
        assert 'Last valid_loss' in says(page, 'standard errors')
        curves = pixels(page)
        shot(page, 'compare')
        panel(page).get_by_label('history').select_option('roc_auc')
        says(page, 'Last roc_auc:')
        assert changed(page, curves) > 0.001
        panel(page).get_by_label('scores y').select_option('without x0')
        says(page, 'Scores of without x0')

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
    steps = lambda: (folder/'left.txt').stat().st_size
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
