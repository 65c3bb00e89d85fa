"""Batch normalisation: modules, the function, and what runs it."""

from onepass.nn.batch_norm.modules import OURS, BatchNorm1d, BatchNorm2d, BatchNorm3d, FusedBatchNorm
from onepass.nn.batch_norm.sync import SyncBatchNorm

__all__ = ["OURS", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "FusedBatchNorm", "SyncBatchNorm"]
