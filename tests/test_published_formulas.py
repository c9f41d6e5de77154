"""Recipes against short readings of their published formulas: loss and gradient on fixed draws, and the laws of what is drawn.

A reading is written as the authors' code or paper has it, in its own time and signs, on all rows at once. It calls nothing that it
judges. docs/deviations.md says where recipes differ on purpose.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from flowjax import flowmap, guidance, methods, times, typing
from flowjax.methods import draws, pixel

sg = jax.lax.stop_gradient
PARAMS = {"a": 0.7, "b": -0.4, "c": 1.3}
ROWS, SHAPE = 24, (2, 2, 3)


def network(p, x, t, h, y=0.0):
    """A smooth function of data, time, gap and label, large enough for what is clipped."""
    return 3 * jnp.tanh(p["a"] * x + p["b"] * t - 0.5 * h * p["c"] + 0.1 * y) + p["c"] * t * h


def fixed(seed=0, low=0.0):
    """Data, noise and two sorted times [ROWS, 1, 1, 1] in float64."""
    rng = np.random.default_rng(seed)
    x, e = rng.normal(size=(2, ROWS, *SHAPE)) * 2
    r, t = np.sort(rng.uniform(low, 1, (2, ROWS, 1, 1, 1)), axis=0)
    return x, e, t, r


def mean(values):
    return jnp.mean(values, axis=(1, 2, 3))


def total(values):
    return jnp.sum(values, axis=(1, 2, 3))


def agree(ours, published, value=True):
    """Both functions of the parameters have one gradient, and one value."""
    both = jax.jit(lambda p: [jax.value_and_grad(loss)(p) for loss in (ours, published)])
    (one, gradient), (other, expected) = both({name: jnp.float64(number) for name, number in PARAMS.items()})
    assert max(abs(float(g)) for g in expected.values()) > 1e-3
    if value:
        np.testing.assert_allclose(one, other, rtol=1e-9)
    for name in PARAMS:
        np.testing.assert_allclose(gradient[name], expected[name], rtol=1e-6, atol=1e-9, err_msg=name)


def point(x, e, t, r=None, rows=slice(None), **fields):
    """The rows as a Point of ours: s is their t, t their r."""
    whole = typing.Point(x=(1 - t) * x + t * e, s=t, t=r, v=e - x, x0=x, eps=e, **fields)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], whole)


def plain(p):
    return typing.Nets(V=lambda x, s, t: network(p, x, s, s - t))


# Losses


@pytest.mark.parametrize("alpha", [1.0, 0.4, 0.02, 0.0])
def test_alphaflow(x64, alpha):
    """loss.py of the authors: a / (e + 1e-3) on the pair as it is, and the discrete target clipped."""
    x, e, t, r = fixed()
    fm = np.arange(ROWS)[:, None, None, None] < ROWS // 4
    continuous = fm | (alpha == 0)
    r = np.where(fm, t, r)
    z, v, dt = (1 - t) * x + t * e, e - x, alpha * (t - r)

    def published(p):
        u = lambda z, t, r: network(p, z, t, t - r)
        _, slope = jax.jvp(u, (z, t, r), (v, np.ones_like(t), np.zeros_like(r)))
        ahead = (dt * v + (t - dt - r) * u(z - dt * v, t - dt, r)) / np.where(t > r, t - r, 1)
        target = sg(jnp.where(continuous, v - (t - r) * slope, jnp.clip(ahead, -4, 4)))
        error = mean((u(z, t, r) - target) ** 2)
        weight = np.where(continuous, 1.0, alpha).reshape(-1) / (sg(error) + 1e-3)
        return jnp.mean(weight * error)

    method, n = methods.make("alphaflow", total_steps=10), ROWS // 4
    a = np.full_like(t, alpha)
    drawn = {"anchor": point(x, e, t, rows=slice(n)), "eulerian": point(x, e, t, r, slice(n, None), a=a)}
    assert np.abs(v).max() > 4
    agree(lambda p: method.loss(plain(p), drawn)[0].mean(), published)


@pytest.mark.parametrize(("p_", "c"), [(1.0, 0.01), (0.75, 1e-3)])
def test_soflow(x64, p_, c):
    """models.py of the authors: the anchor is a square, the consistency term network x sg[quotient x weight], with floors 1e-4."""
    x, e, t, s = fixed()
    t = np.maximum(t, 1e-4)
    s = np.minimum(np.where(np.arange(ROWS)[:, None, None, None] % 5 == 0, 1.0, s), t - 1e-4)
    n = 3 * ROWS // 4
    middle = np.minimum(t + (s - t) * 0.03, t - 1e-4)
    z, v = (1 - t) * x + t * e, e - x

    def published(p):
        NN = lambda z, t, s: network(p, z, t, t - s)  # f(z, t, s) = z + (s - t) NN
        anchor = mean((NN(z, t, t) - v) ** 2)
        anchor = anchor / sg(anchor + c) ** p_
        z_m = z + v * (middle - t)
        quotient = sg((z + (s - t) * NN(z, t, s) - z_m - (s - middle) * NN(z_m, middle, s)) / (t - middle))
        weight = 1 / (total(quotient**2) / 12 + c) ** p_
        consistency = -mean(NN(z, t, s) * quotient) * weight  # the sign of b(t, s) = s - t
        return anchor[:n].mean() * n / ROWS + consistency[n:].mean() * (ROWS - n) / ROWS

    method = methods.make("soflow", total_steps=10, p=p_, c=c)
    a = (t - middle) / (t - s)
    drawn = {"anchor": point(x, e, t, rows=slice(n)), "eulerian": point(x, e, t, s, slice(n, None), a=a)}
    agree(lambda p: method.loss(plain(p), drawn)[0].mean(), published, value=False)


def test_decoupled_meanflow(x64):
    """loss.py of the authors: on every row half of both terms, each with its noise, times and learned log-variance."""
    (x, e_fm, t_fm, _), (_, e, t, r) = fixed(0), fixed(1)
    log_variance = lambda p, t, r: p["a"] * jnp.sin(3 * t) + p["b"] * r

    def published(p):
        def score(u, target, lv):
            return jnp.log(jnp.exp(-lv.reshape(-1)) * mean((u - sg(target)) ** 2) + 0.01) + lv.reshape(-1)

        u = lambda z, t, r: network(p, z, t, t - r)
        flow = score(u((1 - t_fm) * x + t_fm * e_fm, t_fm, t_fm), e_fm - x, log_variance(p, t_fm, t_fm))
        at, along = ((1 - t) * x + t * e, t, r), (e - x, np.ones_like(t), np.zeros_like(r))
        value, slope = jax.jvp(u, at, along)
        return jnp.mean(0.5 * (flow + score(value, e - x + (r - t) * slope, log_variance(p, t, r))))

    method = methods.make("dmf")
    drawn = {"anchor": point(x, e_fm, t_fm), "eulerian": point(x, e, t, r)}
    nets = lambda p: plain(p).replace(log_variance=lambda s, t: log_variance(p, s, t).reshape(-1))
    agree(lambda p: method.loss(nets(p), drawn)[0].mean(), published)


def test_rectified_meanflow(x64):
    """meanflow.py of the authors: means of squares under the power 0.5 with floor 0.01, on all rows at once."""
    x, e, t, r = fixed()
    n = 3 * ROWS // 4
    r = np.where(np.arange(ROWS)[:, None, None, None] < n, t, r)
    z, v = (1 - t) * x + t * e, e - x

    def published(p):
        u = lambda z, t, r: network(p, z, t, t - r)
        value, slope = jax.jvp(u, (z, t, r), (v, np.ones_like(t), np.zeros_like(r)))
        error = mean((value - sg(v - (t - r) * slope)) ** 2)
        return jnp.mean(error / sg(error + 0.01) ** 0.5)

    method = methods.make("rectified_meanflow")
    drawn = {"anchor": point(x, e, t, rows=slice(n)), "eulerian": point(x, e, t, r, slice(n, None))}
    agree(lambda p: method.loss(plain(p), drawn)[0].mean(), published)


@pytest.mark.parametrize("anchor", ["diagonal", "extended"])
def test_flow_anchored_consistency(x64, anchor):
    """losses.py of the authors, in their time: 1 at the data, the network's output points from noise to data."""
    x, e, s, _ = fixed(low=0.05)
    t = 1 - s
    z, v = t * x + (1 - t) * e, 0.5 * np.sin(x) - e  # any teacher's velocity, from noise to data

    def published(p):
        # With a second time input, the anchor has r = t and the jump r = 1; without, the anchor has the time 2 - t.
        F = lambda z, t, r: -network(p, z, 1 - t, r - t) if anchor == "diagonal" else -network(p, z, 1 - t, 0.3)
        flow = F(z, t, t) if anchor == "diagonal" else F(z, 2 - t, 2 - t)
        norm = lambda a: jnp.sqrt(jnp.sum(a**2, axis=-1))
        cosine = jnp.sum(flow * v, axis=-1) / (norm(flow) * norm(v))
        anchor_loss = mean((flow - v) ** 2) + jnp.mean(1 - cosine, axis=(1, 2))
        value, slope = jax.jvp(lambda z, t: F(z, t, jnp.ones_like(t)), (z, t), (v, np.ones_like(t)))
        g = sg(value - (v + (1 - t) * slope))
        target = sg(value) - (1 - t**0.5) * jnp.clip(g, -1, 1)
        error = mean((value - target) ** 2)
        jump = error / sg(error + 1e-3) ** 0.5 * jnp.cos(t * np.pi / 2).reshape(-1)
        return jnp.mean(jump) + jnp.mean(anchor_loss)

    method = methods.make("facm", anchor=anchor)
    gap = (lambda s, t: s - t) if anchor == "diagonal" else (lambda s, t: 0.3)
    nets = lambda p: typing.Nets(V=lambda x, s, t: network(p, x, s, gap(s, t)), teacher=lambda x, t: -v)
    agree(lambda p: method.loss(nets(p), {"eulerian": point(x, e, s)})[0].mean(), published)


