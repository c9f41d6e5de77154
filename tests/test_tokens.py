"""Data, network, measures, recipes and configs of tokens."""

import functools
import sys
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import tokens as token_configs
from flowjax import data, distances, evals, exact, flowmap, guidance, methods, models, paths, plots, times, typing
from flowjax.data import tokens
from flowjax.losses import discrete
from flowjax.methods import pairs
from flowjax.models import sequence_dit
from flowjax.training import runs

ONE = jax.devices()[:1]
WORDS = ["a", "cat", "dictionary", "toolongaword", "dog", "it's", "zebra", *(chr(97 + i) * 4 for i in range(26))]


@pytest.fixture
def english(monkeypatch):
    """A stand-in for the package english-words."""
    package = types.ModuleType("english_words")
    package.get_english_words_set = lambda sources, alpha, lower: set(WORDS)
    monkeypatch.setitem(sys.modules, "english_words", package)
    tokens._listed.cache_clear()
    yield
    tokens._listed.cache_clear()


# Data


@pytest.mark.slow
def test_digits_are_those_of_the_pictures():
    train, test = (data.load("digits_tokens", split=split) for split in ("train", "test"))
    assert (train.size, test.size, train.shape, train.num_classes) == (1_500, 297, (64, 17), 10)
    rows = data.arrays(train, limit=50)
    assert rows["x"].dtype == np.float32 and (rows["x"].sum(-1) == 1).all() and set(np.unique(rows["x"])) == {0.0, 1.0}
    pictures = {tuple(row) for row in data.arrays(data.load("digits"))["x"].reshape(1_500, -1).round(2).tolist()}
    made = tokens.digit_images(rows["x"])
    # The pictures were rounded to 256 levels.
    assert made.shape == (50, 8, 8, 1)
    assert {tuple(row) for row in (np.rint((made + 1) * 127.5) / 127.5 - 1).reshape(50, -1).round(2).tolist()} <= pictures
    assert data.load("digits_tokens", split="train+test").size == 1_797
    with pytest.raises(typing.InputError, match="digits_tokens has no split 'valid'; its splits are train, test"):
        data.load("digits_tokens", split="valid")


@pytest.mark.usefixtures("english")
def test_words_are_letters_and_their_split_is_a_rule():
    train, test = (data.load("words", split=split) for split in ("train", "test"))
    rows, held_out = (tokens.text(data.arrays(source)["x"]) for source in (train, test))
    assert train.shape == (10, 27)
    assert sorted(rows + held_out) == sorted(word for word in WORDS if word.isalpha() and len(word) <= 10)
    assert all(zlib.crc32(word.encode()) % 10 == 0 for word in held_out)
    assert not any(zlib.crc32(word.encode()) % 10 == 0 for word in rows)
    np.testing.assert_array_equal(tokens.spelled(["abz"]), [[1, 2, 26, *[0] * 7]])


def test_words_without_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "english_words", None)
    tokens._listed.cache_clear()
    with pytest.raises(typing.InputError, match="needs the package english-words, .* pip install english-words"):
        data.load("words")


def test_arrays_of_a_file(tmp_path):
    rng = np.random.default_rng(0)
    one, two = tmp_path / "one.npz", tmp_path / "two.npz"
    sequences, label = rng.integers(0, 5, (30, 4), np.uint8), rng.integers(0, 3, 30)
    np.savez(one, tokens=sequences, label=label)
    np.savez(two, train=sequences[:20], test=sequences[20:])
    held_out = data.load("tokens", split="test", data_dir=str(one))
    np.testing.assert_array_equal(data.arrays(held_out)["x"].argmax(-1), sequences[9::10])
    np.testing.assert_array_equal(data.arrays(held_out)["label"], label[9::10])
    assert held_out.shape == (4, 5) and held_out.num_classes == 3
    train = data.load("tokens", data_dir=str(two))
    np.testing.assert_array_equal(data.arrays(train)["x"].argmax(-1), sequences[:20])
    assert train.num_classes == 0
    for wrong, why in (
        ({"tokens": sequences.astype(float)}, "type float64"),
        ({"tokens": -sequences.astype(int)}, "numbers below 0"),
        ({"train": sequences}, "no array 'test'"),
        ({"tokens": sequences, "label": label[:3]}, "labels of 'tokens' have shape"),
        ({"train": sequences, "test": sequences[:, :2]}, "different lengths"),
    ):
        np.savez(one.with_name(f"{why[:9]}.npz"), **wrong)
        with pytest.raises(typing.InputError, match=rf"damaged or something else \(.*{why}"):
            data.load("tokens", data_dir=str(one.with_name(f"{why[:9]}.npz")))
    with pytest.raises(typing.InputError, match="config.data.dir is empty"):
        data.load("tokens")
    with pytest.raises(typing.InputError, match="does not exist"):
        data.load("tokens", data_dir=str(tmp_path / "none.npz"))


