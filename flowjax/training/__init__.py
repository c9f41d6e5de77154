"""The trainer: one pure step for every method, one loop, one checkpoint format."""

from flowjax.training.checkpoint import SaveError
from flowjax.training.compilation import report
from flowjax.training.log import NonFiniteError
from flowjax.training.loop import train
from flowjax.training.runs import Experiment, Trained, load, setup

__all__ = ["Experiment", "NonFiniteError", "SaveError", "Trained", "load", "report", "setup", "train"]
