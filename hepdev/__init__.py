__version__ = "0.1.0"

_homes = {
    'data.schema': 'Schema Column Objects Particles Events events_of', 'data.expressions': 'Expression', 'data.conversion': 'Conversion Sample', 'data.convert': 'convert', 'data.foldfile': 'FoldFile write_foldfile', 'data.sources': 'read_table open_source', 'data.higgsml': 'higgs_schema',
    'data.recipe': 'Recipe Cartesian Derived Without Numbered Aligned Imputed Scaled Principal Each Energy Relative Logged',
    'data.targets': 'standard_scale no_scale', 'models.stack': 'Ensemble', 'models.heads': 'mlp shared_mlp', 'models.shared': 'each_branch',
    'models.composed': 'composed', 'models.objects': 'block Packing', 'models.clouds': 'check_block', 'physics.generate': 'jets generate_jets',
    'train.learner': 'Learner Callback', 'train.history': 'History', 'train.schedule': 'one_cycle cycles warm_up constant lr_range', 'train.stop': 'SaveBest EarlyStop',
    'train.augment': 'Augment', 'train.losses': 'bce cross_entropy focal smooth_bce smooth_cross_entropy mse mae huber quantile gaussian fractional',
    'train.average': 'EMA SWA RenewedSWA', 'train.parameters': 'Freeze RateFactors Decay load_parts', 'train.data': 'Bagging Targets Reweight Smooth Mixup', 'train.significance': 'Significance',
    'train.columns': 'Subsample Parametrised', 'train.thresholds': 'BinnedHuber', 'train.gradients': 'ClipGrad Accumulate', 'train.lsuv': 'LSUV', 'train.decorrelate': 'DisCo Pivot',
    'train.faster': 'FastForward', 'ensemble.snapshots': 'Snapshots with_snapshots fge',
    'interpret.permute': 'importance', 'interpret.response': 'response response_2d', 'interpret.attribute': 'attribute', 'interpret.hooks': 'recording', 'interpret.embedding': 'embedding_map',
    'interpret.related': 'correlation blocks uncorrelated', 'interpret.forest': 'forest ranking repeated_ranking', 'interpret.dependence': 'dependence', 'interpret.select': 'removal select', 'interpret.shift': 'shift',
    'physics.shifts': 'Shift higgs_shifts', 'measure.variations': 'Variations score_variations', 'measure.templates': 'fill_templates', 'measure.fit': 'workspace significance interval upper_limit', 'measure.cross': 'cross_predict',
    'measure.spread': 'Refits refit_scores three_spreads', 'measure.training': 'Shifted Steady Inference with_nuisances', 'measure.coverage': 'coverage', 'measure.learning': 'learning_curve', 'measure.versus': 'fold_test',
    'widgets.lr_finder': 'LRFinder', 'widgets.live': 'Live', 'widgets.importance': 'Importance', 'widgets.cut': 'Cut', 'widgets.compare': 'Compare',
    'evaluate.metrics': 'roc_auc rejection', 'evaluate.significance': 'ams best_cut', 'evaluate.uncertainty': 'bootstrap bootstrap_auc bootstrap_ams',
    'ensemble.bundle': 'Bundle make_bundle load_bundle', 'scale.job': 'Job run_job', 'scale.verify': 'verify_file', 'scale.export': 'save_served', 'scale.serve': 'load_served', 'physics.simulate': 'simulate_higgs'}
_home = {noun: module for module, nouns in _homes.items() for noun in nouns.split()}
__all__ = [*_home]

def __dir__(): return sorted([*globals(), *__all__])

def __getattr__(name):
    "Import a noun when it is first asked for, so that `import hepdev` stays light (PEP 562)."
    if name in _home:
        from importlib import import_module
        try: return getattr(import_module(f'.{_home[name]}', __name__), name)
        except ModuleNotFoundError as e:
            if not _home[name].startswith('widgets.'): raise
            raise ImportError(f"{name} needs {e.name}: pip install 'hepdev[widgets]'.") from e
    if name.startswith('_'): raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .core import unknown
    raise AttributeError(str(unknown(f'name in {__name__}', name, __all__)))
