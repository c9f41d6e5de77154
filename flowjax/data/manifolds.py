"""Points on other spaces than R^n from laws that are stated here: see flowjax.spaces."""

import numpy as np
import scipy

from flowjax.data import pipeline, points

# The corners of a tetrahedron.
CENTRES = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)

# Pairs of backbone torsions of a protein, phi and psi, as a mixture of wrapped normals: share, mean and deviation in degrees, correlation.
# Places and widths are round numbers near those of a Ramachandran plot, not a fit: right-handed helix, sheet, polyproline, left-handed.
TORSIONS = (
    (0.45, (-63, -43), (9, 10), -0.5),
    (0.25, (-120, 135), (22, 18), 0.0),
    (0.22, (-68, 148), (14, 14), 0.0),
    (0.08, (57, 42), (9, 12), -0.4),
)


def caps(rng: np.random.Generator, n: int) -> np.ndarray:
    """Four caps, Gaussians of deviation 0.25 about the corners of a tetrahedron, put back on the sphere; float32 [n, 3]."""
    x = CENTRES[rng.integers(0, 4, n)] + 0.25 * rng.standard_normal((n, 3))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def torsions(rng: np.random.Generator, n: int) -> np.ndarray:
    """Pairs of angles in [-pi, pi], a mixture of four wrapped normals, see TORSIONS; float32 [n, 2]."""
    shares, means, deviations, correlations = (np.array(column) for column in zip(*TORSIONS))
    which = rng.choice(len(shares), n, p=shares)
    one, other = rng.standard_normal((2, n))
    rho = correlations[which]
    steps = np.stack([one, rho * one + np.sqrt(1 - rho**2) * other], axis=1) * deviations[which]
    degrees = means[which] + steps
    return np.deg2rad((degrees + 180) % 360 - 180).astype(np.float32)


def orientations(rng: np.random.Generator, n: int) -> np.ndarray:
    """Things that stand upright on a table and face one of four sides: rotations as matrices row by row, float32 [n, 9].

    R = Z(90 k degrees) exp(w), k one of 0..3, Z about the vertical axis, w normal with deviations 0.1, 0.1 (leaning) and 0.25 (turning).
    """
    facing = scipy.spatial.transform.Rotation.from_rotvec(rng.integers(0, 4, (n, 1)) * np.array([0, 0, np.pi / 2]))
    leaning = scipy.spatial.transform.Rotation.from_rotvec(rng.standard_normal((n, 3)) * (0.1, 0.1, 0.25))
    return (facing * leaning).as_matrix().reshape(n, 9).astype(np.float32)


# {name: (law, space)}
LAWS = {"sphere_caps": (caps, "sphere"), "torsions": (torsions, "torus"), "orientations": (orientations, "so3")}


def source(name: str, *, split: str = "train", data_dir: str | None = None) -> pipeline.Source:
    """A fixed draw of a law: 2**18 points for `train`, 2**14 others for `test`; nothing is read or written.

    Args:
      name: a key of LAWS.
      split: `"train"` or `"test"`.
      data_dir: unused; every dataset takes it.

    Returns:
      An unlabelled source of float32 [size] in the space of the law.
    """
    del data_dir
    points.check_split(name, split)
    law, space = LAWS[name]
    x = law(np.random.default_rng(list(points.SPLITS).index(split)), points.SPLITS[split])
    rows = lambda ids: {"x": x[ids]}
    return pipeline.Source(name, len(x), x.shape[1:], 0, rows, reference_rows=points.REFERENCE_ROWS, space=space)
