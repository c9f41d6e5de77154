"""From noise to data, and back: pure functions of a callable, one compilation a batch shape.

A sampler walks along times. On a grid from 1 to 0 it makes data of noise; on the same grid turned round (`times[::-1]`) those
without new noise carry data to the noise that it comes from, which is called inversion.
"""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import checks, flowmap, paths, times as times_, typing


def grid(steps):
    """Times from noise to data, uniform: [steps + 1] from 1 to 0. Raises InputError unless steps is at least 1."""
    if int(steps) != steps or steps < 1:
        raise typing.InputError(f"steps is {steps!r}; expected a whole number of at least 1, e.g. --steps=1,2,4.")
    return jnp.linspace(1.0, 0.0, int(steps) + 1)


def shifted(steps, *, shift=3.0):
    """Times from noise to data that stay longer near the noise, for shift > 1: t = shift u / (1 + (shift - 1) u), u uniform.

    Args:
      steps: number of intervals.
      shift: above 0; 1 is uniform, 3 as published.

    Raises:
      InputError: unless steps is at least 1 and shift above 0.

    Example:
      >>> shifted(2).tolist()
      [1.0, 0.75, 0.0]

    Reference: Esser et al. 2024 (arXiv 2403.03206), eq. 23.
    """
    if shift <= 0:
        raise typing.InputError(f"shifted: shift is {shift}; expected a number above 0, e.g. shifted:shift=3.")
    u = grid(steps)
    return shift * u / (1 + (shift - 1) * u)


def karras(steps, *, sigma_min=0.002, sigma_max=80.0, rho=7.0):
    """Times of the noise levels of Karras et al. on the linear path, then 0. The highest level counts as pure noise: the grid begins at 1.

        sigma_i = (sigma_max^(1/rho) + i / (n - 1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho,   t = sigma / (1 + sigma)

    Args:
      steps: n, number of intervals.
      sigma_min: lowest level above 0.
      sigma_max: highest level.
      rho: spacing; 7 as published.

    Raises:
      InputError: unless steps is at least 1, 0 < sigma_min < sigma_max and rho > 0.

    Reference: Karras et al. 2022 (arXiv 2206.00364), eq. 5, in our time.
    """
    ends = grid(steps)[jnp.array([0, -1])]
    if not (0 < sigma_min < sigma_max and rho > 0):
        raise typing.InputError(
            f"karras: sigma_min, sigma_max, rho are {sigma_min}, {sigma_max}, {rho}; expected 0 < sigma_min < sigma_max, rho > 0."
        )
    inner = times_.karras_sigma(jnp.arange(int(steps) - 2, -1, -1), max(int(steps), 2), sigma_min, sigma_max, rho)
    return jnp.concatenate([ends[:1], times_.from_sigma(inner), ends[1:]])


def flow_map(V, x, times):
    """Jumps along a grid of times, one evaluation of `V` an interval.

        x <- F(x, s, t) = x + (t - s) V(x, s, t)     for every (s, t) of neighbours in times

    Args:
      V: average velocity, `V(x, s, t)`, called with 0-d times.
      x: data at `times[0]`, [B, ...].
      times: [n + 1] times in [0, 1], any order; n = 1 is one-step sampling.

    Returns:
      The data at `times[-1]`, with the shape and dtype of `x`.

    Raises:
      InputError: if `times` is not a 1-D array of at least two times.

    Example:
      >>> flow_map(lambda x, s, t: x, jnp.ones((1, 2)), jnp.array([1.0, 0.5, 0.0])).tolist()
      [[0.25, 0.25]]

    Reference: Boffi et al. 2024 (arXiv 2406.07507), multistep sampling; Geng et al. 2025 (arXiv 2505.13447), section 4.
    """
    return _scan(lambda x, s, t: flowmap.jump(V, x, s, t), x, times)


def euler(v, x, times):
    """Euler's method, order 1, for `dx/dt = v(x, t)`: x <- x + (t - s) v(x, s). Arguments as in `flow_map`, with `v(x, t)`.

    For a flow map the velocity is `lambda x, t: V(x, t, t)`.
    """
    return _scan(lambda x, s, t: (x + (t - s) * v(x, s)).astype(x.dtype), x, times)