def test_decisions_of_what_is_not_finite():
    x = np.eye(3)[[[0, 2, 1]]]
    x[0, 1, 0] = np.nan
    np.testing.assert_array_equal(tokens.decided(x), [[0, -1, 1]])
    assert np.isnan(tokens.lines(x)).sum() == 1
    assert tokens.text(np.full((1, 10, 27), np.nan)) == ["?" * 10]


# Noise and times


def test_noise_about_random_categories():
    path = paths.path_from_name("one_hot:noise=0.1")
    eps = path.draw(jax.random.key(0), (2_000, 3, 4))
    centres = eps.argmax(-1)
    assert np.abs(np.bincount(centres.reshape(-1), minlength=4) / 6_000 - 0.25).max() < 0.03
    off = eps - jax.nn.one_hot(centres, 4)
    assert abs(float(off.std()) - 0.1) < 0.005 and abs(float(off.mean())) < 0.005


def test_times_at_which_the_share_of_tokens_that_can_be_read_off_falls_evenly():
    warp, rng = times.decoding_warp(5), np.random.default_rng(0)
    np.testing.assert_allclose(warp(jnp.array([0.0, 1.0])), [0, 1], atol=1e-6)
    x0, eps = np.eye(5)[0], rng.normal(size=(40_000, 5))
    for u in (0.2, 0.5, 0.9):
        t = float(warp(u))
        right = (((1 - t) * x0 + t * eps).argmax(1) == 0).mean()
        assert (1 - right) / (1 - 1 / 5) == pytest.approx(u, abs=0.015)
    one, plain = (times.sampler_from_name(spec, draws=1) for spec in (("even_decoding", 5), ("uniform",)))
    np.testing.assert_allclose(one(jax.random.key(0), 8), warp(plain(jax.random.key(0), 8)), rtol=1e-6)
    drawn = methods.make("flm", warp=5, boundary=0.5).terms[0].times(jax.random.key(0), 64, 0)
    s, t, a = (np.asarray(drawn[name], np.float64) for name in "sta")
    share = lambda time: np.interp(time, *times._undecoded(5))
    np.testing.assert_allclose(share(s + a * (t - s)), (share(s) + share(t)) / 2, atol=1e-4)  # halfway in warped time
    whole = (s == 1) & (t == 0)
    assert 10 < whole.sum() < 54 and (t[~whole] < s[~whole]).all()


def test_targets_first():
    s, t = times.sampler_from_name(("target_first", ("uniform",)), draws=2)(jax.random.key(0), 4_000)
    assert (t <= s).all() and (s <= 1).all()
    assert abs(float(t.mean()) - 0.5) < 0.02 and abs(float(((s - t) / (1 - t)).mean()) - 0.5) < 0.02


# Measures


def test_measures_of_tokens():
    rng = np.random.default_rng(0)
    samples, reference = rng.integers(0, 3, (40, 6)), rng.integers(0, 3, (30, 6))
    for n in (1, 2, 3):
        grams = [[tuple(row[i : i + n]) for row in rows.tolist() for i in range(7 - n)] for rows in (samples, reference)]
        share = lambda gram, rows: rows.count(gram) / len(rows)
        expected = sum(abs(share(g, grams[0]) - share(g, grams[1])) for g in {*grams[0], *grams[1]}) / 2
        assert evals.ngram_distance(samples, reference, n=n) == pytest.approx(expected)
    wide = np.array([[0, 2**21 - 2, 5, 5]]), np.array([[2**21 - 2, 5, 5, 0]])  # too many for one number
    assert evals.ngram_distance(*wide, n=3) == pytest.approx(0.5)
    made = np.concatenate([reference[:3], reference[:1], samples[:1] * 0 - 1])
    assert evals.existing(made, reference[:1], reference[1:]) == pytest.approx(4 / 5)
    assert evals.unseen(made, reference[:1], reference[1:]) == pytest.approx(2 / 5)
    assert evals.distinct(made) == pytest.approx(4 / 5)
    assert evals.certainty(np.array([[[0.5, 0.5], [1.0, 0.0]]])) == 0.75
    with pytest.raises(typing.InputError, match="ngram_distance: .* n = 7"):
        evals.ngram_distance(samples, reference, n=7)


