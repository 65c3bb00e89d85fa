"""Batch normalisation by torch's own operators, for export and TorchScript (_call/exporting.py)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from onepass.nn._call.exporting import check_residual

__all__ = ["batch_norm"]

# torch's own, also where a program has put functions of ours in their place.
_batch_norm, _relu, _dropout = F.batch_norm, F.relu, F.dropout


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    batch_statistics: bool,
    momentum: float,
    eps: float,
    activation: str | None,
    dropout: float,
    training: bool,
) -> Tensor:
    """`functional.batch_norm`, where dropout may be idle: tools that move a graph to training look for it."""
    output = _batch_norm(input, running_mean, running_var, weight, bias, batch_statistics, momentum, eps)
    if residual is not None:
        check_residual("batch_norm", input, residual)
        output = output + residual
    if activation is not None:
        output = _relu(output)
    if dropout > 0:
        output = _dropout(output, dropout, training)
    return output
