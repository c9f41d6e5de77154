"""Moments that are merged, references that are read, and scores that are not mixed."""

import functools
import itertools
import pickle

import jax
import numpy as np
import pytest

from flowjax import evals, foreign, typing
from flowjax.evals import moments, protocols

P = jax.sharding.PartitionSpec
X = np.random.default_rng(0).standard_normal((60, 5)) @ np.diag([1, 2, 3, 0.1, 0]) + 50.0


def close(found, x, tolerance=1e-10):
    assert found.count == len(x)
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found.gaussian().covariance, np.cov(x.T), rtol=tolerance, atol=tolerance)


def test_parts_merged_in_any_order_have_the_moments_of_all():
    parts = [moments.of(part) for part in np.split(X, [1, 20, 27])]
    for order in itertools.permutations(parts):
        close(moments.merged(order), X)
    close(
        moments.merged([moments.merged(parts[:2]), moments.Moments(0, 0 * parts[0].mean, 0 * parts[0].second), *parts[2:]]), X
    )
    with pytest.raises(typing.InputError, match="one width"):
        moments.merged([parts[0], moments.of(X[:, :2])])
    with pytest.raises(typing.InputError, match="at least 2 samples"):
        parts[0].gaussian()


def test_sums_over_a_mesh_are_those_of_one_device(x64):
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("data",))
    added = functools.partial(moments.sums, axis="data")
    on_mesh = jax.jit(jax.shard_map(added, mesh=mesh, in_specs=(P("data"), P(), P("data")), out_specs=P()))
    shift, rows, parts = X[:10].mean(0), np.concatenate([X, np.full((4, 5), 1e6)]), []
    for start in (0, 32):  # the last four rows fill up the second batch
        real = np.arange(start, start + 32) < len(X)
        parts.append(moments.of_sums(on_mesh(rows[start : start + 32], shift, real), shift))
    close(moments.merged(parts), X)
    alone = moments.of_sums(moments.sums(rows, shift, np.arange(64) < 60), shift)
    close(alone, X)
    fid = [
        moments.frechet_distance(one.gaussian(), moments.of(X[::2] + 1).gaussian()) for one in (moments.merged(parts), alone)
    ]
    assert fid[0] == pytest.approx(fid[1], rel=1e-10) and fid[0] == pytest.approx(evals.frechet(X, X[::2] + 1), rel=1e-9)


def test_sums_in_single_precision():
    x = X.astype(np.float32)
    found = moments.of_sums(moments.sums(x, x[:10].mean(0), np.ones(60, bool)), x[:10].mean(0))
    close(found, x.astype(np.float64), 1e-5)


def test_a_frechet_distance_from_moments_is_that_of_the_features():
    y = X[::3] * 1.1
    a, b = moments.of(X).gaussian(), moments.of(y).gaussian()
    assert moments.frechet_distance(a, b) == pytest.approx(evals.frechet(X, y), rel=1e-12)
    assert moments.frechet_distance(a, b, moments.root(b.covariance)) == moments.frechet_distance(a, b)
    assert np.isnan(moments.frechet_distance(a, moments.Gaussian(b.mean * np.nan, b.covariance)))
    with pytest.raises(typing.InputError, match="5 and 2: the networks differ"):
        moments.frechet_distance(a, moments.of(X[:, :2]).gaussian())