def test_a_judge_of_tokens():
    x = tokens.one_hot(np.random.default_rng(0).integers(0, 3, (24, 4)), 3)
    judge = evals.Judge(x[:12], training=x[12:], held_out=x[:12])
    names = judge.names()
    assert names == ("unigrams", "bigrams", "trigrams", "existing", "unseen", "distinct", "certainty")
    assert judge.names(during_training=True) == ("unigrams", "bigrams", "trigrams", "distinct", "certainty")
    values = judge(x[:12], None, names, resamples=4)
    assert [values[name][0] for name in ("unigrams", "trigrams", "existing", "certainty")] == [0, 0, 1, 1]
    assert all(np.isfinite(error) for _, error in values.values())
    assert set(evals.Judge(x).names()) == {"unigrams", "bigrams", "trigrams", "distinct", "certainty"}


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_bound_of_the_exact_denoiser_is_the_entropy():
    p = np.array([0.2, 0.5, 0.3])
    flow = exact.categorical(p, steps=1)
    x0 = jnp.asarray(np.random.default_rng(0).permutation(np.repeat(np.eye(3), (400, 1_000, 600), axis=0))[:, None])
    V = lambda x, s, t: flow.v(x, s)
    rows = jax.jit(functools.partial(evals.likelihood_bound, V, levels=16))(x0, jax.random.key(0))
    assert float(rows.mean()) == pytest.approx(-(p * np.log(p)).sum(), abs=4 * float(rows.std()) / len(rows) ** 0.5)
    with pytest.raises(typing.InputError, match="levels is 0"):
        evals.likelihood_bound(V, x0, jax.random.key(0), levels=0)


def test_a_picture_of_words(tmp_path):
    picture = plots.word_grid(tmp_path / "words.png", {"data": ["cat", "dog"], "1 step": ["cot"]}, "Words", marked=["cat"])
    assert (tmp_path / "words.png").exists() and {text.get_text() for text in picture.axes[0].texts} >= {"cat", "cot", "Words"}
    with pytest.raises(typing.InputError, match="has no words"):
        plots.word_grid(None, {"data": []})


# Network and recipes


def network(**fields):
    return models.make("sequence_dit", width=16, depth=1, heads=2, parameterisation="categorical", **fields)


def test_rows_that_the_network_does_not_take():
    for fields, wrong, message in (
        ({"columns": 2}, jnp.ones((2, 3, 5)), "a multiple of 2 columns"),
        ({"columns": 2}, jnp.ones((2, 4)), "expected \\[B, L, K\\]"),
        ({"columns": 2, "patch": 2}, jnp.ones((2, 6, 5)), "2 columns, in patches of 2"),
        ({"patch": 2}, jnp.ones((2, 3, 5)), "3 columns, in patches of 2"),
    ):
        with pytest.raises(typing.InputError, match=message):
            jax.eval_shape(lambda fields=fields, wrong=wrong: network(**fields).init(jax.random.key(0), wrong, 0.8, 0.2))


@pytest.mark.parametrize(("columns", "patch"), [(4, 2), (0, 4)])
def test_tokens_of_a_position_are_neighbours(columns, patch):
    x = jnp.arange(16 * 3).reshape(1, 16, 3)
    net = models.make("sequence_dit", columns=columns, patch=patch)
    gathered = net._gathered(x)
    first = [0, 1, 4, 5] if columns else [0, 1, 2, 3]
    np.testing.assert_array_equal(gathered[0, 0], x[0, first].reshape(-1))
    np.testing.assert_array_equal(net._spread(gathered, x), x)


def test_the_evidence_of_a_token_is_its_posterior():
    """Of even categories and normal noise, but for the small number that keeps it finite."""
    x, s = jax.random.normal(jax.random.key(0), (2, 3, 4)), 0.6
    squares = ((x[..., None, :] - (1 - s) * jnp.eye(4)[None, None]) ** 2).sum(-1)
    expected = jax.nn.softmax(-squares / (2 * s**2) * s**2 / (s**2 + 0.01))
    np.testing.assert_allclose(jax.nn.softmax(sequence_dit.evidence(x, s)), expected, rtol=1e-5)
    assert np.isfinite(jax.jvp(lambda s: sequence_dit.evidence(x, s), (0.0,), (1.0,))[1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"evidence": False}, {"patch": 2}])
