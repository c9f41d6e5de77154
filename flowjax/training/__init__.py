"""The trainer: one pure step for every method, one loop, one checkpoint format."""

from flowjax.training.checkpoint import SaveError
from flowjax.training.experiment import Experiment, Trained, load, setup
from flowjax.training.log import NonFiniteError
from flowjax.training.loop import train
from flowjax.training.program import report

__all__ = ["Experiment", "NonFiniteError", "SaveError", "Trained", "load", "report", "setup", "train"]
