"""Layer and RMS normalisation by torch's own operators, for export (_call/exporting.py)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from onepass.nn._call.exporting import check_residual

__all__ = ["row_norm"]

# torch's own, also where a program has put functions of ours in their place.
_layer_norm, _rms_norm, _dropout = F.layer_norm, F.rms_norm, F.dropout


def row_norm(
    function: str,
    input: Tensor,
    shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    dropout: float,
    training: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """`functional.layer_norm` or rms_norm; an idle dropout stays, for tools that move a graph to training."""
    rows = input
    if residual is not None:
        check_residual(function, input, residual)
        rows = residual + (_dropout(input, dropout, training) if dropout > 0 else input)
    if function == "layer_norm":
        output = _layer_norm(rows, list(shape), weight, bias, eps)
    else:
        output = _rms_norm(rows, list(shape), weight, eps)
    return output if residual is None else (output, rows)