def heun(v, x, times):
    """Heun's method, order 2: x <- x + (t - s) (v(x, s) + v(y, t)) / 2 with y Euler's step. Two evaluations an interval.

    Arguments as in `flow_map`, with `v(x, t)`.
    """

    def step(x, s, t):
        v_s = v(x, s)
        y = (x + (t - s) * v_s).astype(x.dtype)
        return (x + (t - s) * (v_s + v(y, t)) / 2).astype(x.dtype)

    return _scan(step, x, times)


def midpoint(v, x, times):
    """The midpoint method, order 2: x <- x + (t - s) v(y, m) with m halfway and y Euler's step there. Two evaluations an interval.

    Arguments as in `flow_map`, with `v(x, t)`.
    """

    def step(x, s, t):
        m = (s + t) / 2
        y = (x + (m - s) * v(x, s)).astype(x.dtype)
        return (x + (t - s) * v(y, m)).astype(x.dtype)

    return _scan(step, x, times)


def adaptive(v, x, times, *, rtol=1e-5, atol=1e-5):
    """The solution of `dx/dt = v(x, t)` to a tolerance: Tsitouras' method of order 5, as many steps as the hardest row asks for.

    The reference for other solvers, from diffrax. All rows take the same steps, so that a row depends on the others at the level of
    the tolerance.

    Args:
      v: velocity, `v(x, t)`, called with 0-d times.
      x: data at `times[0]`, [B, ...].
      times: [n + 1] times in [0, 1], of which the first and the last count.
      rtol: relative tolerance of a step, as the root mean square of a row; not below 1e-6 in float32.
      atol: absolute tolerance, in units of the data.

    Returns:
      The data at `times[-1]`, with the shape and dtype of `x`.

    Raises:
      InputError: if `times` is not a 1-D array of at least two times, or a tolerance is not above 0.
      RuntimeError: if 4,096 steps do not suffice, which is to say that v is not smooth at this tolerance.

    Reference: Kidger 2021, On Neural Differential Equations (arXiv 2202.02435), section 5.
    """
    import diffrax  # takes seconds

    if not (rtol > 0 and atol > 0):
        raise typing.InputError(f"adaptive: rtol and atol are {rtol} and {atol}; expected above 0, e.g. adaptive:rtol=1e-5.")
    times = _times(times)
    rows = tuple(range(1, x.ndim))
    hardest = lambda error: jnp.max(jnp.sqrt(jnp.mean(error**2, axis=rows)))
    return diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, _: v(y.astype(x.dtype), t).astype(y.dtype)),
        diffrax.Tsit5(),
        t0=times[0],
        t1=times[-1],
        dt0=None,
        y0=x.astype(jnp.promote_types(x.dtype, jnp.float32)),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol, norm=hardest),
    ).ys[0].astype(x.dtype)  # fmt: skip


def trajectory(solver, v, x, times, kept):
    """The way of a solver from `times[0]` to `times[-1]`, at evenly spaced times of the grid.

    Args:
      solver: `euler`, `heun`, `midpoint`, or `flow_map` with V instead of v; without new noise.
      v: velocity, `v(x, t)`.
      x: data at `times[0]`, [B, ...].
      times: [n + 1] times.
      kept: how many points to keep, both ends among them; kept - 1 divides n.

    Returns:
      [B, kept, ...].
    """
    own = (len(times) - 1) // (kept - 1)
    legs = times[own * jnp.arange(kept - 1)[:, None] + jnp.arange(own + 1)[None]]

    def leg(x, times):
        x = solver(v, x, times)
        return x, x

    return jnp.concatenate([x[:, None], jnp.moveaxis(jax.lax.scan(leg, x, legs)[1], 0, 1)], axis=1)


