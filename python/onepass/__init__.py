"""The steps around the matrix products of deep-learning training, each in one pass over memory.

`onepass.nn` holds batch normalisation with ReLU, a residual and dropout in the same pass, dropout, and the
cross-entropy loss: torch.nn's classes by name and arguments.
`onepass.optim` holds SGD, Adam and AdamW: torch.optim's classes by name, arguments and checkpoints, with the
whole update of all parameters in one kernel call a device and dtype, and schedules of its learning rate.
`onepass.monitor` finds a learning rate. The command `onepass` (also
``python -m onepass``) tells what is installed, shows a training run and measures speed and accuracy.
"""

from importlib.metadata import version as _version

from onepass import monitor, nn, optim

__all__ = ["__version__", "monitor", "nn", "optim"]

__version__ = _version("onepass")
