"""Weights mean weights, in every metric, every cut and every bootstrap: weight 2 is the event twice, weight 0 the event absent (whatever its
prediction), the order of events is nothing, and the unit of the weights is nothing where a mean is meant."""
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from hepdev.evaluate import metrics
from hepdev.evaluate.significance import ams, ams_at, ams_scan, best_cut, cut_at_efficiency, scale_to, smooth_ams
from hepdev.evaluate.uncertainty import auc_error, bootstrap, bootstrap_ams, bootstrap_auc, paired_difference, roc_band

law = partial(settings, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**32).map(np.random.default_rng)
scales = st.floats(-6, 6).map(lambda power: 10.**power)
signs = st.sampled_from([(1,), (1, 1, 1, 1, -1)])

def close(a, b, rel=1e-9):
    a, b = (torch.as_tensor(t, dtype=torch.float64) for t in (a, b))
    torch.testing.assert_close(a, b, rtol=rel, atol=rel, equal_nan=True)

def events(rng, kind, sign=(1,)):
    "Predictions of two members with many ties, targets with all classes, weights of whole numbers and of either sign."
    n = int(rng.integers(12, 60))
    y = np.r_[0, 1, 2, rng.integers(0, 3, n - 3)]
    w = rng.integers(0, 4, n)*rng.choice(sign, n)
    w[:3] = 12
    if kind == 'binary': return rng.integers(0, 11, (2, n))/10, np.minimum(y, 1), w
    if kind == 'classes': return rng.dirichlet(np.ones(3), (2, n)), y, w
    return rng.integers(1, 20, (2, n))*1., rng.integers(1, 5, n)*1., w

METRICS = {f: kind for kind, names in dict(
    binary='roc_auc accuracy log_loss brier', classes='log_loss_multiclass accuracy_multiclass auc_multiclass auc_per_class',
    numbers='mse mae pull_mean pull_std resolution').items() for f in names.split()}

@pytest.mark.parametrize('name', METRICS)
@law(max_examples=25)
@given(rng=seeds, scale=scales, sign=signs)
def test_metric(name, rng, scale, sign):
    metric, kind = getattr(metrics, name), METRICS[name]
    pred, y, w = events(rng, kind, sign if name != 'pull_std' else (1,))
    value, n = metric(pred, y, w), len(y)
    def rows(i, weight): return metric(pred[:, i], y[i], weight)
    close(rows(np.repeat(np.arange(n), abs(w)), np.repeat(np.sign(w), abs(w))), value)
    close(rows(w != 0, w[w != 0]), value)
    shuffled = rng.permutation(n)
    close(rows(shuffled, w[shuffled]), value)
    close(metric(pred, y, w*scale), value)
    close(torch.stack([metric(p, y, w) for p in pred]), value)
    spoilt = pred.copy()
    spoilt[:, w == 0] = np.nan
    close(metric(spoilt, y, w), value)
    spoilt[0, 0] = np.nan
    assert metric(spoilt, y, w)[0].isnan().any() and not metric(spoilt, y, w)[1].isnan().any()

@law(max_examples=50)
@given(rng=seeds, scale=scales, sign=signs)
def test_scan_and_cut(rng, scale, sign):
    score, y, w = events(rng, 'binary', sign)
    i, k = np.repeat(np.arange(len(y)), abs(w)), rng.permutation(len(y))
    def curves(score, y, w, br=10.):
        "Scan and its smoothed form, one point for each distinct score of events that count."
        scan, out = ams_scan(score, y, w, br=br), []
        for t, *values in zip(scan.threshold, scan.signal, scan.background, scan.ams, smooth_ams(scan)):
            first = torch.nn.functional.pad(t[1:] != t[:-1], (1, 0), value=True) & t.isfinite()
            out += [torch.stack([t, *values])[:, first]]
        return torch.cat(out, 1)
    once = curves(score, y, w)
    close(curves(score[:, i], y[i], np.repeat(np.sign(w), abs(w))), once, 1e-7)
    close(curves(score[:, w != 0], y[w != 0], w[w != 0]), once, 1e-7)
    close(curves(score[:, k], y[k], w[k]), once, 1e-7)
    root = torch.tensor([1., scale, scale, scale**0.5, scale**0.5])[:, None].double()
    torch.testing.assert_close(curves(score, y, w*scale, br=10*scale), once*root, rtol=1e-6, atol=1e-6*float(root.max()))
    cut = best_cut(score, y, w)
    s, b = (float(w[y == c].sum()) for c in (1, 0))
    close(ams_at(score, y, w, threshold=cut.threshold), ams(cut.signal_efficiency*s, cut.background_efficiency*b), 1e-7)
    close(cut.efficiency, (cut.signal_efficiency*s + cut.background_efficiency*b)/(s + b))
    for row, c in zip(score, cut.threshold): assert c == best_cut(row, y, w).threshold
    for row, top in zip(score, best_cut(score, y, w, window=0).ams):
        cuts = np.unique(row[w != 0])
        s, b = (np.array([w[(row >= t) & (y == c)].sum() for t in cuts]) for c in (1, 0))
        close(ams(torch.tensor(s), torch.tensor(b)).max(), top, 1e-7)

