"""The trainer: one pure step for every method, one loop, one checkpoint format."""

from flowjax.training.experiment import Experiment, Trained, load, setup
from flowjax.training.loop import NonFiniteError, train

__all__ = ["Experiment", "NonFiniteError", "Trained", "load", "setup", "train"]
