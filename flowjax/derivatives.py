"""Directional derivatives: finite differences with the signature of `jax.jvp`.

The exact derivative is `jax.jvp` itself. Every loss that needs one takes `jvp=`, so that either can be passed.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flowjax import options, typing

SCHEMES = {"forward": 1 / 2, "backward": 1 / 2, "central": 1 / 3}
_FLOAT32 = contextvars.ContextVar("networks compute in float32", default=False)


def finite_difference(step: float | None = None, scheme: str = "central", has_aux: bool = False) -> typing.Jvp:
    """A drop-in for `jax.jvp` that evaluates the function at shifted points instead of differentiating it.

        forward:  (f(p + h u) - f(p)) / h                error O(h)
        backward: (f(p) - f(p - h u)) / h                error O(h)
        central:  (f(p + h u) - f(p - h u)) / (2 h)      error O(h^2), one evaluation more

    The primal output comes from a separate evaluation of `f` at `p`, so gradients flow through it as they do with `jax.jvp`.
    A central or forward step leaves [0, 1] for times within `step` of the border; `backward` along (v, 1, 0) does not at s = 1.

    Args:
      step: `h` > 0, in units of the tangent. None: the step at which truncation and rounding balance, `eps ** (1/2)` for the
        one-sided schemes and `eps ** (1/3)` for the central one, with `eps` of the coarsest dtype among the primals
        (float32: 3.5e-4 and 4.9e-3).
      scheme: "forward", "backward" or "central".
      has_aux: whether the function returns `(output, aux)`, as for `jax.jvp`; may also be given in the call.

    Returns:
      A function `(fun, primals, tangents, has_aux=has_aux) -> (primal_out, tangent_out)`, or with `aux` as a third.

    Raises:
      InputError: for an unknown scheme or a step that is not positive.

    Example:
      >>> y, dy = finite_difference(1e-3)(jnp.square, (3.0,), (1.0,))
      >>> float(y), round(float(dy), 2)
      (9.0, 6.0)

    Reference: the usual balance of truncation against rounding, e.g. Press et al., Numerical Recipes, section 5.7.
    """
    if scheme not in SCHEMES:
        raise typing.InputError(f"finite_difference: unknown scheme {scheme!r}; expected one of {', '.join(SCHEMES)}.")
    if step is not None and not step > 0:
        raise typing.InputError(f"finite_difference: step is {step!r}; expected a number above 0, or None for the default.")
    return functools.partial(_difference, step, scheme, has_aux)


def _difference(
    step: float | None,
    scheme: str,
    has_aux_default: bool,
    fun: Callable,
    primals: Sequence[Any],
    tangents: Sequence[Any],
    has_aux: bool | None = None,
) -> tuple:
    has_aux = has_aux_default if has_aux is None else has_aux
    for leaf in jax.tree.leaves(primals):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise typing.InputError(f"finite_difference: a primal has dtype {jnp.result_type(leaf)}; expected a floating one.")
    output = fun if has_aux else lambda *args: (fun(*args), None)
    h = _default_step(primals, scheme) if step is None else step

    def at(offset: float) -> Any:
        moved = jax.tree.map(lambda p, u: p + jnp.asarray(offset * u, jnp.result_type(p)), tuple(primals), tuple(tangents))
        return output(*moved)[0]

    primal_out, aux = output(*primals)
    ahead = at(h) if scheme != "backward" else primal_out
    behind = at(-h) if scheme != "forward" else primal_out
    width = 2 * h if scheme == "central" else h
    tangent_out = jax.tree.map(lambda up, down: (up - down) / width, ahead, behind)
    return (primal_out, tangent_out, aux) if has_aux else (primal_out, tangent_out)


def _default_step(primals: Sequence[Any], scheme: str) -> float:
    dtypes = [jnp.result_type(p) for p in jax.tree.leaves(primals)]
    coarsest = max((jnp.finfo(d).eps for d in dtypes if jnp.issubdtype(d, jnp.floating)), default=jnp.finfo(jnp.float32).eps)
    return float(coarsest) ** SCHEMES[scheme]


def float32(fun: Callable, primals: Sequence[Any], tangents: Sequence[Any], has_aux: bool = False) -> tuple:
    """`jax.jvp` whose tangent is that of networks which compute in float32, whatever their dtype.

    The primal output comes from one more evaluation, in the network's dtype, so that gradients flow through it as they do
    with `jax.jvp`, at the speed of that dtype. The networks of a config read `in_float32` and compute in float32 there; any other
    callable is differentiated in the dtype in which it computes.

    Args:
      fun: a function of arrays.
      primals: where to differentiate.
      tangents: the direction, like the primals.
      has_aux: whether `fun` returns `(output, aux)`.

    Returns:
      (primal_out, tangent_out), or with `aux` as a third.

    Example:
      >>> y, dy = float32(jnp.square, (3.0,), (1.0,))
      >>> float(y), float(dy)
      (9.0, 6.0)
    """
    primal_out, aux = fun(*primals) if has_aux else (fun(*primals), None)
    with _in_float32():
        tangent_out = jax.jvp(fun, primals, tangents, has_aux=has_aux)[1]
    return (primal_out, tangent_out, aux) if has_aux else (primal_out, tangent_out)


def in_float32() -> bool:
    """Whether the code that is traced now stands within the tangent of `float32`."""
    return _FLOAT32.get()


@contextlib.contextmanager
def _in_float32() -> Iterator[None]:
    token = _FLOAT32.set(True)
    try:
        yield
    finally:
        _FLOAT32.reset(token)


def jvp_from_name(jvp: str | typing.Jvp) -> typing.Jvp:
    """A derivative from its name in a config.

    Args:
      jvp: "exact" for `jax.jvp`, "float32" for `float32`, a scheme of `finite_difference`, alone for its default step or as "SCHEME:STEP"
        ("central:1e-3"), or a function with the signature of `jax.jvp`, which is returned as it is.

    Raises:
      InputError: for any other name, or a step that is no number above 0.
    """
    if callable(jvp):
        return jvp
    known: dict[str, dict] = {"exact": {}, "float32": {}} | dict.fromkeys(SCHEMES, {"step": 1e-3})
    try:
        name, given = options.parse("derivative", str(jvp), known)
        return {"exact": jax.jvp, "float32": float32}.get(name) or finite_difference(given.get("step"), name)
    except typing.InputError as error:
        raise typing.InputError(
            f'unknown derivative {jvp!r}; expected "exact" (jax.jvp), "float32" (jax.jvp of networks in float32), or '
            f"{', '.join(SCHEMES)}, with a step if you like: central:1e-3."
        ) from error
