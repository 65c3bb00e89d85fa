"""torch.nn.functional's functions, each in as few passes over memory as it needs."""

from onepass.nn.batch_norm.functions import batch_norm
from onepass.nn.cross_entropy.functions import cross_entropy
from onepass.nn.dropout.functions import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
)
from onepass.nn.row_norm.functions import layer_norm, rms_norm

__all__ = [
    "alpha_dropout",
    "batch_norm",
    "cross_entropy",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
    "layer_norm",
    "rms_norm",
]
