"""Every measure beside a well-kept library on the same arrays: python -m experiments.benchmark_measures

For points [n, 2] and features [n, 64] the table has the value of our function and of the library's, the seconds of both,
measured in turns, and the median of the ratios. The last column is the growth of the largest memory that numpy held during our
function, from 4,096 to 8,192 rows: 1 for blocks of a fixed size, 2 for memory linear in the rows, 4 for a matrix of all pairs
(`wasserstein`, from 2,048 to its limit of 4,096). It does not see XLA's memory, which a test measures. The libraries are POT,
scipy, scikit-learn and prdc. Writes measures_cost.csv and .md below --output. docs/measures_cost.md was written in 12 minutes
on two CPU cores by:

    python -m experiments.benchmark_measures --output=docs
"""

import contextlib
import datetime
import functools
import importlib
import io
import os
import platform
import statistics
import time
import tracemalloc
import warnings
from typing import NamedTuple

import numpy as np
import tqdm
from absl import flags
from scipy import stats
from sklearn import metrics, neighbors

from experiments import command_line, tables
from flowjax import evals, typing
from flowjax.evals import transport

OUTPUT = flags.DEFINE_string("output", "runs/benchmark_measures", "folder of the results")
ROWS = flags.DEFINE_list("rows", ["2000", "10000"], "samples in each cloud, one or several numbers")
ROUNDS = flags.DEFINE_integer("rounds", 5, "how often each function is timed", lower_bound=1, upper_bound=10_000)
# The most rows for a library that stores all pairs or takes minutes.
SMALL = 4_096


class Comparison(NamedTuple):
    """A measure and the library's function of the same arrays.

    Attributes:
      name: of the measure.
      ours: our function of two clouds.
      library: the library's function of two clouds.
      called: name of the library's function, for the table.
      most_rows: the most rows that the library is given.
      widths: numbers of columns of the clouds.
    """

    name: str
    ours: object
    library: object
    called: str
    most_rows: int = SMALL
    widths: tuple = (2, 64)


def comparisons():
    ot, prdc = library("ot"), library("prdc")
    quiet = lambda key: lambda x, y: _silently(lambda: float(prdc.compute_prdc(y, x, 5)[key]))
    column = lambda function: lambda x, y: float(function(x[:, 0], y[:, 0]))
    return [
        Comparison(
            "sliced_wasserstein",
            evals.sliced_wasserstein,
            lambda x, y: float(ot.sliced_wasserstein_distance(x, y, projections=directions(x.shape[1]))),
            "ot.sliced_wasserstein_distance",
            100_000,
        ),
        Comparison(
            "wasserstein",
            evals.wasserstein,
            lambda x, y: float(np.sqrt(ot.emd2([], [], ot.dist(x, y), numItermax=10**7))),
            "ot.dist, ot.emd2",
        ),
        Comparison(
            "sinkhorn",
            lambda x, y: evals.sinkhorn(x, y, epsilon=0.05 * x.shape[1]),
            lambda x, y: divergence(ot, x, y, 0.05 * x.shape[1]),
            "ot.bregman.sinkhorn_log, stopThr=1e-5",
        ),
        Comparison(
            "energy_distance, 1-D",
            lambda x, y: evals.energy_distance(x[:, :1], y[:, :1]),
            column(stats.energy_distance),
            "scipy.stats.energy_distance",
            100_000,
            (2,),
        ),
        Comparison("energy_distance", evals.energy_distance, energy, "sklearn.metrics.pairwise_distances, means", 10_000),
        Comparison("mmd, gaussian", lambda x, y: evals.mmd(x, y, bandwidth=bandwidth(x)), gaussian, "rbf_kernel, sums", 10_000),
        Comparison(
            "mmd, polynomial", lambda x, y: evals.mmd(x, y, kernel="polynomial"), polynomial, "polynomial_kernel, sums", 10_000
        ),
        Comparison(
            "frechet",
            evals.frechet,
            lambda x, y: float(ot.gaussian.empirical_bures_wasserstein_distance(x, y)) ** 2,
            "ot.gaussian.empirical_bures_wasserstein_distance",
            100_000,
        ),
        *(
            Comparison(key, lambda x, y, key=key: getattr(evals, key)(y, x), quiet(key), "prdc.compute_prdc (all four)", 10_000)
            for key in ("precision", "recall", "density", "coverage")
        ),
        Comparison("nearest_distance", evals.nearest_distance, nearest, "sklearn.neighbors.NearestNeighbors", 100_000),
        Comparison("copying", copying, mann_whitney, "NearestNeighbors, scipy.stats.mannwhitneyu", 100_000),
    ]


# What the libraries compute


