"""The kernels as primitives of JAX, each with rules for jvp, transposition, batching and lowering.

    forward              (q, k, v) -> o, lse
    dual                 (q, k, v, dq, dk, dv) -> o, lse, do, mu, in one online pass
    tangent              linear in (dq, dk, dv): -> do, mu                       its transpose: backward
    backward             linear in h: -> cotangents of q, k, v                   its transpose: tangent
    second_tangent       linear in six tangents: -> tangents of o and do         its transpose: second_backward
    second_backward      linear in (g, h): -> cotangents of q, k, v, dq, dk, dv  its transpose: second_tangent
    tangent_of_backward  linear in (h, q, k, v): -> tangents of cotangents       its transpose: itself, as of a Hessian

`lse`, the logarithm of the sum of exponentials of a row, and `mu`, the mean of the tangents of its scores, are statistics that
later primitives reuse. No derivative flows through them, nor through `o` and `do` where these are inputs: the rules
differentiate the output and its tangent as functions of q, k, v, dq, dk, dv alone, which is all that the statistics depend on.
`second_tangent`, which only a jvp of a jvp evaluates, and derivatives above the second are plain JAX of the same mathematics.

The jvp of `forward` is `dual`. Where reverse mode knows q, k, v but not yet their tangents, `dual` splits into `forward` and
`tangent`, which is linear. Where a result is not needed, `dual` becomes `forward` and `second_tangent` becomes `tangent`: the
gradient of MeanFlow, whose tangent has no gradient, is then `dual` and `backward`. Three tables of
jax.interpreters.partial_eval hold these rules; without them (FUSED is False) the jvp of `forward` is `forward` and `tangent`.

A program for several devices runs the kernels inside of shard_map. Where the compiler partitions the program itself, which it
cannot do to a kernel, every primitive is plain JAX.

Only names of jax.extend and jax.interpreters are used. Tried with jax 0.10.2, 0.11.2 and 0.12.0.1.
"""

import functools

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir, partial_eval, xla

from flowjax.models.pallas_attention import nvidia, tiling, tpu

TABLES = ("custom_partial_eval_rules", "partial_eval_jaxpr_custom_rules", "dce_rules")
FUSED = all(hasattr(partial_eval, table) for table in TABLES)


# name: (inputs, outputs), a letter an array: q like the queries, k like the keys, s a statistic of rows; a bias may follow.
# STATISTICS: how many of the last inputs are o, lse, do or mu, through which no derivative flows.
SIGNATURES = {
    "forward": ("qkk", "qs"),
    "dual": ("qkkqkk", "qsqs"),
    "tangent": ("qkk" + "qkkqs", "qs"),
    "backward": ("q" + "qkkqs", "qkk"),
    "second_tangent": ("qkkqkk" + "qkkqkkqsqs", "qq"),
    "second_backward": ("qq" + "qkkqkkqsqs", "qkkqkk"),
    "second_backward_of_tangent": ("q" + "qkkqkkqsqs", "qkkqkk"),
    "tangent_of_backward": ("qqkk" + "q" + "qkkqs", "qkk"),
}
STATISTICS = {
    "tangent": 2,
    "backward": 2,
    "tangent_of_backward": 2,
    "second_tangent": 4,
    "second_backward": 4,
    "second_backward_of_tangent": 4,
}


def _primitive(name):
    made = core.Primitive(f"attention_{name}")
    made.multiple_results = True
    made.def_impl(functools.partial(xla.apply_primitive, made))
    made.def_abstract_eval(functools.partial(_types, *SIGNATURES[name]))
    batching.primitive_batchers[made] = functools.partial(_batched, made)
    for platform in ("tpu", "cuda", None):
        mlir.register_lowering(made, functools.partial(_lower, name, platform), platform=platform)
    return made


def _types(inputs, outputs, *types, **_):
    """Types of the outputs: those of queries and keys, which also say over which axes of a mesh an array varies."""
    queries, keys = types[inputs.index("q")], types[inputs.index("k")]
    row = queries.update(shape=(queries.shape[0], 1, queries.shape[1]), dtype=jnp.dtype(jnp.float32))
    return [{"q": queries, "k": keys, "s": row}[letter] for letter in outputs]