def consistency(V, x, times, keys, *, path=paths.linear):
    """Multistep consistency sampling: jump to the data, add noise up to the next time, jump again.

        x0 = F(x, s, 0),   x <- alpha(t) x0 + sigma(t) z,   z ~ N(0, I)

    For networks that learn jumps to the data alone.

    Args:
      V: average velocity, `V(x, s, t)`, called with t = 0.
      x: data at `times[0]`, [B, ...].
      times: [n + 1] times in [0, 1], falling to 0.
      keys: a typed key a row, [B], of the noise.
      path: the flowjax.paths.Path that V was trained on.

    Returns:
      The data at `times[-1]`, with the shape and dtype of `x`.

    Raises:
      InputError: if `times` is not a 1-D array of at least two times.

    Example:
      >>> keys = jax.random.split(jax.random.key(0), 1)
      >>> consistency(lambda x, s, t: x, jnp.ones((1, 2)), jnp.array([0.5, 0.0]), keys).tolist()
      [[0.5, 0.5]]

    Reference: Song et al. 2023, Consistency Models (arXiv 2303.01469), algorithm 1, in our time.
    """

    def step(x, s, t, noise):
        x0 = flowmap.jump(V, x, s, jnp.zeros_like(s))
        return (path.alpha(t) * x0 + path.sigma(t) * noise()).astype(x.dtype)

    return _scan(step, x, times, keys)


def gamma(V, x, times, keys, *, gamma=0.5, path=paths.linear):
    """Gamma sampling of consistency trajectory models: jump further than the next time, and come back to it with new noise.

        x_m = F(x, s, m)  with  sigma(m) / alpha(m) = sqrt(1 - gamma^2) sigma(t) / alpha(t)
        x <- alpha(t) / alpha(m) x_m + gamma sigma(t) z,   z ~ N(0, I)

    gamma = 0 is `flow_map`, gamma = 1 is `consistency`. Arguments as in `consistency`, and

      V: called with any target between 0 and s.
      times: [n + 1] times in [0, 1], falling.
      gamma: share of the noise that is new, from 0 to 1.

    Raises:
      InputError: if `times` is no grid, or gamma not between 0 and 1.

    Reference: Kim et al. 2024 (arXiv 2310.02279), algorithm 3, in our time.
    """
    if not 0 <= gamma <= 1:
        raise typing.InputError(f"gamma: gamma is {gamma}; expected a number from 0 (no new noise) to 1, e.g. gamma:gamma=0.5.")

    def step(x, s, t, noise):
        m = _quieter(path, t, np.sqrt(1 - gamma**2))
        x_m = flowmap.jump(V, x, s, m)
        return (path.alpha(t) / path.alpha(m) * x_m + gamma * path.sigma(t) * noise()).astype(x.dtype)

    return _scan(step, x, times, keys)


def restarts(times, *, low=0.2, high=0.6, repeats=2):
    """A grid that goes back up: where it comes to `low`, it is taken again from `high` on, `repeats` times.

    Args:
      times: [n + 1] times that fall, known when this is traced.
      low: lower end of the interval that is repeated; it joins the grid.
      high: upper end, likewise.
      repeats: how often, at least 1.

    Returns:
      numpy array of times, for `restart`.

    Raises:
      InputError: unless 0 <= low < high < 1, within the grid, and repeats is at least 1.

    Example:
      >>> restarts([1.0, 0.5, 0.0], low=0.25, high=0.75, repeats=1).tolist()
      [1.0, 0.5, 0.25, 0.75, 0.5, 0.25, 0.0]
    """
    times = np.asarray(times, np.float64)
    if not (times[-1] <= low < high < 1 and high <= times[0] and repeats >= 1 and int(repeats) == repeats):
        raise typing.InputError(
            f"restart: low, high, repeats are {low}, {high}, {repeats} on a grid from {times[0]:g} to {times[-1]:g}; expected"
            " 0 <= low < high < 1 within it and at least one repeat, e.g. restart:low=0.2,high=0.6,repeats=2."
        )
    rounding = 1e-6  # float32 grids hold 0.19999999 for 0.2
    before, after = times[times > low + rounding], times[times < low - rounding]
    again = np.concatenate([[high], before[before < high - rounding], [low]])
    return np.concatenate([before, [low], *[again] * int(repeats), after])


