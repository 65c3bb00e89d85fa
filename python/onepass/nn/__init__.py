"""Layers with torch.nn's interface that read their input as seldom as the mathematics allows."""

from onepass.nn import functional
from onepass.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d, SyncBatchNorm
from onepass.nn.convert import Conversion, convert, convert_sync_batchnorm
from onepass.nn.dropout import AlphaDropout, Dropout, Dropout1d, Dropout2d, Dropout3d, FeatureAlphaDropout
from onepass.nn.fold import fold
from onepass.nn.loss import CrossEntropyLoss, LossStatistics
from onepass.nn.mc_dropout import Prediction, mc_dropout, mc_predict
from onepass.nn.revert import revert
from onepass.nn.row_norm import LayerNorm, RMSNorm
from onepass.nn.sequential import Sequential

__all__ = [
    "AlphaDropout",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Conversion",
    "CrossEntropyLoss",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "LayerNorm",
    "LossStatistics",
    "Prediction",
    "RMSNorm",
    "Sequential",
    "SyncBatchNorm",
    "convert",
    "convert_sync_batchnorm",
    "fold",
    "functional",
    "mc_dropout",
    "mc_predict",
    "revert",
]
