"""The trainer: one pure step for every method, one loop, one checkpoint format."""

from flowjax.training.experiment import Experiment, Trained, load, setup
from flowjax.training.loop import NonFiniteError, SaveError, train
from flowjax.training.program import report

__all__ = ["Experiment", "NonFiniteError", "SaveError", "Trained", "load", "report", "setup", "train"]
