"""A run folder: training loop, log, checkpoints, and the trained model in it."""

from jaxdiff.runs.load import load as load
from jaxdiff.runs.run import Run as Run
from jaxdiff.runs.train import train as train
