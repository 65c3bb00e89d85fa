"""Dropout: modules, functions, and what runs them."""

from onepass.nn.dropout.modules import (
    OURS,
    AlphaDropout,
    Dropout,
    Dropout1d,
    Dropout2d,
    Dropout3d,
    DropoutModule,
    FeatureAlphaDropout,
)

__all__ = [
    "OURS",
    "AlphaDropout",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "DropoutModule",
    "FeatureAlphaDropout",
]
