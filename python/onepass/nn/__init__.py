"""Layers with torch.nn's interface that read their input as seldom as the mathematics allows."""

from onepass.nn import functional
from onepass.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from onepass.nn.convert import Conversion, convert
from onepass.nn.fold import fold

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Conversion", "convert", "fold", "functional"]
