"""flowjax: every way to train a flow map, as pure functions in one notation.

    F(x, s, t) = x + (t - s) V(x, s, t)        s: source time, t: target time, 0 = data, 1 = noise

`flowjax.losses` are the equations, `flowjax.methods` the published recipes, `flowjax.exact` the flow maps known in closed
form. A module is imported when it is first read, as `flowjax.training.train`.
"""

import importlib
import pkgutil

__version__ = "0.1.0"
__all__ = sorted(module.name for module in pkgutil.iter_modules(__path__))


def __getattr__(name):
    if name in __all__:
        return importlib.import_module(f"flowjax.{name}")
    raise AttributeError(f"module 'flowjax' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__():
    return [*__all__, "__version__"]