@law(max_examples=25)
@given(rng=seeds, scale=scales)
def test_cut_carries_over(rng, scale):
    score, y, w = events(rng, 'binary')
    i, k = np.repeat(np.arange(len(y)), w), rng.permutation(len(y))
    cut = best_cut(score, y, w)
    for same in (cut_at_efficiency(score, w*scale, efficiency=cut.efficiency), cut_at_efficiency(score[:, i], efficiency=cut.efficiency),
                 cut_at_efficiency(score[:, k], w[k], efficiency=cut.efficiency)): close(same, cut.threshold)
    scaled = scale_to(w*scale, y, {0: 400., 1: 7.})
    close([scaled[y == 0].sum(), scaled[y == 1].sum()], [400., 7.])

BOOTSTRAPS = dict(auc=bootstrap_auc, ams=partial(bootstrap_ams, threshold=0.4), ams_free=partial(bootstrap_ams, threshold=0.4, stratified=False),
                  any=partial(bootstrap, metrics.brier), roc=lambda score, *a, **k: roc_band(score[0], *a, fpr=np.linspace(0.0123, 0.9876, 9), **k))

@pytest.mark.parametrize('name', BOOTSTRAPS)
@law(max_examples=10)
@given(rng=seeds, scale=scales)
def test_bootstrap(name, rng, scale):
    """Weight 0 is absence, replica by replica; the unit is nothing for means; the value obeys all laws. (The error of a weight 2 is larger than that of
    two events: they are drawn together.)"""
    score, y, w = (np.concatenate([t]*8, -1) for t in events(rng, 'binary'))
    score = score + 1e-3*rng.normal(size=score.shape).clip(-1, 1)
    take = dict(replicas=20, seed=int(rng.integers(100)))
    score = score.clip(0, 1)
    e, here = BOOTSTRAPS[name](score, y, w, **take), w != 0
    close(BOOTSTRAPS[name](score[:, here], y[here], w[here], **take).replicas, e.replicas, 1e-5)
    close(BOOTSTRAPS[name](score, y, w, **take).replicas, e.replicas, 0.)
    close(BOOTSTRAPS[name](score, y, w, replicas=7, seed=take['seed']).replicas, e.replicas[:7], 0.)
    if not name.startswith('ams'): close(BOOTSTRAPS[name](score, y, w*scale, **take).replicas, e.replicas, 1e-5)
    i = np.repeat(np.arange(len(y)), w)
    close(BOOTSTRAPS[name](score[:, i], y[i], **take).value, e.value)

@law(max_examples=10)
@given(rng=seeds)
def test_bootstrap_against_slow_way(rng):
    score, y, w = (np.concatenate([t]*6, -1) for t in events(rng, 'binary', (1, 1, 1, 1, 1, 1, -1)))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        close(bootstrap_auc(score, y, w, replicas=9).replicas, bootstrap(metrics.roc_auc, score, y, w, replicas=9, stratified=False).replicas, 1e-5)
        for stratified in (True, False):
            slow = bootstrap(partial(ams_at, threshold=0.4), score, y, w, replicas=9, stratified=stratified)
            close(bootstrap_ams(score, y, w, threshold=0.4, replicas=9, stratified=stratified).replicas, slow.replicas, 1e-4)
    finally: torch.set_num_threads(threads)
    gap = paired_difference(*score, y, w, replicas=9)
    each = bootstrap_auc(score, y, w, replicas=9).replicas
    close(gap.replicas, each[:, 0] - each[:, 1])

@pytest.mark.slow
def test_coverage():
    "68 % intervals hold the truth in 68 % of samples: AUC by bootstrap and analytically, significance of a cut with free and with fixed yields."
    rng, trials, n = np.random.default_rng(0), 800, 2000
    hits, auc = [], norm.cdf(1/np.sqrt(2))
    mean_w, cut = 1.5, 1.
    s, b = (1500*norm.sf(cut - shift)*f for shift, f in ((1, 0.2), (0, 1.)))
    truth = float(ams(torch.tensor(s), torch.tensor(b)))
    for t in range(trials):
        y = np.arange(n) % 2
        score, w = rng.normal(y, 1), rng.choice([0.5, 1., 3.], n)/mean_w
        fixed = scale_to(w, y, {1: 300., 0: 1500.})
        found = (bootstrap_auc(score, y, w, replicas=200, seed=t), auc_error(score, y, w),
                 bootstrap_ams(score, y, fixed, threshold=cut, replicas=200, seed=t))
        hits.append([bool(e.low <= v <= e.high) for e, v in zip(found, (auc, auc, truth))])
    coverage = np.mean(hits, 0)
    assert (abs(coverage - 0.6827) < 0.015 + 3*np.sqrt(0.68*0.32/trials)).all(), coverage
