"""The inputs of a network besides x and its two times: one table, and the arrays that stand for them.

A condition is a dict of arrays by the names of INPUTS, each with the row axis first, and possibly "dropout", one typed key a row.
An input that is absent has its null value in every row, so that each network works without a condition. To add an input, write
one line; networks take it by name, `models.make("mlp", inputs=("level",))` or config.model.inputs = ("level",):

    INPUTS["level"] = Input("times", null=1.0)             # a number a row, embedded as a time
    INPUTS["image"] = Input("data")                        # an array like x, which enters beside x
    INPUTS["text"] = Input("vector", shape=(512,), dropped=True)  # what the label is: label_drop replaces it by its null value

Training reads such an array from the batch: from the rows of the dataset, or from the draw of a recipe.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from flowjax import checks, typing
from flowjax.typing import Array

# How an input enters a network.
KINDS = {
    "label": "a class [B], -1 for none, by a table of vectors",
    "times": "numbers [B] or [B, n], each as a time is embedded",
    "vector": "[B, n], by a linear layer",
    "data": "like x, by a linear layer beside the first one, which sees x",
}


class Input(NamedTuple):
    """An input of networks.

    Every embedding but the label's starts at zero, apart from those in a network's NOT_FROM_ZERO. So a network with the input is
    at first the same function as the network without it, whatever the value of the input.

    Attributes:
      kind: how it enters a network, a key of KINDS.
      null: its value where none is given: a number, or one for each number of a row.
      shape: of one row; of the kind "data" it is that of x, whatever stands here.
      feature: what the kind "times" embeds: values -> numbers in [-1, 1].
      embeddings: names of the embeddings of its numbers in a tree of parameters, of the kind "times"; (): its own name.
      joint: name of the one embedding of all its numbers, in networks that embed them together (the U-Net); "": its own name.
      dropped: whether `label_drop` replaces it by its null value, as it does the label.
    """

    kind: str
    null: Any = 0.0
    shape: tuple[int, ...] = ()
    feature: Callable[[Array], Array] = lambda values: values
    embeddings: tuple[str, ...] = ()
    joint: str = ""
    dropped: bool = False


INPUTS: dict[str, Input] = {
    "label": Input("label", null=-1, dropped=True),
    # The scale w of the guidance, at least 1; 1: none.
    "guidance": Input("times", null=1.0, feature=lambda w: 1 - 1 / w, embeddings=("guidance_scale",), joint="guidance_scale"),
    # The times between which the scale holds, low and high.
    "interval": Input(
        "times", null=(0.0, 1.0), shape=(2,), embeddings=("interval_low", "interval_high"), joint="guidance_interval"
    ),
    # What flowjax.data.augmentation did to a row, in the order of its LABELS; zeros: nothing, and so for samples.
    "augmentation": Input("vector", shape=(9,)),
    # A noisy observation of the data, (1 - c) x0 + c n, and its level c; at c = 1 it says nothing, and x_c is 0.
    "x_c": Input("data"),
    "c": Input("times", null=1.0),
    "c_to": Input("times", null=0.0),  # the level to which a transition leads from there; 0: to the data
    # The noise along a jump of a noisy process, as Legendre coefficients, each like x; zeros: none. See flowjax.brownian.
    "w_0": Input("data"),
    "w_1": Input("data"),
    "w_2": Input("data"),
}
TRANSITION = ("x_c", "c", "c_to")  # of a map to any lower level
OBSERVATION = ("x_c", "c")  # of a stochastic map, see flowjax.posterior
PATH = ("w_0", "w_1", "w_2")  # of a strong stochastic map, see flowjax.losses.strong
GUIDANCE = ("guidance", "interval")  # how a row is guided; a network has them by config.guidance


def check(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the inputs of a network besides the label, in the order of INPUTS; raises InputError for others."""
    for name in names:
        checks.member("input of a network", name, INPUTS)
        checks.member(f"kind of the input {name!r}", INPUTS[name].kind, KINDS)
        if INPUTS[name].kind == "label":
            raise typing.InputError(f"a network takes {name!r} where num_classes is above 0; leave it out of its inputs.")
    return tuple(name for name in INPUTS if name in names)