# Guided losses


def labelled(diagonal, dropped):
    """Labels, scales and intervals as MeanFlow's and improved MeanFlow's code draws them, the diagonal's rows at the head."""
    rng = np.random.default_rng(3)
    label, omega = rng.integers(0, 3, ROWS), np.exp(rng.uniform(0, np.log(8), ROWS))
    head = np.arange(ROWS) < diagonal
    low, high = np.where(head, 0.0, rng.uniform(0, 0.5, ROWS)), np.where(head, 1.0, rng.uniform(0.5, 1, ROWS))
    column = lambda values: values.reshape(-1, 1, 1, 1)
    return head, label, np.isin(np.arange(ROWS), dropped), *map(column, (omega, low, high))


def points_of(n, x, e, t, r, label, dropped, omega, low, high):
    """Our terms on the same rows, the null label -1."""
    cond = {
        "label": np.where(dropped, -1, label),
        "guidance": omega.reshape(-1),
        "interval": np.stack([low, high], -1).reshape(-1, 2),
    }
    return {"anchor": point(x, e, t, rows=slice(n), cond=cond), "eulerian": point(x, e, t, r, slice(n, None), cond=cond)}


def test_meanflow(x64):
    """meanflow.py of the authors with omega and kappa within an interval, dropped labels on all rows; null label 3."""
    x, e, t, r = fixed()
    n, omega, kappa = 3 * ROWS // 4, 0.6, 0.7
    head, label, dropped, w, low, high = labelled(n, [1, 5, 9, 20])
    column = lambda values: values.reshape(-1, 1, 1, 1)
    r = np.where(column(head), t, r)
    z, v, null = (1 - t) * x + t * e, e - x, np.full(ROWS, 3)

    def published(p):
        u = lambda z, t, r, y: network(p, z, t, t - r, column(y))
        v_g = omega * v + (1 - omega - kappa) * u(z, t, t, null) + kappa * u(z, t, t, label)
        v_g = jnp.where((t >= 0.1) & (t <= 0.8) & ~column(dropped), sg(v_g), v)
        kept = np.where(dropped, 3, label)
        along = (v_g, np.ones_like(t), np.zeros_like(r))
        value, slope = jax.jvp(lambda z, t, r: u(z, t, r, kept), (z, t, r), along)
        error = total((value - sg(v_g - (t - r) * slope)) ** 2)
        return jnp.mean(error / sg(error + 0.01))

    method = methods.guided("meanflow", methods.make("meanflow"), "meanflow", scale=(2.0, 2.0), k=kappa, interval=(0.1, 0.8))
    drawn = points_of(n, x, e, t, r, label, dropped, np.full_like(w, omega / (1 - kappa)), low, high)
    label_of = lambda cond: column(jnp.where(cond["label"] < 0, 3, cond["label"]))
    nets = lambda p: typing.Nets(V=lambda x, s, t, cond: network(p, x, s, s - t, label_of(cond)))
    agree(lambda p: method.loss(nets(p), drawn)[0].mean(), published)


