"""Layers with torch.nn's interface that read their input as seldom as the mathematics allows."""

from onepass.nn import functional
from onepass.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from onepass.nn.convert import Conversion, convert
from onepass.nn.fold import fold
from onepass.nn.loss import CrossEntropyLoss, LossStatistics

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conversion",
    "CrossEntropyLoss",
    "LossStatistics",
    "convert",
    "fold",
    "functional",
]