def row_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of one row of an input, for data whose rows have the shape `shape`."""
    return tuple(shape) if INPUTS[name].kind == "data" else INPUTS[name].shape


def value(name: str, cond: Mapping[str, Array] | None, x: Array) -> Array:
    """An input for the rows of x, its null value if `cond` lacks it.

    Args:
      name: a key of INPUTS.
      cond: a condition, or None.
      x: [B, ...], the data.

    Returns:
      [B, ...], whole numbers of a label, else floating and never narrower than float32.

    Raises:
      InputError: if the input has another shape.
    """
    expected = (x.shape[0], *row_shape(name, x.shape[1:]))
    if name not in (cond or {}):
        return _null(name, expected)
    given = jnp.asarray(cond[name])
    if given.shape != expected:
        raise typing.InputError(
            f"cond[{name!r}] has shape {given.shape}, and x {x.shape}; expected {expected},"
            f" {KINDS[INPUTS[name].kind]}; without it every row has its null value, {INPUTS[name].null}."
        )
    return given if INPUTS[name].kind == "label" else given.astype(jnp.promote_types(given.dtype, jnp.float32))


def numbers(name: str, cond: Mapping[str, Array] | None, x: Array, feature: Callable | None = None) -> dict[str, Array]:
    """What a network embeds of an input of the kind "times", {name of the embedding: [B]}; `feature`: instead of the table's."""
    features = (feature or INPUTS[name].feature)(value(name, cond, x)).reshape(x.shape[0], -1)
    return {embedding: features[:, i] for i, embedding in enumerate(_embeddings(name))}


def layers() -> frozenset[str]:
    """Names in a tree of parameters of all that a network without further inputs lacks."""
    further = [name for name in INPUTS if INPUTS[name].kind != "label"]
    return frozenset(layer for name in further for layer in (name, *_embeddings(name), INPUTS[name].joint) if layer)


def null(cond: Mapping[str, Array]) -> dict[str, Array]:
    """The condition of no class, away from which guidance moves: null values of all inputs with `dropped`, and no guidance."""
    nulled = [name for name in cond if name in INPUTS and (INPUTS[name].dropped or name in GUIDANCE)]
    return {**cond, **{name: _null(name, cond[name].shape, cond[name].dtype) for name in nulled}}


def dropped(cond: Mapping[str, Array], rows: Array) -> dict[str, Array]:
    """The condition with null values, in the rows [B] that are True, of the label and of all other inputs with `dropped`."""
    result = dict(cond)
    for name, given in cond.items():
        if name in INPUTS and INPUTS[name].dropped:
            mask = rows.reshape(rows.shape + (1,) * (given.ndim - 1))
            result[name] = jnp.where(mask, _null(name, given.shape, given.dtype), given)
    return result


def without(cond: Mapping[str, Array] | None, names: tuple[str, ...]) -> dict[str, Array]:
    """The condition without some inputs, for a network that does not take them."""
    return {name: given for name, given in (cond or {}).items() if name not in names}


def of_path(w: Array) -> dict[str, Array]:
    """The inputs that tell a network the noise of a path, from its coefficients [3, B, ...]."""
    return dict(zip(PATH, w))


def of_batch(batch: Mapping[str, Array]) -> dict[str, Array]:
    """The condition that a batch brings: its arrays that are inputs, and the keys of the dropout."""
    return {name: batch[name] for name in (*INPUTS, "dropout") if name in batch}


def rows(labels: Any, values: Mapping[str, Any]) -> dict[str, Array]:
    """The condition of rows that are sampled.

    Args:
      labels: [n], -1 for none.
      values: of further inputs, each of one row and the same for all: {"guidance": 2.0, "interval": (0.0, 1.0)}.

    Raises:
      InputError: for an unknown input, or a value of another shape than one row.
    """
    cond = {"label": jnp.asarray(labels)}
    for name, given in values.items():
        check((name,))
        given = jnp.asarray(given, jnp.float32)
        expected = row_shape(name, given.shape)
        if given.shape != expected:
            raise typing.InputError(
                f"the value of the input {name!r} has shape {given.shape}; expected {expected}, of one row."
            )
        cond[name] = jnp.broadcast_to(given, (len(cond["label"]), *given.shape))
    return cond


def _embeddings(name: str) -> tuple[str, ...]:
    count = math.prod(INPUTS[name].shape)
    return INPUTS[name].embeddings or ((name,) if count == 1 else tuple(f"{name}_{i}" for i in range(count)))


def _null(name: str, shape: tuple[int, ...], dtype: Any = None) -> Array:
    """The null value of an input in every row, [B, ...]."""
    entry = INPUTS[name]
    dtype = dtype or (jnp.int32 if entry.kind == "label" else jnp.float32)
    return jnp.broadcast_to(jnp.asarray(entry.null, dtype), shape)
