"""Which network, and how images reach it: a score says its protocol and its reference, and those of another are not set beside it.

Inception's FID differs between codebases that all call it FID: by the resize to 299 pixels, the scale of the input, the rounding of samples.
`PROTOCOLS` has what each family does; `read` reads the references that they publish; `frechet_score` refuses to mix them.
"""

import hashlib
import json
import pathlib
from typing import NamedTuple

import numpy as np

from flowjax import checks, foreign, opening, typing
from flowjax.evals import moments


class Protocol(NamedTuple):
    """How features of images are made, as far as the number depends on it.

    Attributes:
      network: what makes the features.
      width: of the features.
      resize: of images to the size of the network.
      scale: of the pixels that the network takes, from u in 0..255.
      rounded: whether samples are rounded to whole pixels before.
      keys: names of mean and covariance in the files that its authors publish.
      source: where this is written down.
    """

    network: str
    width: int
    resize: str
    scale: str
    rounded: bool
    keys: tuple[str, str]
    source: str

    @property
    def fingerprint(self) -> str:
        """A hash of all that the number depends on."""
        return _hash(json.dumps([self.network, self.width, self.resize, self.scale, self.rounded]).encode())


_INCEPTION = "Inception-v3 of TensorFlow, 2015-12-05"
PROTOCOLS = {
    "adm": Protocol(
        _INCEPTION, 2048, "bilinear of TensorFlow 1, source = i S / 299", "(u - 128) / 128", True, ("mu", "sigma"),
        "guided-diffusion's evaluator; the same in edm and edm2",
    ),
    "he": Protocol(
        _INCEPTION, 2048, "bilinear with half pixels, no antialiasing", "(u - 128) / 128", True, ("ref_mu", "ref_sigma"),
        "meanflow, imeanflow, pmf, drifting",
    ),
    "pytorch_fid": Protocol(
        _INCEPTION, 2048, "bilinear with half pixels, no antialiasing", "u / 127.5 - 1", True, ("mu", "sigma"), "pytorch-fid, jax-fid"
    ),
    "edm2_dino": Protocol(
        "DINOv2 ViT-L/14, class token behind the last norm", 1024, "bicubic to 224 with antialiasing, not rounded",
        "mean and deviation of ImageNet", True, ("fd_dinov2/mu", "fd_dinov2/sigma"), "edm2",
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
    """

    name: str
    protocol: str
    features: moments.Gaussian
    count: int
    fingerprint: str


class Score(NamedTuple):
    """A number with what it depends on.

    Attributes:
      measure: "FID" or another.
      value: the number.
      count: of samples.
      protocol, protocol_hash: key of PROTOCOLS, and its fingerprint.
      reference, reference_hash: name and fingerprint of the reference.
    """

    measure: str
    value: float
    count: int
    protocol: str
    protocol_hash: str
    reference: str
    reference_hash: str

    def __str__(self) -> str:
        return (
            f"{self.measure} {self.value:.4g} of {self.count:,} samples, protocol {self.protocol} ({self.protocol_hash}),"
            f" reference {self.reference} ({self.reference_hash})"
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
    noted = [bytes(arrays["protocol"].astype(np.uint8)).decode(errors="replace")] if "protocol" in arrays else []
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
    mean, covariance = arrays[chosen[0]], arrays.get(chosen[0].replace("mu", "sigma"))
    with opening.reading(path, _EXPECTED):
        if mean.shape != (width,) or covariance is None or covariance.shape != (width, width) or mean.dtype.kind != "f":
            shapes = [mean.shape, None if covariance is None else covariance.shape]
            raise ValueError(f"its mean and covariance have shapes {shapes}, and features of {protocol} have {width} numbers")
        features = moments.Gaussian(mean.astype(np.float64), covariance.astype(np.float64))
        _check(features)
        count = int(next((arrays[name] for name in ("count", "num_images") if name in arrays), 0))
    return Reference(pathlib.Path(path).name, protocol, features, count, _of_gaussian(features))


def reference(name: str, protocol: str, found: moments.Moments) -> Reference:
    """Moments of a data set as a reference of this name."""
    checks.member("protocol", protocol, PROTOCOLS)
    features = found.gaussian()
    return Reference(name, protocol, features, found.count, _of_gaussian(features))


def write_reference(path: str | pathlib.Path, chosen: Reference) -> None:
    """Writes a reference as .safetensors, with its protocol: other protocols are refused when it is read."""
    foreign.write(path, {
        "mu": chosen.features.mean, "sigma": chosen.features.covariance, "count": np.array(chosen.count),
        "protocol": np.frombuffer(chosen.protocol.encode(), np.uint8),
    })  # fmt: skip


def frechet_score(
    samples: moments.Moments, protocol: str, chosen: Reference, *, measure: str = "FID", root: np.ndarray | None = None
) -> Score:
    """The Frechet distance between samples and a reference.

    Args:
      samples: moments of the features of samples.
      protocol: by which they were made.
      chosen: the reference.
      measure: its name.
      root: moments.root of the covariance of the reference, if many scores are taken; None: it is made.

    Raises:
      InputError: the protocols differ.
    """
    checks.member("protocol", protocol, PROTOCOLS)
    if protocol != chosen.protocol:
        raise typing.InputError(
            f"features of the samples are of the protocol {protocol}, those of {chosen.name} of {chosen.protocol}: they are not compared;"
            f" make the samples' features by {chosen.protocol}, or give a reference of {protocol}."
        )
    value = moments.frechet_distance(samples.gaussian(), chosen.features, root)
    return Score(measure, value, samples.count, protocol, PROTOCOLS[protocol].fingerprint, chosen.name, chosen.fingerprint)


def check_comparable(scores: list[Score]) -> None:
    """Raises InputError unless scores may stand in one table: one measure, one protocol, one reference, one number of samples."""
    for one in scores[1:]:
        for field in ("measure", "protocol", "protocol_hash", "reference_hash", "count"):
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


def _of_gaussian(features: moments.Gaussian) -> str:
    return _hash(b"".join(np.ascontiguousarray(array, "<f8").tobytes() for array in features))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
