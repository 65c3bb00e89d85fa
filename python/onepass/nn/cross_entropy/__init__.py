"""The cross-entropy loss: the module, the function, and what runs them."""

from onepass.nn.cross_entropy.modules import CrossEntropyLoss, LossStatistics

__all__ = ["CrossEntropyLoss", "LossStatistics"]