def restart(V, x, times, keys, *, path=paths.linear):
    """Jumps where the times fall, new noise where they rise: restart sampling along the times of `restarts`.

        t < s:  x <- F(x, s, t)
        t > s:  x <- alpha(t) / alpha(s) x + (sigma(t)^2 - (alpha(t) sigma(s) / alpha(s))^2)^(1/2) z,   z ~ N(0, I)

    Arguments as in `consistency`, with any times; one evaluation of `V` where they fall, none where they rise.

    Reference: Xu et al. 2023, Restart Sampling (arXiv 2306.14878), eq. 5, on any path, with jumps for the steps of the solver.
    """

    def rise(x, s, t, noise):
        kept = path.alpha(t) / path.alpha(s)
        return (kept * x + jnp.sqrt(path.sigma(t) ** 2 - (kept * path.sigma(s)) ** 2) * noise()).astype(x.dtype)

    def step(x, s, t, noise):
        return jax.lax.cond(t > s, lambda: rise(x, s, t, noise), lambda: flowmap.jump(V, x, s, t))

    return _scan(step, x, times, keys)


def _quieter(path, t, share):
    """The time m <= t with sigma(m) / alpha(m) = share sigma(t) / alpha(t), by bisection; no division, so that alpha may be 0."""

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        above = path.sigma(middle) * path.alpha(t) > share * path.sigma(t) * path.alpha(middle)
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    if share == 1:  # no new noise, and not a rounding error less
        return t
    return jax.lax.fori_loop(0, 40, halve, (jnp.zeros_like(t), t))[0]


def _scan(step, x, times, keys=None):
    """Folds `step(x, s, t)` over neighbours in times; with keys, `step(x, s, t, noise)`, new noise in every interval."""
    times = _times(times)

    def noise(number):
        return lambda: jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), x.shape[1:], x.dtype))(keys)

    def one(x, interval):
        number, s, t = interval
        return step(x, s, t, *([] if keys is None else [noise(number)])), None

    return jax.lax.scan(one, x, (jnp.arange(len(times) - 1), times[:-1], times[1:]))[0]


def _times(times):
    times = jnp.asarray(times)
    times = times.astype(jnp.promote_types(times.dtype, jnp.float32))
    if times.ndim != 1 or times.shape[0] < 2:
        raise typing.InputError(
            f"times has shape {times.shape}; expected a 1-D grid of at least two times from the time of x to the time wanted:"
            " flowjax.samplers.grid(steps)."
        )
    return times


class Sampler(NamedTuple):
    """A sampler by name, for an average velocity.

    Attributes:
      run: `(V, x, times, keys, **options)`; the solvers follow the diagonal of V, the instantaneous velocity V(x, t, t).
      noisy: whether it draws new noise on the way, so that it cannot be turned round.
      evaluations: `(times, **options) -> int`, how often a sampling evaluates V; None: it depends on the data.
    """

    run: Callable
    noisy: bool = False
    evaluations: Callable | None = lambda times: len(times) - 1


def _jumps(sampler):
    @functools.wraps(sampler)
    def run(V, x, times, keys, **options):
        return sampler(V, x, times, **options)

    return run


def _solver(solver):
    @functools.wraps(solver)
    def run(V, x, times, keys, **options):
        return solver(lambda x, t: V(x, t, t), x, times, **options)

    return run


def _restart(V, x, times, keys, *, low=0.2, high=0.6, repeats=2, path=paths.linear):
    return restart(V, x, restarts(times, low=low, high=high, repeats=repeats), keys, path=path)


def _falls(times, **options):
    return int((np.diff(restarts(times, **options)) < 0).sum())


SAMPLERS = {
    "flow_map": Sampler(_jumps(flow_map)),
    "consistency": Sampler(consistency, noisy=True),
    "gamma": Sampler(gamma, noisy=True, evaluations=lambda times, **options: len(times) - 1),
    "restart": Sampler(_restart, noisy=True, evaluations=_falls),
    "euler": Sampler(_solver(euler)),
    "heun": Sampler(_solver(heun), evaluations=lambda times: 2 * (len(times) - 1)),
    "midpoint": Sampler(_solver(midpoint), evaluations=lambda times: 2 * (len(times) - 1)),
    "adaptive": Sampler(_solver(adaptive), evaluations=None),
}

