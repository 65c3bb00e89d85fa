"""Replaces the memory-bound parts of a PyTorch training step by one pass over memory each.

`onepass.nn` has batch normalisation with ReLU, a residual and dropout in the same pass, dropout, and the
cross-entropy loss, with torch.nn's names and arguments. `onepass.optim` has optimizers with torch.optim's names,
arguments and checkpoints, which update all parameters in one kernel call per device and dtype, and schedules of
the learning rate. `onepass.augment` augments batches of images, with torchvision's names. `onepass.monitor`
records and diagnoses a training. `keep_freed_memory` makes large activations of a training on the CPU come
without new pages. The command `onepass` (also ``python -m onepass``) shows what is installed, shows
a training run, and measures speed and accuracy.
"""

from importlib.metadata import version as _version

from onepass import augment, monitor, nn, optim
from onepass._freed_memory import KeptMemory, keep_freed_memory

__all__ = ["KeptMemory", "__version__", "augment", "keep_freed_memory", "monitor", "nn", "optim"]

__version__ = _version("onepass")