def test_the_network_starts_with_what_it_knows_and_knows_places(fields):
    net, x = network(num_classes=3, columns=2, **fields), jax.random.normal(jax.random.key(0), (2, 4, 5))
    labels = jnp.array([0, 1])

    @jax.jit
    def run(x):
        params = net.init(jax.random.key(1), x, 0.8, 0.2, {"label": labels})["params"]
        leaves, tree = jax.tree.flatten(params)
        moved = tree.unflatten([leaf + 0.1 * jnp.cos(jnp.arange(leaf.size) ** 1.5).reshape(leaf.shape) for leaf in leaves])
        logits = lambda x, label: net.apply({"params": moved}, x, 0.8, 0.2, {"label": label}, method="raw")
        return net.apply({"params": params}, x, 0.8, 0.2), logits(x, labels), logits(x[:, ::-1], labels), logits(x, labels - 1)

    first, one, turned, other = run(x)
    known = sequence_dit.evidence(x, 0.8) if net.net.evidence else 0 * x
    np.testing.assert_allclose(first, (x - jax.nn.softmax(known)) / 0.8, atol=1e-6)
    assert one.shape == x.shape
    assert jnp.abs(one[:, ::-1] - turned).max() > 1e-3  # places differ
    assert jnp.abs(one - other).max() > 1e-3


def test_jumps_lie_between_their_start_and_the_simplex_whatever_the_weights():
    rng = np.random.default_rng(0)
    x, s = jnp.asarray(3 * rng.normal(size=(64, 4, 5)), jnp.float32), jnp.asarray(rng.uniform(0.01, 1, (64, 1, 1)), jnp.float32)
    V = flowmap.categorical(lambda x, s, t: 20 * jnp.sin(3 * x + s))
    D, landed = x - s * V(x, s, 0 * s), flowmap.jump(V, x, s, 0 * s)
    for point in (D, landed):
        assert point.min() > -1e-5
        np.testing.assert_allclose(point.sum(-1), 1, atol=1e-5)
    half = flowmap.jump(V, x, s, s / 2)
    np.testing.assert_allclose(half, (x + x - s * V(x, s, s / 2)) / 2, atol=1e-5)


def nets(params):
    logits = lambda x, s, t, cond=None: jnp.sin(params * x + 2 * s - t * jnp.roll(x, 1, -1))
    V = lambda x, s, t, cond=None: (x - jax.nn.softmax(logits(x, s, t))) / s
    other = lambda x, s, t, cond=None: jnp.cos(params * x + s * t)
    stopped = jax.lax.stop_gradient
    frozen = {
        "V": lambda *i: stopped(V(*i)),
        "residual": lambda *i: stopped(other(*i)),
        "log_variance": lambda s, t: 0 * s.reshape(-1),
    }
    return typing.Nets(
        V, logits=logits, teacher=lambda x, t, cond=None: 0.5 * x * t, residual=other, stopped=frozen,
        log_variance=lambda s, t: (params * s - t).reshape(-1),
    )  # fmt: skip


# With constants other than the default.
CONSTANTS = {
    "ecld": {"classification": 3.0, "energy": 2.0, "label_smoothing": 0.1, "learned_weight": True},
    "dfm_esd": {"p": 0.5, "c": 0.1},
    "flm": {"warp": 3},
    "categorical": {"times": ("even_decoding", 3)},
    "csd": {"rule_weight": 3.0},
    "dfm_psd": {},
}
OWN = ("ecld", "dfm_esd", "flm")  # whose errors have code of their own


