"""The trainer: one pure step for every method, one loop, one checkpoint format."""

from flowjax.training.checkpoint import SaveError
from flowjax.training.compilation import report
from flowjax.training.loading import Trained, load
from flowjax.training.log import NonFiniteError
from flowjax.training.loop import train
from flowjax.training.runs import Run, setup, sketch

__all__ = ["NonFiniteError", "Run", "SaveError", "Trained", "load", "report", "setup", "sketch", "train"]
