"""Offers `onepass.nn.cross_entropy` by the name of torch.nn's module of losses."""

from onepass.nn.cross_entropy import CrossEntropyLoss, LossStatistics

__all__ = ["CrossEntropyLoss", "LossStatistics"]
