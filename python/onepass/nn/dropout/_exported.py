"""Dropout by torch's own operators, for export and TorchScript (_call/exporting.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onepass.nn._call.exporting import check_residual

__all__ = ["dropout"]

# torch's own, also where a program has put functions of ours in their place.
_dropout, _alpha_dropout, _feature_alpha_dropout = F.dropout, F.alpha_dropout, F.feature_alpha_dropout


def dropout(
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    scaling: str,
    residual: Tensor | None,
    planes: bool,
) -> Tensor:
    """`functional.dropout` and its kin."""
    direct = inplace and residual is None and scaling != "test_time"
    if scaling == "alpha" and planes:
        output = _feature_alpha_dropout(input, p, training, direct)
    elif scaling == "alpha":
        output = _alpha_dropout(input, p, training, direct)
    elif not planes:
        output = _dropout(input, p, training, direct)
    elif direct:
        # Not F.dropout2d, which warns of (N, C, L).
        output = torch.feature_dropout_(input, p, training)
    else:
        output = torch.feature_dropout(input, p, training)
    if scaling == "test_time":
        # Right in both modes: torch's operator divides by 1 - p in training.
        output = output * (1 - p)
    if residual is not None:
        check_residual("dropout", input, residual)
        output = output + residual
    if inplace and not direct:
        return input.copy_(output)
    return output