GRIDS = {"uniform": grid, "shifted": shifted, "karras": karras}


def named(spec, path="linear"):
    """A Sampler from its name and options in a config or on a command line: "heun", "gamma:gamma=0.3", "restart:low=0.2,repeats=3".

    Args:
      spec: "NAME" or "NAME:option=number,...", a key of SAMPLERS and keyword arguments of its function.
      path: the path that V was trained on, a name or a flowjax.paths.Path.

    Returns:
      The Sampler, its `run(V, x, times, keys)` and `evaluations(times)` with the options filled in.

    Raises:
      InputError: for an unknown sampler or option, or an option that is no number.
    """
    name, options = _options("sampler", spec, {name: entry.run for name, entry in SAMPLERS.items()})
    entry = SAMPLERS[name]
    given = options | ({"path": paths.named(path)} if "path" in inspect.signature(entry.run).parameters else {})
    evaluations = entry.evaluations and functools.partial(entry.evaluations, **options)
    return entry._replace(run=functools.partial(entry.run, **given), evaluations=evaluations)


def named_grid(spec):
    """A grid by name: "uniform", "karras:rho=5", "shifted:shift=3", or its times themselves: "1,0.8,0.3,0".

    Returns:
      `steps -> times`, numpy [steps + 1] that fall from 1 to 0.

    Raises:
      InputError: for an unknown grid or option; when called, for a number of steps that the times do not have, or times that do
        not run from noise to data.
    """
    if spec[:1].isdigit() or "," in spec.partition(":")[0]:
        return lambda steps: _given(spec, steps)
    name, options = _options("grid", spec, GRIDS)
    return lambda steps: from_noise_to_data(GRIDS[name](steps, **options), spec)


def check(spec, steps, grid="uniform"):
    """The times of a grid, [steps + 1]; raises InputError for whatever in the sampler, its options or the grid cannot work."""
    chosen, times = named(spec), named_grid(grid)(steps)
    stand_in = lambda x, s, t: jnp.zeros_like(x)
    jax.eval_shape(
        lambda x, seed: chosen.run(stand_in, x, times, jax.random.split(jax.random.key(seed), 1)), jnp.ones((1, 1)), 0
    )
    return times


def from_noise_to_data(times, name):
    """The times as numpy; raises InputError, with the `name` that they were given as, unless they fall from 1 to 0."""
    times = np.asarray(times)
    if times.ndim != 1 or len(times) < 2 or times[0] != 1 or times[-1] != 0 or not (np.diff(times) < 0).all():
        raise typing.InputError(
            f"the grid {name} has the times {np.round(times, 4).tolist()}; expected times that fall from 1 (noise) to 0 (data),"
            " e.g. --grid=1,0.8,0.3,0."
        )
    return times


def _given(spec, steps):
    try:
        times = np.array([float(part) for part in spec.split(",")], np.float32)
    except ValueError:
        raise typing.InputError(f"--grid={spec}: expected a name or times, e.g. --grid=1,0.8,0.3,0.") from None
    from_noise_to_data(times, spec)
    if steps != len(times) - 1:
        raise typing.InputError(f"--grid={spec} has {len(times) - 1} step(s), not {steps}: --steps={len(times) - 1}.")
    return times


def _options(what, spec, functions):
    """("NAME", {option: number}) of "NAME:option=number,...", the options being keyword arguments of `functions[NAME]`."""
    name, _, rest = spec.partition(":")
    checks.member(what, name, functions)
    parameters = inspect.signature(functions[name]).parameters
    known = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY and isinstance(p.default, (int, float))]
    options = {}
    for part in rest.split(",") if rest else []:
        option, _, value = part.partition("=")
        if option not in known:
            raise typing.InputError(
                f"{what} {spec!r}: {name} has no option {option!r}; expected {' or '.join(known) if known else 'none'}"
                + (f", e.g. {name}:{known[0]}={parameters[known[0]].default}." if known else f": {name}.")
            )
        try:
            options[option] = float(value)
        except ValueError:
            raise typing.InputError(f"{what} {spec!r}: {option} is {value!r}; expected a number.") from None
    return name, options
