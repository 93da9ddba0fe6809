"Dream-OOD: imagine outliers with a text-to-image model, and train a classifier to say \"I don't know\"."
__version__ = "0.0.1"

from importlib import import_module

# What a program needs, and where it is defined; loaded when it is first asked for, as torch and diffusers take seconds.
_HOME = {
    'core': ['DreamError'],
    'settings': ['ImageFormat', 'LatentSpace', 'Pool', 'Training'],
    'data': ['ImageSet'],
    'foundation': ['load_foundation', 'prepare', 'anchors', 'draw'],
    'latent_space': ['train_encoder', 'embed'],
    'sampling': ['sample', 'sample_classes'],
    'training': ['train_classifier'],
    'detectors': ['Detector'],
    'evaluation': ['ood_metrics'],
    'classifier': ['load'],
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}
__all__ = list(_WHERE)


def __getattr__(name):
    if name not in _WHERE: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'.{_WHERE[name]}', __name__), name)


def __dir__(): return [*globals(), *__all__]