def two_heads(p, z, t, h, w, low, high, y):
    """(u, v) of a network that knows scale and interval."""
    inner = network(p, z, t, h, y) + 0.3 * p["c"] / w + p["a"] * low * high
    return inner, jnp.sin(inner + p["b"] * z)


def guided_rows(p, z, v, t, r, label, dropped, w, low, high, head, of):
    """Improved MeanFlow's code up to its residuals: (V - v_g, v - v_g, u), the null label 3, `of` the two heads."""
    column, zero, one = lambda values: values.reshape(-1, 1, 1, 1), np.zeros_like(t), np.ones_like(t)
    v_null = of(z, t, zero, one, zero, one, column(np.full(ROWS, 3)))[1]
    v_fm = v + (1 - 1 / w) * (of(z, t, zero, w, zero, one, column(label))[1] - v_null)
    inside = np.where((t >= low) & (t <= high), w, 1.0)
    v_c = of(z, t, zero, inside, zero, one, column(label))[1]
    v_g = jnp.where(column(head), v_fm, v + (1 - 1 / inside) * (v_c - v_null))
    v_g = sg(jnp.where(column(dropped), v, v_g))
    kept = column(np.where(dropped, 3, label))
    u_of = lambda z, t, r: of(z, t, t - r, w, low, high, kept)
    u, slope, velocity = jax.jvp(u_of, (z, t, r), (sg(v_c), one, zero), has_aux=True)
    return u + (t - r) * sg(slope) - v_g, velocity - v_g, u