def test_inception_score_against_its_definition():
    logits = np.random.default_rng(1).standard_normal((23, 4)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    by_hand = lambda p: np.exp(np.mean([sum(q * np.log(q / p.mean(0))) for q in p]))
    mean, deviation = evals.inception_score(logits, splits=3)
    parts = [by_hand(part) for part in (p[:7], p[7:15], p[15:])]
    assert (mean, deviation) == (pytest.approx(np.mean(parts)), pytest.approx(np.std(parts)))
    assert evals.inception_score(logits, splits=1, seed=2020)[0] == pytest.approx(by_hand(p))
    order = np.random.RandomState(2020).permutation(23)  # noqa: NPY002
    assert evals.inception_score(logits, 3, seed=2020) == pytest.approx(evals.inception_score(logits[order], 3))
    assert evals.inception_score(1e4 * np.eye(4), splits=1)[0] == pytest.approx(4)  # certain and of all classes
    assert evals.inception_score(np.zeros((8, 4)), splits=2) == (pytest.approx(1), pytest.approx(0))
    assert np.isnan(evals.inception_score(logits * np.nan)[0])
    with pytest.raises(typing.InputError, match="got logits of shape"):
        evals.inception_score(logits[:2])


@pytest.fixture
def narrow(monkeypatch):
    """Protocols whose features have 5 numbers."""
    for name, protocol in protocols.PROTOCOLS.items():
        monkeypatch.setitem(protocols.PROTOCOLS, name, protocol._replace(width=5))


def test_published_references_are_read_by_their_own_protocol(narrow, tmp_path):
    mu, sigma = moments.of(X).gaussian()
    np.savez(tmp_path / "adm.npz", mu=mu, sigma=sigma, mu_s=mu, arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    np.savez(tmp_path / "he.npz", ref_mu=mu, ref_sigma=sigma)
    both = {"num_images": 60, "fid": {"mu": mu, "sigma": sigma}, "fd_dinov2": {"mu": mu + 1, "sigma": sigma}}
    (tmp_path / "edm2.pkl").write_bytes(pickle.dumps(both))
    protocols.write_reference(tmp_path / "own.safetensors", protocols.reference("own", "he", moments.of(X)))
    fits = {
        "adm.npz": ["adm", "pytorch_fid"],
        "he.npz": ["he"],
        "edm2.pkl": ["adm", "edm2_dino"],
        "own.safetensors": ["he"],
    }
    for name, protocol in itertools.product(fits, protocols.PROTOCOLS):
        if protocol in fits[name]:
            found = protocols.read(tmp_path / name, protocol)
            assert (found.name, found.protocol) == (name, protocol)
            np.testing.assert_array_equal(found.features.mean, mu + (protocol == "edm2_dino"))
            assert found.count == {"edm2.pkl": 60, "own.safetensors": 60}.get(name, 0)
        else:
            with pytest.raises(typing.InputError, match=f"of the protocol .*, and not of {protocol}; expected"):
                protocols.read(tmp_path / name, protocol)


def test_references_that_lie(narrow, tmp_path):
    mu, sigma = moments.of(X).gaussian()
    wrong = {
        "narrow": {"mu": mu[:4], "sigma": sigma}, "half": {"mu": mu}, "nan": {"mu": mu * np.nan, "sigma": sigma},
        "negative": {"mu": mu, "sigma": -sigma}, "askew": {"mu": mu, "sigma": np.triu(np.ones((5, 5)))},
        "others": {"a": mu},
    }  # fmt: skip
    for name, arrays in wrong.items():
        foreign.write(tmp_path / name, {key: np.ascontiguousarray(array) for key, array in arrays.items()})
        with pytest.raises(typing.InputError) as caught:
            protocols.read(tmp_path / name, "adm")
        assert "\n" not in str(caught.value) and name in str(caught.value)


def test_scores_name_what_they_depend_on_and_are_not_mixed(narrow):
    reference = protocols.reference("train set", "adm", moments.of(X[::2] + 1))
    score = protocols.frechet_score(moments.of(X), "adm", reference)
    assert score.value == pytest.approx(evals.frechet(X, X[::2] + 1)) and score.count == 60
    assert str(score).startswith("FID ") and score.protocol_hash in str(score) and reference.fingerprint in str(score)
    with pytest.raises(typing.InputError, match="of the protocol he, those of train set of adm"):
        protocols.frechet_score(moments.of(X), "he", reference)
    with pytest.raises(typing.InputError, match="protocol"):
        protocols.frechet_score(moments.of(X), "fid", reference)
    protocols.check_comparable([score, score._replace(value=3.0)])
    other = protocols.reference("train set", "adm", moments.of(X[::2] + 2))
    for second in (
        protocols.frechet_score(moments.of(X), "adm", other),
        score._replace(count=50),
        protocols.frechet_score(moments.of(X), "he", protocols.reference("train set", "he", moments.of(X[::2] + 1))),
    ):
        with pytest.raises(typing.InputError, match="not comparable, their"):
            protocols.check_comparable([score, second])
    hashes = {protocol.fingerprint for protocol in protocols.PROTOCOLS.values()}
    assert len(hashes) == len(protocols.PROTOCOLS)
