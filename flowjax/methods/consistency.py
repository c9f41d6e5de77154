"""Recipes of the Eulerian rule with the target held at the data, or compared there: consistency models.

Noise levels of the EDM family are times here: s = sigma / (1 + sigma).
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flowjax import checks, distances, flowmap, losses, times
from flowjax.distances import Distance
from flowjax.methods import draws, pairs, recipe
from flowjax.paths import Path
from flowjax.times import TimeSampler
from flowjax.typing import Array, InputError, Jvp, Method, Nets, Pair, Point, Term, Velocity


def _neighbours(
    levels_of: Callable[[Array], ArrayLike],
    index_of: Callable[[Array, int, ArrayLike], Array],
    sigma_min: float,
    sigma_max: float,
    rho: float,
) -> Callable[[Array, int, Array], dict[str, Array]]:
    """Times of a level of a Karras grid and `a` of the level below; the lowest level's neighbour is the data itself, a = 1.

    F(x, 0, 0) = x holds by construction and anchors the chain there, where the papers stop at sigma_min.
    """

    def draw(key: Array, n: int, step: Array) -> dict[str, Array]:
        levels = levels_of(step)
        index = index_of(key, n, levels)
        at = lambda i: times.from_sigma(times.karras_sigma(i, levels, sigma_min, sigma_max, rho))
        s, m = at(index), jnp.where(index > 0, at(index - 1), 0.0)
        return {"s": s, "t": jnp.zeros_like(s), "a": (s - m) / s}

    return draw


def _uniform_index(key: Array, n: int, levels: ArrayLike) -> Array:
    return jax.random.randint(key, (n,), 0, levels)


def _inverse_gap(point: Point) -> Array:
    """One over the difference of the noise levels of a point and its neighbour, [rows]."""
    m = point.s * (1 - point.a)
    return 1 / (times.to_sigma(point.s) - times.to_sigma(m)).reshape(-1)


def ct(
    *,
    total_steps: int | None = None,
    first_levels: int = 2,
    last_levels: int = 150,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    distance: str | Distance = "l2",
    path: str | Path = "linear",
    label_drop: float = 0.1,
) -> Method:
    """Consistency training on a Karras grid whose number of levels N grows with the square root of the step.

        N(k) = ceil(sqrt(k / K ((s1 + 1)^2 - s0^2) + s0^2) - 1) + 1

    The target has the current weights. The paper averages them with a decay that follows N(k); iCT shows why that cannot be right.

    Args:
      total_steps: K, required.
      first_levels: s0, 2 as published.
      last_levels: s1, 150 as published.
      distance: LPIPS in the paper.
      path: neighbours are on one line on the linear path alone.

    Reference: Song et al. 2023 (arXiv 2303.01469), Table 3 and appendix C.
    """
    steps = recipe.length("ct", f"the grid grows from {first_levels} to {last_levels} levels", total_steps)

    def levels_of(step: Array) -> Array:
        share = jnp.clip(jnp.asarray(step, jnp.float32) / steps, 0, 1)
        return jnp.ceil(jnp.sqrt(share * ((last_levels + 1) ** 2 - first_levels**2) + first_levels**2) - 1).astype(int) + 1

    neighbours = _neighbours(levels_of, _uniform_index, sigma_min, sigma_max, rho)
    training = pairs.pair(losses.consistency_training)
    eulerian = Term("eulerian", training, distances.distance_from_name(distance), times=neighbours)
    return recipe.method([eulerian], points=draws.on_path(path), label_drop=label_drop)


def ict(
    *,
    total_steps: int | None = None,
    first_levels: int = 10,
    last_levels: int = 1280,
    mean: float = -1.1,
    std: float = 2.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    c: float | None = None,
    path: str | Path = "linear",
    label_drop: float = 0.1,
) -> Method:
    """Improved consistency training: levels double in stages, noise levels are log-normal, pseudo-Huber distance.

        N(k) = min(s0 2^floor(k / K'), s1) + 1,  K' = floor(K / (log2(s1 / s0) + 1));  weight 1 / (sigma_i+1 - sigma_i)

    Args:
      total_steps: K, required.
      first_levels: s0, 10 as published.
      last_levels: s1, 1280 as published.
      mean: of the logarithm of the noise level, -1.1 as published.
      std: its deviation, 2 as published.
      c: of the pseudo-Huber distance; None: 0.00054 sqrt(D) as published.
      path: neighbours are on one line on the linear path alone.

    Reference: Song and Dhariwal 2023 (arXiv 2310.14189), Table 1.
    """
    steps = recipe.length("ict", f"the grid doubles from {first_levels} to {last_levels} levels", total_steps)
    stage_length = max(1, int(steps / (math.log2(last_levels / first_levels) + 1)))

    def levels_of(step: Array) -> Array:
        stage = jnp.asarray(step, jnp.int32) // stage_length
        return jnp.minimum(first_levels * 2.0**stage, last_levels).astype(int) + 1

    def index_of(key: Array, n: int, levels: ArrayLike) -> Array:
        # The published weights of the levels are the mass that the log-normal has between neighbours.
        z = (jnp.log(jnp.array([sigma_min, sigma_max])) - mean) / std
        sigma = jnp.exp(mean + std * jax.random.truncated_normal(key, z[0], z[1], (n,)))
        low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
        below = jnp.floor((sigma ** (1 / rho) - low) / (high - low) * (levels - 1)).astype(int)
        return jnp.clip(below + 1, 1, levels - 1)

    neighbours = _neighbours(levels_of, index_of, sigma_min, sigma_max, rho)
    training, distance = pairs.pair(losses.consistency_training), functools.partial(distances.huber, c=c)
    eulerian = Term("eulerian", training, distance, weight=_inverse_gap, times=neighbours)
    return recipe.method([eulerian], points=draws.on_path(path), label_drop=label_drop)


def ect(
    *,
    total_steps: int | None = None,
    times: TimeSampler = ("logit_normal", -1.1, 2.0),
    q: float = 2.0,
    k: float = 8.0,
    stages: int = 8,
    c: float = 1e-8,
    path: str | Path = "linear",
    label_drop: float = 0.1,
) -> Method:
    """Easy Consistency Tuning: neighbours move together in stages, from denoising (the first stage) to consistency.

        sigma_m / sigma = max(0, 1 - q^-(stage + 1) (1 + k sigmoid(-sigma))),   weight 1 / (sigma - sigma_m)

    The paper starts from a diffusion model.

    Args:
      total_steps: divided evenly among the stages; required.
      times: sampler of s; noise level log-normal(-1.1, 2), which is logit-normal in our time.
      q: base of the approach, 2 as published.
      k: how much closer neighbours are at high noise, 8 as published.
      stages: number of stages, 8 as in the published code: 25,000 steps each.
      c: of the distance sqrt(e + c^2) - c; 0 as published, here as small as float32 allows, for a finite gradient at e = 0.
      path: neighbours are on one line on the linear path alone.

    Reference: Geng et al. 2024 (arXiv 2406.14548), the continuous-time schedule and appendix.
    """
    steps = recipe.length("ect", f"neighbours approach each other in {stages} stages", total_steps)
    sampler = draws.diagonal_times(times)

    def neighbours(key: Array, n: int, step: Array) -> dict[str, Array]:
        s = jnp.minimum(sampler(key, n, step)["s"], 1 - 1e-4)  # sigma stays finite
        sigma = s / (1 - s)
        stage = jnp.minimum(jnp.asarray(step, jnp.float32) * stages // steps, stages - 1)
        ratio = jnp.maximum(0.0, 1 - q ** -(stage + 1) * (1 + k * jax.nn.sigmoid(-sigma)))
        m = ratio * sigma / (1 + ratio * sigma)
        return {"s": s, "t": jnp.zeros_like(s), "a": (s - m) / s}

    training, distance = pairs.pair(losses.consistency_training), functools.partial(distances.huber, c=c)
    eulerian = Term("eulerian", training, distance, weight=_inverse_gap, times=neighbours)
    return recipe.method([eulerian], points=draws.on_path(path), label_drop=label_drop)


def cd(
    *,
    levels: int = 40,
    ema: float = 0.95,
    solver: str = "heun",
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    distance: str | Distance = "l2",
    path: str | Path = "linear",
    label_drop: float = 0.1,
) -> Method:
    """Consistency distillation on a Karras grid, one step of the teacher from a level to the one below.

    Args:
      levels: of the grid, 40 as published for ImageNet 64 x 64.
      ema: decay of the target network's weights, a step; 0.95 as published.
      solver: "heun" as published, or "euler".
      distance: LPIPS in the paper.

    Reference: Song et al. 2023 (arXiv 2303.01469), Table 3.
    """
    mean_velocity, step_down = pairs.teacher_solver(solver), pairs.pair(losses.consistency_distillation)

    def pair(nets: Nets, point: Point) -> Pair:
        m = point.s * (1 - point.a)
        return step_down(nets, point, v=mean_velocity(pairs.bind(nets.teacher, point), point.x, point.s, m))

    neighbours = _neighbours(lambda step: levels, _uniform_index, sigma_min, sigma_max, rho)
    eulerian = Term("eulerian", pair, distances.distance_from_name(distance), times=neighbours)
    needs = {"teacher": {}, "ema": ema}
    return recipe.method([eulerian], points=draws.on_path(path), label_drop=label_drop, needs=needs)


def ctm(
    *,
    levels: int = 18,
    teacher_steps: int = 17,
    solver: str = "heun",
    ema: float = 0.999,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    distance: str | Distance = "l2",
    path: str | Path = "linear",
    label_drop: float = 0.1,
) -> Method:
    """Consistency Trajectory Models, the consistency term: source, target and the end of the teacher's steps on a Karras grid.

    The number k of the teacher's steps is one draw for the whole batch, with probability proportional to k; the source is uniform over
    the levels that have k levels below them, the target over those from the end of the teacher's steps down. Without the denoising and
    adversarial terms.

    Args:
      levels: of the grid, 18 as published; the lowest is sigma_min, not the data.
      teacher_steps: most steps of the teacher, 17 as published, one less than the levels.
      solver: "heun" as published, or "euler".
      ema: decay of the weights of the last jump, 0.999 as published.
      distance: LPIPS in the paper.

    Reference: Kim et al. 2023 (arXiv 2310.02279), Algorithm 1 and appendix; the draws from its code.
    """
    if not 1 <= teacher_steps < levels:
        raise InputError(f"ctm: teacher_steps is {teacher_steps} on a grid of {levels} levels; expected 1 to {levels - 1}.")
    mean_velocity, compare = pairs.teacher_solver(solver), pairs.pair(losses.consistency_trajectory)
    grid = times.from_sigma(times.karras_sigma(jnp.arange(levels), levels, sigma_min, sigma_max, rho))

    def levels_and_steps(key: Array, n: int, step: Array) -> dict[str, Array]:
        source_key, target_key, steps_key = jax.random.split(key, 3)
        count = jax.random.categorical(steps_key, jnp.log(jnp.arange(1, teacher_steps + 1))) + 1
        source = jax.random.randint(source_key, (n,), count, levels)
        target = jax.random.randint(target_key, (n,), 0, source - count + 1)
        s, t, m = grid[source], grid[target], grid[source - count]
        return {"s": s, "t": t, "a": (s - m) / (s - t)}

    def pair(nets: Nets, point: Point) -> Pair:
        teacher, m = pairs.bind(nets.teacher, point), pairs.middle(point)
        return compare(nets, point, m=m, x_m=_solve(teacher, point.x, point.s, m, grid, teacher_steps, mean_velocity))

    eulerian = Term("eulerian", pair, distances.distance_from_name(distance), times=levels_and_steps)
    needs = {"teacher": {}, "ema": ema}
    return recipe.method([eulerian], points=draws.on_path(path), label_drop=label_drop, needs=needs)


def _solve(
    teacher: Velocity, x: Array, s: Array, m: Array, grid: Array, steps: int, mean_velocity: Callable[..., Array]
) -> Array:
    """`x` carried from s to m by the teacher along a grid of times, at most `steps` steps; those beyond m have no length."""

    def advance(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        x, now = state
        below = grid[jnp.maximum(jnp.searchsorted(grid, now - 1e-6) - 1, 0)].reshape(now.shape).astype(now.dtype)
        after = jnp.maximum(below, m)
        return (flowmap.move(x, now, after, mean_velocity(teacher, x, now, after)), after), None

    if steps == 1:  # no loop: one call of the teacher
        return advance((x, s), None)[0][0]
    return jax.lax.scan(advance, (x, s), length=steps)[0][0]


def scm(
    *,
    times: TimeSampler = ("logit_normal", -1.0, 1.4),
    warmup_steps: int = 10_000,
    c: float = 0.1,
    learned_weight: bool = True,
    path: str | Path = "linear",
    label_drop: float = 0.1,
    jvp: str | Jvp = "exact",
    velocity: str = "data",
) -> Method:
    """Continuous consistency training (sCT) or distillation (sCD): the tangent warms up, is normalised, and weighed by a log-variance.

    With D = s d_s V, r = sqrt(s^2 + (1 - s)^2) and the warm-up w, the scored pair is (r V, r V - g / (|g| + c)),

        g = (1 - s) r ((w + (1 - w) (1 - s) / r^2) (V - v) + w D),

    the paper's tangent in trigonometric time, whose network is r V up to a multiple of x. The raw metric is of this pair. The paper
    scales time by the deviation of the data, 0.5 for images in [-1, 1], as does config.data.deviation = 0.5.

    Args:
      times: sampler of s; the paper's tan(t) is a noise level, log-normal(-1, 1.4), which is logit-normal in our time.
      warmup_steps: steps over which the factor of the derivative grows from 0 to 1, 10,000 as published.
      c: floor of the root mean square that normalises the tangent, 0.1 as published; a plain norm in the paper's text.
      learned_weight: whether rows are weighed by a learned log-variance; the published network of it could not be verified, EDM2's is
        taken.
      velocity: along which the derivative is taken, of the "data" (sCT) or of a "teacher" (sCD).

    Reference: Lu and Song 2024 (arXiv 2410.11081), eq. 8 and Algorithm 1.
    """
    checks.member("velocity of scm", velocity, ("data", "teacher"))
    tangent = pairs.pair(losses.continuous_consistency, jvp=jvp)
    taught: dict[str, dict] = {"teacher": {}} if velocity == "teacher" else {}
    sampler, warmup = draws.diagonal_times(times), draws.warm_up(1.0, warmup_steps)

    def warming(key: Array, n: int, step: Array) -> dict[str, Array]:
        return sampler(key, n, step) | {"t": jnp.zeros((n,)), "a": jnp.full((n,), warmup(step))}

    def normalised(nets: Nets, point: Point) -> Pair:
        s, r = point.s, jnp.sqrt(point.s**2 + (1 - point.s) ** 2)
        v = pairs.bind(nets.teacher, point)(point.x, s) if velocity == "teacher" else point.v
        V, target = tangent(nets, point, v=v)
        slower = (1 - point.a) * (1 - (1 - s) / r**2) * (V - v)
        g = jax.lax.stop_gradient((1 - s) * r * (V - target - slower))
        norm = jnp.sqrt(jnp.mean(g**2, axis=tuple(range(1, g.ndim)), keepdims=True))
        return Pair(r * V, jax.lax.stop_gradient(r * V) - g / (norm + c))

    scored, needs = pairs.learned_weight(learned_weight, reduce="mean")
    eulerian = Term("eulerian", normalised, times=warming, **scored)
    return recipe.method([eulerian], points=draws.on_path(path), label_drop=label_drop, needs=needs | taught)