def both_of(p, of):
    """The two heads as our recipes call them."""
    column = lambda values: values.reshape(-1, 1, 1, 1)

    def both(x, s, t, cond):
        y, (low, high) = jnp.where(cond["label"] < 0, 3, cond["label"]), jnp.moveaxis(cond["interval"], -1, 0)
        return of(p, x, s, s - t, *map(column, (cond["guidance"], low, high, y)))

    return typing.Nets(V=lambda *inputs: both(*inputs)[0], both=both)


def test_improved_meanflow(x64):
    """imf.py of the authors with two heads; dropped labels are on the diagonal, keep their scale, and have the whole interval."""
    x, e, t, r = fixed()
    n = ROWS // 2
    head, label, dropped, w, low, high = labelled(n, [0, 1, 2])
    r = np.where(head[:, None, None, None], t, r)
    z, v = (1 - t) * x + t * e, e - x

    def published(p):
        heads = lambda *inputs: two_heads(p, *inputs)
        *residuals, _ = guided_rows(p, z, v, t, r, label, dropped, w, low, high, head, heads)
        errors = [total(residual**2) for residual in residuals]
        return jnp.mean(sum(error / sg(error + 0.01) for error in errors))

    method = methods.guided("imf", methods.make("imf", heads=2), "imf", scale=(1.0, 8.0))
    drawn = points_of(n, x, e, t, r, label, dropped, w, low, high)
    agree(lambda p: method.loss(both_of(p, two_heads), drawn)[0].mean(), published)


