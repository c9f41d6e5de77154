"""Low-rank factors beside frozen weights: a network sees W + scale A B, and A and B alone are trained.

The factors of a tree of weights are a tree with the same names, in which the place of a chosen kernel holds {"a": A, "b": B} and that
of weights trained whole {"delta": their change}; other weights have no place. What a network is called with is `merged(base, factors)`,
so nothing else knows of factors: losses, tangents and samplers see plain weights.

Hu et al. 2021 (arXiv 2106.09685), section 4.1, whose alpha / r is `scale` here; added to the weights of another run it is LCM-LoRA, Luo
et al. 2023 (arXiv 2311.05556).
"""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import typing

Tree = Any  # nested dicts of arrays
KERNELS = "kernel$"  # where factors are unless somebody says otherwise


def init(key: jax.Array, base: Tree, rank: int, at: str = KERNELS, whole: Callable[[str], bool] = lambda path: False) -> Tree:
    """Factors that change nothing: A is normal with variance 1 / rows (ours), B is 0.

    A kernel [m, n] has A [m, r] and B [r, n]; one of a convolution, [..., m, n], is folded to [... m, n]; one of blocks in a scan,
    [layers, m, n] (an odd number of dimensions), has factors for each layer. A kernel that has no more numbers than its factors would
    have is trained whole.

    Args:
      key: of A.
      base: the frozen weights.
      rank: r, at least 1.
      at: a regular expression; weights of two dimensions or more in whose path, "blocks/qkv/kernel", it occurs have factors.
      whole: which paths are trained whole.

    Raises:
      InputError: for another rank or expression, or if no kernel has such a path.

    Example:
      >>> base = {"dense": {"kernel": jnp.ones((8, 6)), "bias": jnp.zeros(6)}}
      >>> jax.tree.map(jnp.shape, init(jax.random.key(0), base, 2))
      {'dense': {'kernel': {'a': (8, 2), 'b': (2, 6)}}}
    """
    if not isinstance(rank, int) or rank < 1:
        raise typing.InputError(f"adapter: the rank is {rank!r}; expected a whole number of at least 1, such as 8.")
    expression, factors, any_factored = pattern("at", at), {}, False
    for number, (path, leaf) in enumerate(leaves(base)):
        factored = leaf.ndim > 1 and expression.search(path)
        any_factored |= bool(factored)
        if whole(path):
            _put(factors, path, {"delta": jnp.zeros_like(leaf)})
        elif factored:
            _put(factors, path, _factors(jax.random.fold_in(key, number), leaf, rank))
    if not any_factored:
        kernels = [path for path, leaf in leaves(base) if leaf.ndim > 1]
        raise typing.InputError(
            f"adapter: no kernel has a path with {at!r}; the network has {', '.join(kernels[:6])}"
            f"{', ...' if len(kernels) > 6 else ''}: --config.adapter.at={KERNELS} for all."
        )
    return factors


def merged(base: Tree, factors: Tree, scale: float = 1.0) -> Tree:
    """W + scale A B in the place of each W of `base` that has factors, or W + scale delta; no gradient reaches `base`.

    Args:
      base: the frozen weights, or those of another run with the same network.
      factors: as of `init`.
      scale: of the change, 0 for none.

    Raises:
      InputError: for factors of another network.

    Example:
      >>> base = {"kernel": jnp.eye(2)}
      >>> merged(base, {"kernel": {"a": jnp.ones((2, 1)), "b": jnp.ones((1, 2))}}, 0.5)["kernel"].tolist()
      [[1.5, 0.5], [0.5, 1.5]]
    """
    return _merged(jax.lax.stop_gradient(base), factors, scale, "")


def count(tree: Tree) -> int:
    """The numbers in a tree of arrays, or of their shapes."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def leaves(tree: Tree) -> Iterator[tuple[str, Any]]:
    """(path, array) of a tree of weights: ("blocks/qkv/kernel", ...)."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def pattern(field: str, text: str) -> re.Pattern:
    """A compiled regular expression; raises InputError, naming the field of config.adapter, for what is none."""
    try:
        return re.compile(text)
    except re.error as error:
        raise typing.InputError(
            f"config.adapter.{field} is {text!r}, which is no regular expression ({error}); expected one that occurs in the paths of"
            " weights, such as kernel$ or blocks/(qkv|mlp_in)."
        ) from error


def _factors(key, kernel, rank):
    layers, m, n = _folded(kernel.shape)
    if rank * (m + n) >= m * n:
        return {"delta": jnp.zeros_like(kernel)}
    a = jax.random.normal(key, (*layers, m, rank), kernel.dtype) / jnp.sqrt(m).astype(kernel.dtype)
    return {"a": a, "b": jnp.zeros((*layers, rank, n), kernel.dtype)}


def _folded(shape):
    """(axes of layers, rows, columns) of a kernel."""
    layers = shape[:1] if len(shape) % 2 else ()
    return layers, math.prod(shape[len(layers) : -1]), shape[-1]


def _merged(base, factors, scale, path):
    if not isinstance(base, dict):
        return base + (scale * _change(base, factors, path)).astype(base.dtype)
    if not isinstance(factors, dict) or (unknown := [name for name in factors if name not in base]):
        name = f"{path}/{unknown[0]}" if isinstance(factors, dict) else path
        raise typing.InputError(
            f"the adapter is of another network: it has factors for {name.strip('/')}, which these weights lack; expected an adapter"
            " of a run with the same config.model."
        )
    return {
        name: _merged(sub, factors[name], scale, f"{path}/{name}".strip("/")) if name in factors else sub
        for name, sub in base.items()
    }


def _change(weights, factors, path):
    """A B, or the change of weights that are trained whole, in the shape of the weights."""
    if isinstance(factors, dict) and set(factors) == {"delta"}:
        change = factors["delta"]
    elif isinstance(factors, dict) and set(factors) == {"a", "b"}:
        # In full precision, because it is done once and not for each row.
        change = jnp.matmul(factors["a"], factors["b"], precision=jax.lax.Precision.HIGHEST)
    else:
        change = jnp.zeros(())
    if change.size != weights.size or change.shape[-1:] != weights.shape[-1:]:
        raise typing.InputError(
            f"the adapter is of another network: its change of {path} has the shape {change.shape}, and the weights have"
            f" {weights.shape}; expected an adapter of a run with the same config.model."
        )
    return change.reshape(weights.shape)


def _put(tree, path, value):
    """Puts a value into nested dicts at "a/b/c"."""
    *outer, last = path.split("/")
    for name in outer:
        tree = tree.setdefault(name, {})
    tree[last] = value