@pytest.mark.parametrize("names", [OWN, pytest.param(("categorical", "csd", "dfm_psd"), marks=pytest.mark.slow)])
def test_recipes_score_their_pairs(names):
    """Errors of each term, read a second time, in one program."""
    batch = {"x": jax.nn.one_hot(jnp.arange(32).reshape(8, 4) % 3, 3), "label": jnp.arange(8)}
    made = {name: methods.make(name, **CONSTANTS[name]) for name in names}

    def read(name, term, net, p):
        call = lambda loss, **more: pairs.call(loss, net, p, **more)
        squares = lambda pair: jnp.sum((pair[0] - pair[1]) ** 2, (1, 2))
        if term == "anchor" and name == "ecld":
            lv, smooth = net.log_variance(p.s, p.s), 0.9 * p.x0 + 0.1 / 3
            kl = smooth * (jnp.log(smooth) - jax.nn.log_softmax(net.logits(p.x, p.s, p.s)))
            return jnp.exp(-lv) * kl.sum((1, 2)) + lv
        if term == "anchor":
            return distances.kl(*call(discrete.cross_entropy))
        if name == "ecld":
            first, second = call(discrete.ecld)
            return 3 * distances.kl(*first) + 2 * squares(second)
        if term == "compositional" and name == "flm":
            lv = net.log_variance(p.s, p.t)
            return jnp.exp(-lv) * 3 * squares(call(discrete.flm_semigroup)) / 12 + lv
        if term == "map":
            V_map = lambda x, s, t: net.teacher(x, s) + (t - s) / 2 * net.residual(x, s, t)
            return squares(call(discrete.flm_softmax, V_map=V_map))
        pair = call(getattr(discrete, name))
        if name == "dfm_esd":
            return distances.kl(*pair) / (squares((jax.nn.softmax(pair[0]), pair[1])) + 0.1) ** 0.5
        return 3 * squares(pair) if name == "csd" else distances.kl(*pair)

    @jax.jit
    def run(key, params):
        results = {}
        for name, method in made.items():
            drawn = method.draw(key, batch, 0)
            for term in method.terms:
                alone = {term.name: drawn[term.name]}
                errors, metrics = method.loss(nets(params), alone)
                lo, hi, n = term.columns
                expected = read(name, term.name, nets(params), drawn[term.name])
                results[name, term.name] = (errors.reshape(-1, n)[:, lo:hi].reshape(-1), expected, metrics, drawn[term.name])
        return results

    for (name, term), (errors, expected, metrics, point) in run(jax.random.key(0), 1.3).items():
        np.testing.assert_allclose(errors, expected, rtol=1e-4, atol=1e-5, err_msg=f"{name} {term}")
        assert all(np.isfinite(value) for value in metrics.values())
        assert point.t is None or (point.t <= point.s).all()
        assert tuple(made[name].needs) == methods.CATEGORICAL[name].needs + (("log_variance",) if name == "ecld" else ())


def test_every_method_for_categories():
    assert set(methods.CATEGORICAL) == {"categorical", "csd", "ecld", "dfm_esd", "dfm_psd", "flm"}
    for name, info in methods.CATEGORICAL.items():
        assert len(methods.outline(name).terms) == (1 if name == "categorical" else 2)
        assert info.parameterisation == "categorical" and {pair.__module__ for pair in info.pairs} == {discrete.__name__}