def _lower(name, platform, context, *arrays, **static):
    """The lowering rule. Arrays lose the axes of a mesh over which they vary: interpreted kernels mix them with constants."""
    run = functools.partial(_run, name, platform, **static)
    devices = context.module_context.axis_context
    if platform and isinstance(devices, mlir.ShardingContext) and devices.num_devices > 1:
        run = functools.partial(
            _plain, name, keys=static["keys"]
        )  # outside of shard_map: the compiler cannot partition a kernel
    bare = lambda types: [jax.core.ShapedArray(z.shape, z.dtype) for z in types]
    context = context.replace(avals_in=bare(context.avals_in), avals_out=bare(context.avals_out))
    return mlir.lower_fun(run)(context, *arrays)


def _run(name, platform, *arrays, keys, tile, kernels):
    """What a primitive does on a platform: its kernel, interpreted where it cannot run."""
    module = {"tpu": tpu, "nvidia": nvidia, "": nvidia if platform == "cuda" else tpu}[kernels]
    interpret = platform != {tpu: "tpu", nvidia: "cuda"}[module]
    call = lambda name: functools.partial(getattr(module, name), keys=keys, tile=tile, interpret=interpret)
    if name == "second_tangent":
        return _plain(name, *arrays, keys=keys)
    if name == "second_backward_of_tangent":
        return call("second_backward")(None, *arrays)
    if name == "tangent_of_backward":
        (h1, *moved), h, (q, k, v, o, lse), bias = arrays[:4], arrays[4], arrays[5:10], arrays[10:]
        do, mu = call("tangent")(*moved, q, k, v, o, lse, *bias)
        return call("second_backward")(h1, h, q, k, v, *moved, o, lse, do, mu, *bias)[:3]
    return call(name)(*arrays)


def _plain(name, *arrays, keys):
    """What a primitive does, in plain JAX."""
    count = len(SIGNATURES[name][0])
    attend = functools.partial(_attend, arrays[count:], keys)
    return getattr(tiling, name)(attend, *arrays[: count - STATISTICS.get(name, 0)])


def _attend(bias, keys, q, k, v):
    return tiling.plain(q, k, v, *bias, keys=keys)


def _batched(primitive, arrays, axes, **static):
    """A mapped axis joins the leading one, outside of it, so that a bias keeps serving the same rows."""
    size = next(z.shape[axis] for z, axis in zip(arrays, axes) if axis is not None)
    front = lambda z, axis: jnp.broadcast_to(z, (size, *z.shape)) if axis is None else jnp.moveaxis(z, axis, 0)
    arrays = [front(z, axis) for z, axis in zip(arrays, axes)]
    outputs = primitive.bind(*(z.reshape(-1, *z.shape[2:]) for z in arrays), **static)
    return [z.reshape(size, -1, *z.shape[1:]) for z in outputs], [0] * len(outputs)


forward, dual, tangent, backward = map(_primitive, ("forward", "dual", "tangent", "backward"))
second_tangent, second_backward = map(_primitive, ("second_tangent", "second_backward"))
second_backward_of_tangent, tangent_of_backward = map(_primitive, ("second_backward_of_tangent", "tangent_of_backward"))


# Derivatives


def _zero(z):
    return ad.Zero(jax.typeof(z).to_tangent_aval())


def _all_zero(tangents):
    return all(type(t) is ad.Zero for t in tangents)


def _arrays(tangents):
    return [ad.instantiate_zeros(t) for t in tangents]


def _forward_jvp(primals, tangents, **static):
    q, k, v, *bias = primals
    if FUSED and not _all_zero(tangents[:3]):
        o, lse, do, _ = dual.bind(q, k, v, *_arrays(tangents[:3]), *bias, **static)
        return (o, lse), (do, _zero(lse))
    o, lse = forward.bind(*primals, **static)
    if _all_zero(tangents[:3]):
        return (o, lse), (_zero(o), _zero(lse))
    do, _ = tangent.bind(*_arrays(tangents[:3]), q, k, v, o, lse, *bias, **static)
    return (o, lse), (do, _zero(lse))


def _dual_jvp(primals, tangents, **static):
    outputs = o, lse, do, mu = dual.bind(*primals, **static)
    (q, k, v, *linear), bias = primals[:6], primals[6:]
    o1, do1 = _zero(o), _zero(do)
    if not _all_zero(tangents[:3]):
        six = _arrays(tangents[:6])
        o1, do1 = second_tangent.bind(*six, q, k, v, *linear, o, lse, do, mu, *bias, **static)
    elif not _all_zero(tangents[3:6]):
        do1, _ = tangent.bind(*_arrays(tangents[3:6]), q, k, v, o, lse, *bias, **static)
    return outputs, [o1, _zero(lse), do1, _zero(mu)]


