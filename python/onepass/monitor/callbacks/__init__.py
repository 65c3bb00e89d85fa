"""Hands what a monitor records to other packages, and drives it from other packages' trainers.

The classes here are given to `onepass.monitor.Monitor` as ``callbacks``. `onepass.monitor.callbacks.lightning` and
`onepass.monitor.callbacks.transformers` hold a callback of those packages that makes and feeds a monitor; they are
modules of their own because they import their package.
"""

from onepass.monitor.callbacks.accelerate import AccelerateCallback
from onepass.monitor.callbacks.base import Callback, scalars_of
from onepass.monitor.callbacks.tensorboard import TensorBoardCallback
from onepass.monitor.callbacks.wandb import WandbCallback

__all__ = ["AccelerateCallback", "Callback", "TensorBoardCallback", "WandbCallback", "scalars_of"]