def crops(denoised, data, keys):
    """A worked example of perceptual distances: two features of one random crop of both images, with weights."""

    def crop(key, image):
        top = jax.random.randint(key, (), 0, 2)
        return jax.lax.dynamic_slice_in_dim(image, top, 1)

    one, other = (jax.vmap(crop)(keys, images) for images in (denoised, data))
    edges = lambda images: jnp.diff(images, axis=2)
    colour = lambda images: jnp.mean(images, axis=(1, 2))
    return [
        (0.4, jnp.mean((edges(one) - edges(other)) ** 2, axis=(1, 2, 3))),
        (0.1, jnp.sum((colour(one) - colour(other)) ** 2, axis=-1)),
    ]


def pixel_heads(p, z, t, h, w, low, high, y):
    """Velocities of a network that predicts denoised images."""
    return tuple((z - D) / jnp.clip(t, 0.05, 1.0) for D in two_heads(p, z, t, h, w, low, high, y))


def test_pixel_meanflow(x64):
    """pmf.py of the authors: wide noise, floored velocities, perceptual terms below a time, each adaptively weighted."""
    x, e, t, r = fixed()
    t, r = t**2, r**2  # some below the floor
    n, keys = ROWS // 2, jax.random.split(jax.random.key(0), ROWS)
    head, label, dropped, w, low, high = labelled(n, [0, 1, 2])
    r = np.where(head[:, None, None, None], t, r)
    z = (1 - t) * x + t * 2 * e  # noise scale 2
    v = (z - x) / np.clip(t, 0.05, 1.0)
    assert (t < 0.05).any() and (t > 0.8).any()

    def published(p):
        heads = lambda *inputs: pixel_heads(p, *inputs)
        *residuals, u = guided_rows(p, z, v, t, r, label, dropped, w, low, high, head, heads)
        adapted = lambda error: error / sg(error + 0.01)
        terms = [adapted(total(residual**2)) for residual in residuals]
        below = t.reshape(-1) < 0.8
        terms += [weight * adapted(jnp.where(below, error, 0.0)) for weight, error in crops(z - t * u, x, keys)]
        return jnp.mean(sum(terms))

    method = methods.guided("pmf", methods.make("pmf", heads=2, perceptual=crops), "imf", scale=(1.0, 8.0), power=2.0)
    drawn = points_of(n, x, 2 * e, t, r, label, dropped, w, low, high)
    floored = draws.on_path("linear", 0.05)
    for name, rows in (("anchor", slice(n)), ("eulerian", slice(n, None))):
        own = floored(lambda key, rows: {"s": jnp.asarray(drawn[name].s).reshape(-1)}, None, drawn[name]._asdict())  # noqa: B023
        np.testing.assert_allclose(own.v, v[rows], rtol=1e-5)
        drawn[name] = drawn[name]._replace(v=v[rows], extra={"perceptual": keys[rows]})
    agree(lambda p: method.loss(both_of(p, pixel_heads), drawn)[0].mean(), published)