def _tangent_jvp(primals, tangents, **static):
    do, mu = tangent.bind(*primals, **static)
    linear, (q, k, v, o, lse), bias = primals[:3], primals[3:8], primals[8:]
    moved = tangents[3:6]
    if _all_zero(tangents[:6]):
        return (do, mu), (_zero(do), _zero(mu))
    if _all_zero(moved):
        change, _ = tangent.bind(*_arrays(tangents[:3]), *primals[3:], **static)
    else:
        six = _arrays([*moved, *tangents[:3]])
        _, change = second_tangent.bind(*six, q, k, v, *linear, o, lse, do, mu, *bias, **static)
    return (do, mu), (change, _zero(mu))


def _linear_jvp(name, primitive, linear, primals, tangents, **static):
    """Of a primitive that is linear in its first `linear` inputs; where others move too, plain JAX moves them."""
    outputs = primitive.bind(*primals, **static)
    inputs = len(SIGNATURES[name][0])
    through = inputs - STATISTICS[name]
    if _all_zero(tangents[:through]):
        return outputs, [_zero(z) for z in outputs]
    if _all_zero(tangents[linear:through]):
        return outputs, primitive.bind(*_arrays(tangents[:linear]), *primals[linear:], **static)
    plain = lambda *moving: _plain(name, *moving, *primals[through:], keys=static["keys"])
    return outputs, jax.jvp(plain, tuple(primals[:through]), tuple(_arrays(tangents[:through])))[1]


def _backward_jvp(primals, tangents, **static):
    outputs = backward.bind(*primals, **static)
    if _all_zero(tangents[:4]):
        return outputs, [_zero(z) for z in outputs]
    if _all_zero(tangents[1:4]):
        return outputs, backward.bind(*_arrays(tangents[:1]), *primals[1:], **static)
    return outputs, tangent_of_backward.bind(*_arrays(tangents[:4]), *primals, **static)


ad.primitive_jvps[forward] = _forward_jvp
ad.primitive_jvps[dual] = _dual_jvp
ad.primitive_jvps[tangent] = _tangent_jvp
ad.primitive_jvps[backward] = _backward_jvp
ad.primitive_jvps[second_tangent] = functools.partial(_linear_jvp, "second_tangent", second_tangent, 6)
ad.primitive_jvps[second_backward] = functools.partial(_linear_jvp, "second_backward", second_backward, 2)
ad.primitive_jvps[second_backward_of_tangent] = functools.partial(
    _linear_jvp, "second_backward_of_tangent", second_backward_of_tangent, 1
)
ad.primitive_jvps[tangent_of_backward] = functools.partial(_linear_jvp, "tangent_of_backward", tangent_of_backward, 4)


# Transposes


def _transposed(primitive, linear, rule):
    """Registers `rule(cotangents, other inputs, **static) -> cotangents of the first linear inputs`."""

    def transpose(cotangents, *inputs, **static):
        made = rule([ad.instantiate_zeros(z) for z in cotangents], inputs[linear:], cotangents, static)
        wanted = [ad.is_undefined_primal(z) for z in inputs[:linear]]
        return [z if want else None for z, want in zip(made, wanted)] + [None] * (len(inputs) - linear)

    ad.primitive_transposes[primitive] = transpose


def _second_tangent_transpose(cotangents, rest, given, static):
    if type(given[1]) is ad.Zero:
        (q, k, v, dq, dk, dv, o, lse, _, _), bias = rest[:10], rest[10:]
        return [*backward.bind(cotangents[0], q, k, v, o, lse, *bias, **static), *map(jnp.zeros_like, (dq, dk, dv))]
    if type(given[0]) is ad.Zero:
        return second_backward_of_tangent.bind(cotangents[1], *rest, **static)
    return second_backward.bind(*cotangents, *rest, **static)


def _second_backward_transpose(cotangents, rest, given, static):
    return second_tangent.bind(*cotangents, *rest, **static)


def _tangent_of_backward_transpose(cotangents, rest, given, static):
    h, *residuals = rest
    along_h, _ = tangent.bind(*cotangents, *residuals, **static)
    return [along_h, *tangent_of_backward.bind(jnp.zeros_like(h), *cotangents, *rest, **static)]


