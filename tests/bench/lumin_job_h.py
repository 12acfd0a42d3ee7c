#!/usr/bin/env python
"""Job H, the HiggsML recipe of Strong (2020), with LUMIN 0.9.1 (run it with a Python that has LUMIN: pip install torch==2.13.0 lumin==0.9.1 pqdm; pip install --no-deps pdpbox).

10 networks of 6 x 33 with dense connections and Swish; jet number embedded in 3; Adam, batch 256; each network trains on 9 of 10
stratified folds (member i is validated on fold i); 1-cycle LR 1e-4 -> 1e-2 over a third of the epochs, then to 0, momentum
0.95 -> 0.85 -> 0.95, cosine; rotations in phi and flips in y and z in training; mean over the 8 fixed views in prediction; best epoch
by validation loss kept; ensemble weighted by 1/loss. Preparation is LUMIN's own, step by step as in the author's paper: -999 -> NaN,
proc_event to cartesian columns (PRI_met_pt kept), fit_input_pipe, proc_cats, weights normalised per class, df2foldfile, HEPAugFoldYielder.

    lumin_job_h.py --train CSV --test CSV --members 10 --epochs 15 --threads 1 --out scores.csv
    lumin_job_h.py --train CSV --fold 0 ...         # instead of --test: test on EventId % 5 == 0, train on the rest
    lumin_job_h.py ... --lr-find                   # the learning-rate finder only
    lumin_job_h.py ... --rows 200000 --test-rows 50000   # timing: rows repeated with 1 % noise (or cut) to these counts
"""
import argparse, os

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('--train', required=True)
p.add_argument('--test')
p.add_argument('--fold', type=int, help='cross-validation: test on EventId %% 5 == FOLD of --train, train on the others')
p.add_argument('--members', type=int, default=10)
p.add_argument('--epochs', type=int, default=15)
p.add_argument('--threads', type=int, default=1)
p.add_argument('--rows', type=int, help='number of training events (repeats or cuts the file)')
p.add_argument('--test-rows', type=int, help='number of test events (repeats or cuts the file)')
p.add_argument('--seed', type=int, default=0)
p.add_argument('--weight-mean', action='store_true', help='normalise each class to mean weight 1, not (as the author does) to sum 1')
p.add_argument('--verbose', action='store_true', help="show LUMIN's own printing")
p.add_argument('--lr-find', action='store_true', help='time the learning-rate finder over all folds instead')
p.add_argument('--out')
args = p.parse_args()
if (args.test is None) == (args.fold is None): p.error('give either --test or --fold')

for k in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'NUMEXPR_NUM_THREADS'): os.environ[k] = str(args.threads)
os.environ['MPLBACKEND'] = 'Agg'

import contextlib, io, json, random, shutil, tempfile, time, warnings
from functools import partial
from pathlib import Path
import numpy as np, pandas as pd, torch
from sklearn.metrics import roc_auc_score

warnings.filterwarnings('ignore')
torch.set_num_threads(args.threads)

# Patch: LUMIN's own saves hold numpy scalars (the scheduled LR and momentum) that torch >= 2.6 refuses to load by default.
_torch_load = torch.load
def _load(*a, **k): return _torch_load(*a, **{'weights_only': False, **k})
torch.load = _load

from lumin.data_processing.file_proc import df2foldfile
from lumin.data_processing.hep_proc import proc_event
from lumin.data_processing.pre_proc import fit_input_pipe, proc_cats
from lumin.nn.callbacks.cyclic_callbacks import OneCycle
from lumin.nn.data.fold_yielder import HEPAugFoldYielder
from lumin.nn.ensemble.ensemble import Ensemble
from lumin.nn.models.blocks.body import FullyConnected
from lumin.nn.models.helpers import CatEmbedder
from lumin.nn.models.model_builder import ModelBuilder
from lumin.nn.training.train import train_models
from lumin.optimisation.hyper_param import lr_find

CAT = ['PRI_jet_num']