def test_perceptual_terms_by_name_and_by_draw(monkeypatch):
    monkeypatch.setitem(pixel.PERCEPTUAL, "crops", crops)
    V = flowmap.denoised_field(lambda x, s, t, cond: 0.3 * x)
    nets = typing.Nets(V=V, both=lambda x, s, t, cond: (V(x, s, t, cond), V(x, s, s, cond)))

    def errors(key, heads, name):
        method = methods.make("pmf", perceptual=name, perceptual_below=1.0, heads=heads)
        drawn = method.draw(key, {"x": jnp.ones((8, 4, 4, 3))}, 0)
        assert (drawn["anchor"].extra is None) == (not name)
        return method.loss(nets, drawn)[0]

    both = jax.jit(lambda key: [(errors(key, heads, "crops"), errors(key, heads, "")) for heads in (1, 2)])
    for perceptual, without in both(jax.random.key(0)):
        more = perceptual - without
        assert (more > 0).all() and (more < 0.5).all()  # adaptively weighted, the weights sum to 0.5
    with pytest.raises(typing.InputError, match="perceptual is 'lpips', and .* has crops; expected a function, or the name"):
        methods.make("pmf", perceptual="lpips")


# What is drawn

N = 20_000


def drawn_times(spec):
    return np.asarray(times.sampler_from_name(spec)(jax.random.key(5), N), np.float64)


def fits(sample, cdf):
    return stats.kstest(sample, cdf).pvalue > 0.01


def logit_normal(mean, std):
    return lambda t: stats.norm.cdf((special.logit(np.clip(t, 0, 1)) - mean) / std)


def u_shaped(t, a=4.0):
    rising = lambda t: np.expm1(a * t) / np.expm1(a)
    return 0.5 * (rising(t) + 1 - rising(1 - t))


def test_times_of_flow_anchored_consistency():
    s = drawn_times(("arctan_log_normal", -0.8, 1.6))
    with np.errstate(divide="ignore"):
        assert fits(s, lambda t: stats.norm.cdf((np.log(np.tan(np.pi / 2 * np.clip(t, 0, 1))) + 0.8) / 1.6))
    np.testing.assert_allclose(np.quantile(s, [0.05, 0.25, 0.5, 0.75, 0.95]), [0.020, 0.096, 0.268, 0.586, 0.898], atol=0.02)


def test_times_of_rectified_meanflow():
    method = methods.make("rectified_meanflow")
    x = jnp.zeros((N, 1))
    drawn = jax.jit(method.draw)(jax.random.key(2), {"x": x, "eps": x}, 0)
    for point in drawn.values():
        s = np.asarray(point.s, np.float64)[:, 0]
        assert s.max() <= 80 / 81 + 1e-6
        assert fits(s[s < 80 / 81 - 1e-6], lambda t: u_shaped(t) / u_shaped(80 / 81))
        assert abs((s > 80 / 81 - 1e-6).mean() - (1 - u_shaped(80 / 81))) < 0.02
    s, t = (np.asarray(time, np.float64)[:, 0] for time in (drawn["eulerian"].s, drawn["eulerian"].t))
    gap, late = logit_normal(-0.8, 1.0), s > 0.8
    assert not ((t > 0) & (t < 0.4) & late).any() and ((t > 0) & (t < 0.4) & ~late).any()
    for rows, low in ((~late, 0.0), (late, 0.4)):
        expected = np.mean(1 - gap(s[rows] - low))
        assert abs((t[rows] == 0).mean() - expected) < 4 * np.sqrt(expected / rows.sum())
    moved = t > 0
    assert fits(gap((s - t)[moved]) / gap(np.where(late, s - 0.4, s))[moved], stats.uniform.cdf)


def test_times_of_meanflow_on_cifar10():
    """The second version of the authors' code: the target is cut at the source, and a diagonal row keeps its source."""
    cut = ("two_sided", ("logit_normal", -0.6, 1.6), ("logit_normal", -4.0, 1.6), 0.0)
    drawn = methods.make("meanflow", times=cut, diagonal="1/4").draw(jax.random.key(2), {"x": jnp.zeros((N, 1))}, 0)
    source, target = logit_normal(-0.6, 1.6), logit_normal(-4.0, 1.6)
    for point in drawn.values():
        assert fits(np.asarray(point.s, np.float64)[:, 0], source)
    t = np.asarray(drawn["eulerian"].t, np.float64)[:, 0]
    assert fits(t, lambda t: 1 - (1 - source(t)) * (1 - target(t)))


