"""Recipes on spaces with geodesics, flowjax.spaces: the path says which; in R^n their losses are those of the recipes for R^n.

The constants are those of the authors' code of Riemannian MeanFlow (arXiv 2602.07744) for points on the earth, which also has
Generalised Flow Maps (arXiv 2510.21608); those in that paper's own code are not verified. There the anchor of a Generalised Flow Map is
on the rows of the rule as well, where here the terms are on different rows, as in the recipes of R^n; `diagonal="both"` puts both on
every row.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from flowjax import distances, losses, paths
from flowjax.methods import draws, pairs, recipe
from flowjax.paths import Path
from flowjax.spaces import Space
from flowjax.times import TimeSampler
from flowjax.typing import Array, InputError, Jvp, Method, Nets, Pair, Point, Term


def rmf(
    *,
    times: TimeSampler = ("uniform_triangle",),
    anchor_times: TimeSampler = ("uniform",),
    diagonal: str = "3/4",
    p: float = 0.0,
    c: float = 1e-3,
    tangent_clip: float | None = None,
    near_data: float = 0.0,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Riemannian MeanFlow: the anchor and the Eulerian rule on different rows, squared lengths of tangent vectors.

    Args:
      times: two uniform times, sorted, as published for the earth; logit-normal (-0.4, 1) for DNA.
      anchor_times: uniform as published.
      diagonal: 3/4 as published.
      p: power by which errors are made adaptive; 0, none, as published for the earth, 0.5 for DNA.
      c: floor of an error in it, as published.
      tangent_clip: longest derivative of V, over the last axis; none as published for the earth, 100 for DNA.
      near_data: errors at source times s below this are weighed by (s / near_data)^2: close to the data the direction of a geodesic is
        uncertain. 0, none, as published for the earth, 0.1 for DNA.

    Reference: Riemannian MeanFlow (arXiv 2602.07744), and its code.
    """
    if tangent_clip is not None and not (isinstance(tangent_clip, (int, float)) and tangent_clip > 0):
        raise InputError(f"tangent_clip is {tangent_clip!r}; expected a length above 0, or None for no bound.")
    space, clip = paths.path_from_name(path).space, float("inf") if tangent_clip is None else tangent_clip
    rule = pairs.pair(losses.riemannian_meanflow, space=space, clip=clip, jvp=jvp)
    off = {"times": draws.pair_times(times), "weight": _weight(near_data)}
    return _method("eulerian", rule, off, anchor_times, diagonal, path, label_drop, near_data=near_data, p=p, c=c)