def resize(df, n, rng):
    "`df` with `n` rows: a random subset, or whole copies with 1 % noise on the continuous columns after the first copy."
    if n is None or n == len(df): return df
    if n < len(df): return df.sample(n, random_state=int(rng.integers(2**31)))
    idx = np.concatenate([rng.permutation(len(df)) for _ in range(-(-n // len(df)))])[:n]
    idx[:len(df)] = np.arange(len(df))
    out = df.iloc[idx].reset_index(drop=True)
    for c in [c for c in df if c[:4] in ('DER_', 'PRI_') and c not in CAT]:
        x = out[c].to_numpy(float, copy=True)
        ok = x != -999.
        ok[:len(df)] = False
        x[ok] += 0.01 * x[x != -999.].std() * rng.standard_normal(ok.sum())
        out[c] = x
    return out

def clean(df):
    "LUMIN's columns: cartesian, NaN where missing, gen_target, gen_weight."
    df = df.rename(columns={'KaggleWeight': 'gen_weight', 'PRI_met': 'PRI_met_pt'}).drop(columns=['Weight', 'KaggleSet'], errors='ignore')
    df['gen_target'] = (df.pop('Label') == 's').astype(int)
    df['gen_orig_weight'] = df.gen_weight
    proc_event(df, use_cartesian=True, ref_vec_0='PRI_lep', ref_vec_1='PRI_tau', default_vals=[-999.0], keep_feats=['PRI_met_pt'])
    return df

def foldfile(df, path, **kw):
    Path(f'{path}.hdf5').touch()  # df2foldfile removes it by shell
    df2foldfile(df=df, savename=str(path), cat_feats=CAT, targ_feats='gen_target', wgt_feat='gen_weight', targ_type='int', **kw)

def main(tmp):
    random.seed(args.seed); np.random.seed(args.seed); torch.manual_seed(args.seed)
    rng, t = np.random.default_rng(args.seed), time.perf_counter
    train = pd.read_csv(args.train)
    if args.test: test = pd.read_csv(args.test)
    else: train, test = [train[m].reset_index(drop=True) for m in (train.EventId % 5 != args.fold, train.EventId % 5 == args.fold)]
    train, test = resize(train, args.rows, rng), resize(test, args.test_rows, rng)

    t0 = t()
    train, test = clean(train.reset_index(drop=True)), clean(test.reset_index(drop=True))
    cont = sorted(c for c in train if c[:4] in ('DER_', 'PRI_') and c not in CAT)  # LUMIN makes them in set order: a seed would not repeat
    assert len(cont) == 30, cont
    pipe = fit_input_pipe(train, cont, str(tmp / 'input_pipe'))
    for d in (train, test): d[cont] = pipe.transform(d[cont].values.astype('float32'))
    cat_maps, _ = proc_cats(train, CAT, None, test)
    for c in (0, 1):
        m = train.gen_target == c
        train.loc[m, 'gen_weight'] /= train.loc[m, 'gen_weight'].mean() if args.weight_mean else train.loc[m, 'gen_weight'].sum()
    train['strat'] = train.gen_target * 10 + train.PRI_jet_num
    foldfile(train, tmp / 'train', n_folds=10, cont_feats=cont, cat_maps=cat_maps, strat_key='strat')
    foldfile(test, tmp / 'test', n_folds=10, cont_feats=cont, cat_maps=cat_maps, shuffle=False, misc_feats=['EventId', 'gen_orig_weight'])
    t_prep = t() - t0

    fy = HEPAugFoldYielder(tmp / 'train.hdf5', rot_mult=2, reflect_y=True, reflect_z=True)
    test_fy = HEPAugFoldYielder(tmp / 'test.hdf5', rot_mult=2, reflect_y=True, reflect_z=True)
    assert test_fy.aug_mult == 8
    up = max(1, round(args.epochs / 3))
    builder = ModelBuilder('classifier', cont_feats=fy.cont_feats, n_out=1, cat_embedder=CatEmbedder.from_fy(fy, emb_szs=[3]),
                           body=partial(FullyConnected, act='swish', width=33, depth=6, dense=True), opt_args={'opt': 'adam', 'eps': 1e-8})
    cycle = partial(OneCycle, lengths=(up, max(1, args.epochs - up)), lr_range=[1e-4, 1e-2], mom_range=(0.85, 0.95), interp='cosine')
    if args.lr_find:
        t0 = t()
        finders = lr_find(fy, builder, bs=256, lr_bounds=[1e-5, 1.], show_plot=False, cb_partials=[])
        return dict(lr_find_s=t() - t0, folds=len(finders), steps=len(finders[0].history['lr']))
    for i in range(args.members): (tmp / 'weights' / f'model_id_{i}').mkdir(parents=True)  # train_models removes them by shell
    t0 = t()
    results, _, _ = train_models(fy, args.members, bs=256, model_builder=builder, n_epochs=args.epochs, cb_partials=[cycle],
                                 live_fdbk=False, savepath=tmp / 'weights')
    t_train = t() - t0

    t0 = t()
    ensemble = Ensemble.from_results(results, args.members, model_builder=builder, metric='loss', weighting='reciprocal')
    t_load = t() - t0
    t0 = t()
    ensemble.predict(test_fy, pred_name='pred')
    t_pred = t() - t0

    col = lambda c: test_fy.get_column(c).ravel()
    out = pd.DataFrame({'EventId': col('EventId'), 'score': col('pred')})
    y, w = col('targets'), col('gen_orig_weight')
    n_par = sum(q.numel() for q in ensemble.models[0].model.parameters())
    if args.out: out.to_csv(args.out, index=False)
    return dict(lumin='0.9.1', torch=torch.__version__, threads=args.threads, members=args.members, epochs=args.epochs, parameters=n_par,
                train_events=len(train), test_events=len(test), seed=args.seed, prepare_s=round(t_prep, 2), train_s=round(t_train, 2),
                train_s_per_member_epoch=round(t_train / args.members / args.epochs, 3), load_s=round(t_load, 2), predict_s=round(t_pred, 2),
                val_loss=[float(r['loss']) for r in results], auc_weighted=round(float(roc_auc_score(y, out.score, sample_weight=w)), 5),
                auc_unweighted=round(float(roc_auc_score(y, out.score)), 5))

tmp = Path(tempfile.mkdtemp(prefix='lumin_jobh_'))
try:
    quiet = contextlib.nullcontext() if args.verbose else contextlib.redirect_stdout(io.StringIO())
    with quiet: res = main(tmp)
finally:
    shutil.rmtree(tmp, ignore_errors=True)
print('RESULT ' + json.dumps(res))