def library(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise typing.InputError(
            f"this script compares with the library {name}, which is not installed: pip install -e .[measures]"
        ) from error


@functools.cache
def directions(width):
    return transport.unit_vectors(width, 128, 0).T


def divergence(ot, x, y, epsilon):
    """The debiased divergence with its entropies, from the plans of POT."""

    def value(u, v):
        costs, a, b = ot.dist(u, v), *(np.full(len(z), 1 / len(z)) for z in (u, v))
        plan = ot.bregman.sinkhorn_log(a, b, costs, epsilon, numItermax=10_000, stopThr=1e-5)
        kept = plan > 0
        return (plan * costs).sum() + epsilon * (plan[kept] * np.log(plan[kept] * plan.size)).sum()

    return float(value(x, y) - (value(x, x) + value(y, y)) / 2)


def energy(x, y):
    mean = lambda u, v: metrics.pairwise_distances(u, v).mean()
    return float(np.sqrt(2 * mean(x, y) - mean(x, x) - mean(y, y)))


def unbiased(kernel, x, y):
    within = sum((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(z, z) for z in (x, y)))
    return float(within - 2 * kernel(x, y).mean())


def bandwidth(x):
    return float(np.sqrt(x.shape[1]))


def gaussian(x, y):
    return unbiased(lambda u, v: metrics.pairwise.rbf_kernel(u, v, gamma=0.5 / bandwidth(x) ** 2), x, y)


def polynomial(x, y):
    return unbiased(metrics.pairwise.polynomial_kernel, x, y)


def nearest(x, y):
    return float(neighbors.NearestNeighbors(n_neighbors=1).fit(y).kneighbors(x)[0].mean())


def copying(x, y):
    return evals.copying(x, y[::2], y[1::2])


def mann_whitney(x, y):
    tree = neighbors.NearestNeighbors(n_neighbors=1).fit(y[::2])
    samples, held_out = (tree.kneighbors(z)[0][:, 0] for z in (x, y[1::2]))
    return float(stats.mannwhitneyu(held_out, samples, method="asymptotic").statistic) / (len(samples) * len(held_out))


def _silently(work):
    with contextlib.redirect_stdout(io.StringIO()):
        return work()


# Measurement


def clouds(rows, width):
    rng = np.random.default_rng(0)
    return rng.normal(size=(rows, width)), 1.1 * rng.normal(size=(rows, width)) + 0.1


def in_turns(one, other, rounds):
    """Seconds of both, `rounds` times one after the other."""
    seconds = []
    for _ in range(rounds):
        pair = []
        for function in (one, other):
            start = time.perf_counter()
            function()
            pair.append(time.perf_counter() - start)
        seconds.append(pair)
    return list(zip(*seconds))


def peak(function, rows, width):
    """The most MiB that numpy held during a call, without the clouds."""
    x, y = clouds(rows, width)
    tracemalloc.start()
    function(x, y)
    largest = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return largest / 2**20


def compare(case, rows, width):
    x, y = clouds(rows, width)
    ours, theirs = (lambda: case.ours(x, y)), (lambda: case.library(x, y))
    start = time.perf_counter()
    values = ours(), theirs()  # the first call compiles
    # Slow functions are timed once.
    rounds = ROUNDS.value if time.perf_counter() - start < 5 else 1
    ours_s, theirs_s = in_turns(ours, theirs, rounds)
    return {
        "measure": case.name,
        "array": f"[{rows}, {1 if '1-D' in case.name else width}]",
        "library": case.called,
        "ours": f"{values[0]:.6g}",
        "theirs": f"{values[1]:.6g}",
        "ours s": f"{statistics.median(ours_s):.3g}",
        "theirs s": f"{statistics.median(theirs_s):.3g}",
        "time over theirs": f"{statistics.median(a / b for a, b in zip(ours_s, theirs_s)):.2f}",
        "memory of 2n over n": growth(case, width),
    }


@functools.cache
def growth(case, width):
    if case.name == "sinkhorn":
        return ""
    rows = 2_048 if case.name == "wasserstein" else 4_096
    return f"{peak(case.ours, 2 * rows, width) / peak(case.ours, rows, width):.1f}"


def main():
    counts = command_line.whole_numbers("rows", ROWS.value, low=16, needed=True, high=2**20)
    path, every = command_line.output_folder(OUTPUT), comparisons()
    cases = [(c, n, d) for n in counts for d in (2, 64) for c in every if n <= c.most_rows and d in c.widths]
    about = (
        f"Measures beside libraries on two clouds of normal samples; {os.cpu_count()} cores ({platform.machine()}),"
        f" {datetime.date.today()}: `{command_line.typed('benchmark_measures')}`. Values differ because POT's Frechet distance"
        " has other covariances and its Sinkhorn stops early in 2-D; prdc computes its four measures at once."
    )
    rows, bar = [], tqdm.tqdm(cases, unit="measure")
    for case, n, width in bar:
        bar.set_postfix_str(f"{case.name}, [{n}, {width}]")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the libraries
            rows.append(compare(case, n, width))
        tables.write(path / "measures_cost", rows, about)
    print("\n" + tables.markdown(rows))
    print("\n".join(str(path / f"measures_cost.{ending}") for ending in ("csv", "md")))


if __name__ == "__main__":
    command_line.run(main)
