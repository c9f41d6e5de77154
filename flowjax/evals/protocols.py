"""Which network, and how images reach it: a score says its protocol and its reference, and those of another are not set beside it.

Inception's FID differs between codebases that all call it FID: by the resize to 299 pixels, the scale of the input, the rounding of samples.
`PROTOCOLS` has what each family does; `read` reads the references that they publish; `frechet_score` refuses to mix them.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from flowjax import buckets, checks, foreign, opening, typing
from flowjax.evals import moments, networks
from flowjax.evals.networks import resizes


class Protocol(NamedTuple):
    """How features of images are made, as far as the number depends on it.

    Attributes:
      network: key of flowjax.evals.networks.NETWORKS, or of OWN: what makes the features.
      width: of the features; 0: that of the images.
      resize: key of flowjax.evals.networks.resizes.RESIZES.
      size: pixels of a side that the network is given; 0: those of the images.
      scale: key of SCALES: of the pixels that the network takes, from u in 0..255.
      rounded: whether samples are rounded to whole pixels before.
      keys: names of mean and covariance in the files that its authors publish.
      source: where this is written down.
      measure: what the Frechet distance is called.
    """

    network: str
    width: int
    resize: str
    size: int
    scale: str
    rounded: bool
    keys: tuple[str, str]
    source: str
    measure: str = "FID"

    @property
    def fingerprint(self) -> str:
        """A hash of all that the number depends on, but for the weights of the network."""
        title = networks.NETWORKS[self.network].title if self.network in networks.NETWORKS else self.network
        return _hash(json.dumps([title, self.width, self.resize, self.size, self.scale, self.rounded]).encode())

    def prepared(self, images: typing.Array) -> typing.Array:
        """Images [B, H, W, C] of pixels in 0..255 as the network takes them; grey ones have their channel three times."""
        x = images.astype(jnp.float32)
        if self.network in networks.NETWORKS and x.shape[-1] == 1:
            x = jnp.repeat(x, 3, axis=-1)
        return SCALES[self.scale](resizes.RESIZES[self.resize](x, self.size))


_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, of the published networks
_colours = lambda values: np.array(values, np.float32)[None, None, None]
SCALES: dict[str, Callable[[typing.Array], typing.Array]] = {
    "(u - 128) / 128": lambda u: (u - 128) / 128,
    "u / 127.5 - 1": lambda u: u / 127.5 - 1,
    "mean and deviation of ImageNet": lambda u: (u / 255 - _colours(_MEAN)) / _colours(_DEVIATION),
}
# Features that need no published weights: the pixels, and a network that is trained here.
OWN = ("pixels", "digits_classifier")
_FD = "Frechet distance"
PROTOCOLS = {
    "adm": Protocol(
        "inception", 2048, "tensorflow1", 299, "(u - 128) / 128", True, ("mu", "sigma"),
        "guided-diffusion's evaluator; the same in edm and edm2",
    ),
    "he": Protocol(
        "inception", 2048, "half_pixel", 299, "(u - 128) / 128", True, ("ref_mu", "ref_sigma"), "meanflow, imeanflow, pmf, drifting"
    ),
    "pytorch_fid": Protocol(
        "inception", 2048, "half_pixel", 299, "u / 127.5 - 1", True, ("mu", "sigma"), "pytorch-fid, jax-fid"
    ),
    "edm2_dino": Protocol(
        "dinov2", 1024, "bicubic", 224, "mean and deviation of ImageNet", True, ("fd_dinov2/mu", "fd_dinov2/sigma"), "edm2", "FDD"
    ),
    "vgg16": Protocol("vgg16", 512, "half_pixel", 64, "mean and deviation of ImageNet", True, ("mu", "sigma"), "ours", f"{_FD}, VGG16"),
    "pixels": Protocol("pixels", 0, "none", 0, "u / 127.5 - 1", True, ("mu", "sigma"), "ours", f"{_FD}, pixels"),
    "digits_classifier": Protocol(
        "digits_classifier", 0, "none", 0, "u / 127.5 - 1", True, ("mu", "sigma"), "ours", f"{_FD}, classifier of the digits"
    ),
}  # fmt: skip
_EXPECTED = "moments of features: an .npz file with mu and sigma, or ref_mu and ref_sigma, a pickle of edm2, or what write_reference wrote"


class Reference(NamedTuple):
    """Features that samples are compared with, by their moments.

    Attributes:
      name: of the file.
      protocol: key of PROTOCOLS.
      features: mean and covariance.
      count: of images; 0 if the file does not say.
      fingerprint: a hash of mean and covariance.
      spatial: mean and covariance of the features that know their place; None if the file has none.
      weights_hash: of the network, see `fingerprint_of`; "" if the file does not say.
    """

    name: str
    protocol: str
    features: moments.Gaussian
    count: int
    fingerprint: str
    spatial: moments.Gaussian | None = None
    weights_hash: str = ""

    def of_places(self) -> "Reference":
        """The reference of sFID, whose features are the spatial ones.

        Raises:
          InputError: it has none.
        """
        if self.spatial is None:
            raise typing.InputError(
                f"{self.name} has no spatial features, mu_s and sigma_s, which sFID is compared with; leave sfid out, or give ADM's file."
            )
        return self._replace(features=self.spatial, fingerprint=_of_gaussian(self.spatial), spatial=None)


class Score(NamedTuple):
    """A number with what it depends on.

    Attributes:
      measure: "FID" or another.
      value: the number.
      count: of samples.
      protocol, protocol_hash: key of PROTOCOLS, and its fingerprint.
      reference, reference_hash: name and fingerprint of the reference; "" for a score without one.
      weights_hash: of the network; "" if it is not known.
    """

    measure: str
    value: float
    count: int
    protocol: str
    protocol_hash: str
    reference: str
    reference_hash: str
    weights_hash: str = ""

    def __str__(self) -> str:
        weights = f", weights {self.weights_hash}" if self.weights_hash else ""
        return (
            f"{self.measure} {self.value:.4g} of {self.count:,} samples, protocol {self.protocol} ({self.protocol_hash}{weights})"
            + (f", reference {self.reference} ({self.reference_hash})" if self.reference else "")
        )


def read(path: str | pathlib.Path, protocol: str) -> Reference:
    """A reference that was published, or written by `write_reference`.

    Args:
      path: .npz with mu and sigma (adm, pytorch_fid) or ref_mu and ref_sigma (he); a pickle of edm2, with fid/mu for adm and
        fd_dinov2/mu for edm2_dino; nothing is unpickled, see flowjax.foreign.
      protocol: key of PROTOCOLS, by which its features were made.

    Raises:
      InputError: it cannot be read; it is of another protocol, as its names or what `write_reference` noted say; or its arrays are no
        mean and covariance of the protocol's features.
    """
    checks.member("protocol", protocol, PROTOCOLS)
    arrays, width = foreign.read(path), PROTOCOLS[protocol].width
    noted = [_text(arrays["protocol"])] if "protocol" in arrays else []
    pairs = {"mu": ("adm", "pytorch_fid"), "ref_mu": ("he",), "fid/mu": ("adm",), "fd_dinov2/mu": ("edm2_dino",)}
    keys = {key: noted or of for key, of in pairs.items() if key in arrays}
    chosen = [key for key, of in keys.items() if protocol in of]
    if not chosen:
        of = sorted({name for names in keys.values() for name in names})
        raise typing.InputError(
            f"{path} holds {' and '.join(keys) or 'none of ' + ', '.join(pairs)}"
            + (f", a reference of the protocol {' or '.join(of)}, and not of {protocol}" if of else "")
            + f"; expected {' and '.join(PROTOCOLS[protocol].keys)}: features of two protocols are not compared."
        )
    with opening.reading(path, _EXPECTED):
        features = _gaussian(arrays, chosen[0], width, protocol)
        spatial = _gaussian(arrays, "mu_s", 0, protocol) if chosen[0] == "mu" and {"mu_s", "sigma_s"} <= set(arrays) else None
        count = int(next((arrays[name] for name in ("count", "num_images") if name in arrays), 0))
    of = _text(arrays["weights"]) if "weights" in arrays and arrays["weights"].dtype == np.uint8 else ""
    return Reference(buckets.path(path).name, protocol, features, count, _of_gaussian(features), spatial, of)


def reference(
    name: str, protocol: str, found: moments.Moments, spatial: moments.Moments | None = None, weights_hash: str = ""
) -> Reference:
    """Moments of a data set, and of its spatial features, as a reference of this name."""
    checks.member("protocol", protocol, PROTOCOLS)
    features = found.gaussian()
    of_places = None if spatial is None else spatial.gaussian()
    return Reference(name, protocol, features, found.count, _of_gaussian(features), of_places, weights_hash)


def write_reference(path: str | pathlib.Path, chosen: Reference) -> None:
    """Writes a reference as .safetensors, with its protocol: other protocols are refused when it is read."""
    bytes_of = lambda text: np.frombuffer(text.encode(), np.uint8)
    arrays = {
        "mu": chosen.features.mean, "sigma": chosen.features.covariance, "count": np.array(chosen.count),
        "protocol": bytes_of(chosen.protocol), **({"weights": bytes_of(chosen.weights_hash)} if chosen.weights_hash else {}),
    }  # fmt: skip
    if chosen.spatial is not None:
        arrays |= {"mu_s": chosen.spatial.mean, "sigma_s": chosen.spatial.covariance}
    foreign.write(path, arrays)


def check_fits(protocol: str, chosen: Reference, weights_hash: str = "") -> None:
    """Raises InputError unless features of this protocol, and of these weights, may be compared with a reference."""
    checks.member("protocol", protocol, PROTOCOLS)
    if protocol != chosen.protocol:
        raise typing.InputError(
            f"features of the samples are of the protocol {protocol}, those of {chosen.name} of {chosen.protocol}: they are not compared;"
            f" make the samples' features by {chosen.protocol}, or give a reference of {protocol}."
        )
    if weights_hash and chosen.weights_hash and weights_hash != chosen.weights_hash:
        raise typing.InputError(
            f"the features of {chosen.name} were made by other weights ({chosen.weights_hash}) than those of the samples ({weights_hash}):"
            " they are not compared; give the weights that made the reference, or write it again."
        )


def frechet_score(
    samples: moments.Moments, protocol: str, chosen: Reference, *, measure: str = "", root: np.ndarray | None = None,
    weights_hash: str = "",
) -> Score:  # fmt: skip
    """The Frechet distance between samples and a reference.

    Args:
      samples: moments of the features of samples.
      protocol: by which they were made.
      chosen: the reference.
      measure: its name; "": that of the protocol.
      root: moments.root of the covariance of the reference, if many scores are taken; None: it is made.
      weights_hash: of the network that made the features, see `fingerprint_of`.

    Raises:
      InputError: the protocols or the weights differ.
    """
    check_fits(protocol, chosen, weights_hash)
    about = PROTOCOLS[protocol]
    value = moments.frechet_distance(samples.gaussian(), chosen.features, root)
    return Score(
        measure or about.measure, value, samples.count, protocol, about.fingerprint, chosen.name, chosen.fingerprint,
        weights_hash or chosen.weights_hash,
    )  # fmt: skip


def check_comparable(scores: list[Score]) -> None:
    """Raises InputError unless scores may stand in one table: one measure, one protocol, one reference, one number of samples."""
    for one in scores[1:]:
        for field in ("measure", "protocol", "protocol_hash", "weights_hash", "reference_hash", "count"):
            here, there = getattr(scores[0], field), getattr(one, field)
            if here != there:
                raise typing.InputError(
                    f"two scores are not comparable, their {field} is {here} and {there}: {scores[0]}; {one}."
                )


def _check(features: moments.Gaussian) -> None:
    mean, covariance = features
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("its mean or covariance holds values that are not finite numbers")
    size = np.abs(covariance).max()
    if np.abs(covariance - covariance.T).max() > 1e-4 * size or np.diag(covariance).min() < -1e-6 * size:
        raise ValueError("its covariance is not symmetric, or has a negative variance")


def fingerprint_of(weights: Mapping[str, np.ndarray]) -> str:
    """A hash of weights {name: array}; the order of the names and the file they came from do not matter."""
    parts = hashlib.sha256()
    for name in sorted(weights):
        parts.update(f"{name} {weights[name].shape} ".encode())
        parts.update(np.ascontiguousarray(weights[name], "<f4").tobytes())
    return parts.hexdigest()[:16]


def _gaussian(arrays: Mapping[str, np.ndarray], name: str, width: int, protocol: str) -> moments.Gaussian:
    """Mean and covariance by the name of the mean; raises ValueError for what is none of this width, 0 for any."""
    mean, covariance = arrays[name], arrays.get(name.replace("mu", "sigma"))
    width = width or mean.size
    if mean.shape != (width,) or covariance is None or covariance.shape != (width, width) or mean.dtype.kind != "f":
        shapes = [mean.shape, None if covariance is None else covariance.shape]
        raise ValueError(f"its mean and covariance have shapes {shapes}, and features of {protocol} have {width} numbers")
    features = moments.Gaussian(mean.astype(np.float64), covariance.astype(np.float64))
    _check(features)
    return features


def _text(array: np.ndarray) -> str:
    return bytes(array.astype(np.uint8)).decode(errors="replace")


def _of_gaussian(features: moments.Gaussian) -> str:
    return _hash(b"".join(np.ascontiguousarray(array, "<f8").tobytes() for array in features))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