def lmf(
    *,
    times: TimeSampler = ("uniform_square",),
    anchor_times: TimeSampler = ("uniform",),
    diagonal: str = "1/4",
    p: float = 0.0,
    c: float = 1e-3,
    near_data: float = 0.0,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Riemannian MeanFlow, the Lagrangian form: anchor and rule on different rows; the map is trained in both directions of time.

    Args:
      times: two uniform times in both orders, as published.
      anchor_times: uniform as published.
      diagonal: 1/4 as published.
      p: power by which errors are made adaptive; 0, none, as published for the earth.
      c: floor of an error in it, as published.
      near_data: as of `rmf`.

    Reference: Riemannian MeanFlow (arXiv 2602.07744), and its code.
    """
    space = paths.path_from_name(path).space
    rule = pairs.pair(losses.riemannian_lagrangian_meanflow, space=space, jvp=jvp)
    off = {"times": draws.pair_times(times), "weight": _weight(near_data)}
    return _method("lagrangian", rule, off, anchor_times, diagonal, path, label_drop, near_data=near_data, p=p, c=c)


def gfm_esd(
    *,
    times: TimeSampler = ("uniform_triangle",),
    anchor_times: TimeSampler = ("uniform",),
    diagonal: str = "3/4",
    p: float = 0.0,
    c: float = 1e-3,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Generalised Flow Maps, Eulerian self-distillation: anchor and rule on different rows, squared lengths of tangent vectors.

    Args:
      times: two uniform times, sorted.
      anchor_times: uniform.
      diagonal: the share of rows whose two times are one, in the code named above.
      p: power by which errors are made adaptive; 0, none, in that code.
      c: floor of an error in it.

    Reference: Davis et al. 2025 (arXiv 2510.21608), G-ESD.
    """
    space = paths.path_from_name(path).space
    rule = pairs.pair(losses.riemannian_eulerian_self_distillation, space=space, jvp=jvp)
    return _method("eulerian", rule, {"times": draws.pair_times(times)}, anchor_times, diagonal, path, label_drop, p=p, c=c)


def gfm_lsd(
    *,
    times: TimeSampler = ("uniform_triangle",),
    anchor_times: TimeSampler = ("uniform",),
    diagonal: str = "3/4",
    p: float = 0.0,
    c: float = 1e-3,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
) -> Method:
    """Generalised Flow Maps, Lagrangian self-distillation: anchor and rule on different rows, squared lengths of tangent vectors.

    Args:
      times: two uniform times, sorted.
      anchor_times: uniform.
      diagonal: as in gfm_esd.
      p: power by which errors are made adaptive; 0, none, in the code named above.
      c: floor of an error in it.

    Reference: Davis et al. 2025 (arXiv 2510.21608), G-LSD.
    """
    space = paths.path_from_name(path).space
    rule = pairs.pair(losses.riemannian_lagrangian_self_distillation, space=space, jvp=jvp)
    return _method("lagrangian", rule, {"times": draws.pair_times(times)}, anchor_times, diagonal, path, label_drop, p=p, c=c)


def gfm_psd(
    *,
    times: TimeSampler = ("uniform_triangle",),
    anchor_times: TimeSampler = ("uniform",),
    a: TimeSampler = ("fixed", 0.5),
    diagonal: str = "3/4",
    near_data: float = 0.1,
    p: float = 0.0,
    c: float = 1e-3,
    path: str | Path = "linear",
    label_drop: float = 0.1,
) -> Method:
    """Generalised Flow Maps, progressive self-distillation: anchor and rule on different rows; the rule's error is a squared distance.

    Args:
      times: two uniform times, sorted; in the code named above shorter jumps than 0.01 become 0.01 long.
      anchor_times: uniform.
      a: sampler of the fraction at which a jump is split: halfway as in the code named above.
      diagonal: ours; in the code named above both terms are on every row.
      near_data: errors of the rule at source times s below this are weighed by (s / near_data)^2, as in the code named above.
      p: power by which errors are made adaptive; 0, none, there.
      c: floor of an error in it.

    Reference: Davis et al. 2025 (arXiv 2510.21608), G-PSD; constants from the code of Riemannian MeanFlow (arXiv 2602.07744).
    """
    space = paths.path_from_name(path).space
    rule = pairs.pair(losses.riemannian_progressive_self_distillation, space=space)
    off = {
        "times": draws.split_times(times, a),
        "weight": _weight(near_data),
        "distance": functools.partial(distances.geodesic, space=space, reduce="sum", p=p, c=c),
        "metric": functools.partial(distances.geodesic, space=space, reduce="mean"),
    }
    return _method("compositional", rule, off, anchor_times, diagonal, path, label_drop, p=p, c=c)


def _method(
    name: str,
    rule: Callable[..., Pair],
    off: Mapping[str, Any],
    anchor_times: TimeSampler,
    diagonal: str,
    path: str | Path,
    label_drop: float,
    *,
    near_data: float = 0.0,
    p: float,
    c: float,
) -> Method:
    """The anchor and a rule with the fields `off` of its term; both are scored by the squared length of tangent vectors."""
    on_columns, off_columns = recipe.split(diagonal)
    space = paths.path_from_name(path).space
    scored: dict[str, Any] = {
        "distance": functools.partial(distances.tangent, space=space, reduce="sum", p=p, c=c),
        "metric": functools.partial(distances.tangent, space=space, reduce="mean"),
    }
    anchor = Term(
        "anchor",
        _anchor(space),
        columns=on_columns,
        times=draws.diagonal_times(anchor_times),
        weight=_weight(near_data),
        **scored,
    )
    term = Term(name, rule, columns=off_columns, **{**scored, **off})
    return recipe.method([anchor, term], points=draws.on_path(path), label_drop=label_drop)


def _anchor(space: Space) -> Callable[[Nets, Point], Pair]:
    """Flow matching on a space; guidance may need V(x, s, s), so the network is evaluated once."""

    def anchor(nets: Nets, point: Point) -> Pair:
        V_ss = pairs.bind(nets.V, point)(point.x, point.s, point.s)
        v = pairs.velocity(nets, point, V_ss).v
        return losses.riemannian_flow_matching(lambda x, s, t: V_ss, point.x, point.s, v, space=space)

    return anchor


def _weight(near_data: float) -> float | Callable[[Point], Array]:
    """`Term.weight` of rows near the data: min(1, s / near_data)^2."""
    if not isinstance(near_data, (int, float)) or not 0 <= near_data <= 1:
        raise InputError(f"near_data is {near_data!r}; expected a time between 0 and 1, 0 for none.")
    if not near_data:
        return 1.0
    return lambda point: ((point.s / near_data).clip(max=1.0) ** 2).reshape(-1)