@pytest.mark.parametrize(("name", "mean", "std"), [("alphaflow", -0.4, 1.0), ("pmf", 0.8, 0.8)])
def test_one_time_is_drawn_on_the_diagonal(name, mean, std):
    drawn = methods.make(name, total_steps=10).draw(jax.random.key(2), {"x": jnp.zeros((N, 1))}, 0)
    s, t = (np.asarray(time, np.float64)[:, 0] for time in (drawn["eulerian"].s, drawn["eulerian"].t))
    law = logit_normal(mean, std)
    assert fits(np.asarray(drawn["anchor"].s, np.float64)[:, 0], law)
    assert fits(s, lambda t: law(t) ** 2) and fits(t, lambda t: 1 - (1 - law(t)) ** 2)


def test_a_share_of_pixel_meanflows_rows_has_uniform_times():
    drawn = methods.make("pmf", uniform_share=0.3).draw(jax.random.key(2), {"x": jnp.zeros((N, 1))}, 0)
    law = logit_normal(0.8, 0.8)
    assert fits(np.asarray(drawn["anchor"].s, np.float64)[:, 0], lambda t: 0.3 * t + 0.7 * law(t))
    s, t = (np.asarray(time, np.float64)[:, 0] for time in (drawn["eulerian"].s, drawn["eulerian"].t))
    assert fits(s, lambda t: 0.3 * t**2 + 0.7 * law(t) ** 2)  # a row's two times are of one kind
    assert fits(t, lambda t: 0.3 * (1 - (1 - t) ** 2) + 0.7 * (1 - (1 - law(t)) ** 2)) and (t <= s).all()


def test_the_least_step_of_soflow():
    """train.py of the authors: the middle time is at least 1e-4 below the source."""
    draw = draws.pair_times(("two_sided", ("logit_normal", 0.2, 0.8), ("logit_normal", -1.0, 0.8)), lambda step: 0.002, 1e-4)
    s, t, a = (np.asarray(draw(jax.random.key(1), N, 0)[name], np.float64) for name in "sta")
    middle = np.minimum(s + (t - s) * 0.002, s - 1e-4)
    np.testing.assert_allclose(s + a * (t - s), middle, atol=2e-7)
    assert abs((s - t < 1.01e-4).mean() - 0.145) < 0.01 and a.max() <= 1


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
def test_scales_have_the_density_of_a_power(power):
    u = np.linspace(0, 1, 9)
    scales = guidance.quantile("imf", u, 1.0, 8.0, power)
    mass = (lambda w: np.log(w)) if power == 1 else (lambda w: (w ** (1 - power) - 1) / (1 - power))
    np.testing.assert_allclose(mass(scales) / mass(8.0), u, atol=1e-6)
    # The form of the authors' code.
    log_base = (1 - power) * np.log1p(7.0)
    coded = np.exp(u * np.log1p(7.0)) if power == 1 else np.exp(np.log1p(u * np.expm1(log_base)) / (1 - power))
    np.testing.assert_allclose(scales, coded, rtol=1e-6)


def test_conditions_of_improved_meanflow():
    """imf.py of the authors: the whole interval on the diagonal and nowhere else, and a dropped label changes neither input."""
    method = methods.guided("imf", methods.make("imf", label_drop=0.5), "imf", scale=(1.0, 8.0), power=2.0)
    drawn = method.draw(jax.random.key(1), {"x": jnp.zeros((N, 1)), "label": jnp.ones(N, int)}, 0)
    for name, point in drawn.items():
        w, interval, kept = (np.asarray(point.cond[field], np.float64) for field in ("guidance", "interval", "label"))
        for rows in (kept >= 0, kept < 0):
            assert fits(1 / w[rows], stats.uniform(1 / 8, 7 / 8).cdf)
            if name == "anchor":
                assert (interval == [0, 1]).all()
            else:
                assert fits(2 * interval[rows, 0], stats.uniform.cdf) and fits(2 * interval[rows, 1] - 1, stats.uniform.cdf)