_transposed(tangent, 3, lambda cotangents, rest, given, static: backward.bind(cotangents[0], *rest, **static))
_transposed(backward, 1, lambda cotangents, rest, given, static: tangent.bind(*cotangents, *rest, **static)[:1])
_transposed(second_tangent, 6, _second_tangent_transpose)
_transposed(second_backward, 2, _second_backward_transpose)
_transposed(second_backward_of_tangent, 1, lambda *args: _second_backward_transpose(*args)[1:])
_transposed(tangent_of_backward, 4, _tangent_of_backward_transpose)


# What need not be computed, or not yet


def _dual_when_tangents_are_unknown(trace, *tracers, **static):
    (q, k, v, *linear), bias = tracers[:6], tracers[6:]
    if not all(z.is_known() for z in (q, k, v, *bias)):
        return trace.default_process_primitive(dual, tracers, static)
    if all(z.is_known() for z in linear):
        return trace.default_process_primitive(dual, tracers, static)
    o, lse = trace.default_process_primitive(forward, [q, k, v, *bias], static)
    return [o, lse, *trace.default_process_primitive(tangent, [*linear, q, k, v, o, lse, *bias], static)]


def _dual_under_remat(saveable, unknown, available, equation):
    """Splits an equation into one for the forward pass and one for what the backward pass computes (again).

    Args:
      saveable: the policy of jax.checkpoint.
      unknown: inputs that the forward pass does not know.
      available: inputs that the backward pass has.
      equation: of `dual`.

    Returns:
      Both equations; which outputs are unknown, and which the backward pass then has; the variables to be saved for it.
    """
    (q, k, v, *linear), bias = equation.invars[:6], equation.invars[6:]
    kept = saveable(forward, *(z.aval for z in (q, k, v, *bias)), **equation.params)
    kept = kept in (True, jax.checkpoint_policies.everything_saveable())
    needed = [z for z, has in zip(equation.invars, available) if not has and isinstance(z, core.Var)]
    if any(unknown[:3]) or any(unknown[6:]):
        return None, equation, [True] * 4, [True] * 4, needed
    if not any(unknown):
        return equation, *((None, [False] * 4, [False] * 4, []) if kept else (equation, [False] * 4, [True] * 4, needed))
    o, lse, do, mu = equation.outvars
    known = equation.replace(primitive=forward, invars=[q, k, v, *bias], outvars=[o, lse])
    if not kept:
        return known, equation, [False, False, True, True], [True] * 4, needed
    linear = equation.replace(primitive=tangent, invars=[*linear, q, k, v, o, lse, *bias], outvars=[do, mu])
    return known, linear, [False, False, True, True], [False, False, True, True], [*needed, o, lse]


# jax 0.12 passes which inputs are live between the two arguments of the next rules.


def _dual_where_needed(used, *live_and_equation):
    """Without the tangent, `dual` is `forward`."""
    equation = live_and_equation[-1]
    if any(used[2:]):
        return [True] * len(equation.invars), equation
    if not any(used):
        return [False] * len(equation.invars), None
    invars = equation.invars[:3] + equation.invars[6:]
    needed = [True] * 3 + [False] * 3 + [True] * (len(equation.invars) - 6)
    return needed, equation.replace(primitive=forward, invars=invars, outvars=equation.outvars[:2])


def _second_tangent_where_needed(used, *live_and_equation):
    """Without the tangent of the tangent, `second_tangent` is `tangent`."""
    equation = live_and_equation[-1]
    if used[1]:
        return [True] * len(equation.invars), equation
    if not used[0]:
        return [False] * len(equation.invars), None
    needed = (
        [True] * 3 + [False] * 3 + [True] * 3 + [False] * 3 + [True] * 2 + [False] * 2 + [True] * (len(equation.invars) - 16)
    )
    invars = [z for z, need in zip(equation.invars, needed) if need]
    row = equation.invars[13].aval
    return needed, equation.replace(primitive=tangent, invars=invars, outvars=[equation.outvars[0], core.Var(row)])


if FUSED:
    partial_eval.custom_partial_eval_rules[dual] = _dual_when_tangents_are_unknown
    partial_eval.partial_eval_jaxpr_custom_rules[dual] = _dual_under_remat
    partial_eval.dce_rules[dual] = _dual_where_needed
    partial_eval.dce_rules[second_tangent] = _second_tangent_where_needed