def test_constants_that_cannot_work():
    for name, constants, message in (
        ("csd", {"path": "trigonometric"}, "path is 'trigonometric', .* expected 'linear', or 'one_hot'"),
        ("csd", {"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ("flm", {"boundary": 2.0}, "boundary is 2.0"),
        ("flm", {"warp": 1}, "warp is 1; expected the number of categories"),
        ("ecld", {"enrgy": 1.0}, "unknown constant of method 'ecld' 'enrgy'.*energy"),
    ):
        with pytest.raises(typing.InputError, match=message):
            methods.make(name, **constants)
    with pytest.raises(
        typing.InputError, match="categories from the data itself; expected --config.guidance.kind=guidance_free"
    ):
        methods.guided("csd", methods.make("csd"), "meanflow", scale=(2.0, 2.0))
    with pytest.raises(typing.InputError, match="'csd' is Categorical Flow Maps, a published method"):
        methods.register("csd", lambda: None)


def test_guidance_inside_the_target_is_scored_by_mixed_logits():
    """The anchor's logits are mixed with those of no label, and the rule is that of the network at the scale of the row."""
    drop, seen = 0.5, []
    method = methods.guided("csd", methods.make("csd", label_drop=drop), "guidance_free", scale=(1.0, 3.0))
    batch = {"x": jax.nn.one_hot(jnp.arange(64).reshape(16, 4) % 3, 3), "label": jnp.arange(16) % 5}
    column = lambda values: values.reshape(-1, 1, 1)

    def logits(x, s, t, cond):
        seen.append(set(cond))
        return jnp.sin(x + t) * (1 + column(cond["label"])) + column(cond["guidance"]) * jnp.cos(2 * x)

    V = lambda x, s, t, cond: (x - jax.nn.softmax(logits(x, s, t, cond))) / s

    @jax.jit
    def run(key):
        drawn = method.draw(key, batch, 0)
        return drawn, method.loss(typing.Nets(V, logits=logits), drawn)

    drawn, (errors, _) = run(jax.random.key(0))
    p, w = drawn["anchor"], column(drawn["anchor"].cond["guidance"])
    dropped = np.asarray(p.cond["label"]) < 0
    assert 0 < dropped.sum() < 12 and (np.asarray(w).ravel()[dropped] == 1).all() and w.min() >= 1 and w.max() > 1.5
    nothing = {"label": jnp.full(12, -1), "guidance": jnp.ones(12)}
    mixed = logits(p.x, p.s, p.s, p.cond) / w + (1 - 1 / w) * logits(p.x, p.s, p.s, nothing)
    np.testing.assert_allclose(errors.reshape(4, 4)[:, :3].reshape(-1), distances.kl(mixed, p.x0), rtol=1e-5)
    rule = pairs.call(discrete.csd, typing.Nets(V, logits=logits), drawn["lagrangian"])
    expected = jnp.sum((rule.prediction - rule.target) ** 2, (1, 2))
    np.testing.assert_allclose(errors.reshape(4, 4)[:, 3], expected, rtol=1e-4)
    assert all(names == {"label", "guidance"} for names in seen)


def test_guided_logits_are_the_best_of_guidance_free_training():
    """At null + w (c - null) the mixture is c, the logits of the posterior."""
    x, w = jax.random.normal(jax.random.key(0), (4, 2, 3)), jnp.array([1.0, 1.5, 2.0, 4.0])
    of_class, of_none = jnp.sin(3 * x), jnp.cos(x)
    point = typing.Point(x=x, s=jnp.full((4, 1, 1), 0.5), cond={"label": jnp.arange(4), "guidance": w})
    net = lambda x, s, t, cond: jnp.where(cond["label"].reshape(-1, 1, 1) < 0, of_none, of_class)
    best = of_none + w.reshape(-1, 1, 1) * (of_class - of_none)
    scored = guidance.guidance_free_logits(typing.Nets(V=None, logits=net), point, best)
    np.testing.assert_allclose(scored, of_class, rtol=1e-5, atol=1e-6)


# Configs


@pytest.mark.parametrize(
    "name", [n if n == "categorical" else pytest.param(n, marks=pytest.mark.slow) for n in methods.CATEGORICAL]
)
def test_configs_make_a_training_step(name):
    config = token_configs.get_config(f"{name},test")
    config.teacher = "runs/teacher" if name == "flm" else ""
    run = runs.sketch(config)
    assert config.method.get("warp", 17) == 17 and config.grid == ("decoding:categories=17" if name == "flm" else "uniform")
    assert run.source.shape == (64, 17) and run.settings.evaluation.sampler == methods.info(name).sampler
    jax.eval_shape(functools.partial(run.step, phase=run.cycle.at(0)), run.like, run.batch_like, run.fixed)


def test_configs_that_do_not_fit():
    config = token_configs.get_config("csd,test")
    for field, value, message in (
        ("guidance", {"kind": "meanflow", "scale": (2.0, 2.0)}, "expected --config.guidance.kind=guidance_free"),
        ("model", {"parameterisation": "velocity"}, "'csd' learns logits"),
        ("data", {"name": "checkerboard"}, "config.model.name is 'sequence_dit', and rows of checkerboard"),
    ):
        changed = config.copy_and_resolve_references()
        changed[field].update(value)
        with pytest.raises(typing.InputError, match=message):
            runs.sketch(changed)
    for choice, message in (("csd", "names no preset"), ("meanflow,words", "unknown method"), ("csd,points", "unknown preset")):
        with pytest.raises(typing.InputError, match=message):
            token_configs.get_config(choice)


@pytest.mark.slow
def test_a_run_trains_and_samples_tokens_from_noise_about_random_categories(tmp_path):
    from flowjax import training

    config = token_configs.get_config("dfm_psd,test")
    config.method.path = "one_hot:noise=0.5"
    np.savez(tmp_path / "rows.npz", tokens=np.random.default_rng(0).integers(0, 5, (200, 6)))
    config.update({"steps": 4, "eval_every": 4, "eval_steps": (2,), "log_every": 4})
    config.data.update({"name": "tokens", "dir": str(tmp_path / "rows.npz")})
    config.model.update({"columns": 3, "patch": 1})
    training.train(config, tmp_path / "run", devices=ONE)
    trained = training.load(tmp_path / "run")
    x = trained.sample(12, 2)
    assert x.shape == (12, 6, 5) and (x > -1e-5).all()
    np.testing.assert_allclose(x.sum(-1), 1, atol=1e-4)  # the last jump ends on the simplex
    assert list((tmp_path / "run" / "samples").glob("*.png"))
