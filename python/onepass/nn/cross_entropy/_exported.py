"""The cross-entropy by torch's own operators, for export and TorchScript (_call/exporting.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from onepass.nn._call.exporting import is_onnx, refuse
from onepass.nn.cross_entropy import _composed
from onepass.nn.cross_entropy._kernels import Options, Second

__all__ = ["cross_entropy", "exported_cross_entropy"]

# torch's own, also where a program has put functions of ours in their place.
_cross_entropy = F.cross_entropy


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    """`functional.cross_entropy` of one label or of probabilities, without what is ours."""
    x = input
    if x.dtype == torch.float16 or x.dtype == torch.bfloat16:
        x = x.float()
    if weight is not None and weight.dtype != x.dtype:
        weight = weight.to(x.dtype)
    wanted = x.dtype if target.is_floating_point() else torch.int64
    if target.dtype != wanted:
        target = target.to(wanted)
    return _cross_entropy(
        x,
        target,
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def exported_cross_entropy(
    input: Tensor,
    target: Tensor,
    second: Second,
    weight: Tensor | None,
    options: Options,
    return_stats: bool,
) -> Tensor:
    """`_kernels.forward`'s arguments: torch's operator where it is enough, else composed of several."""
    if return_stats:
        refuse("cross_entropy", "return_stats", "False", return_stats)
    ignore_index, label_smoothing, reduction = options.ignore_index, options.label_smoothing, options.reduction
    mixed = second.target is not None or options.z_loss != 0
    if (label_smoothing or target.is_floating_point()) and is_onnx():
        # ONNX's loss takes only labels, and torch's newer exporter drops the smoothing silently.
        if mixed:
            refuse("cross_entropy", "label_smoothing", "0 with target2 or z_loss", label_smoothing)
        return _smoothed(input, target, weight, ignore_index, reduction, label_smoothing)
    if not mixed:
        return cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)
    return _composed.forward(input, target, second, weight, options)


def _smoothed(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, smoothing: float
) -> Tensor:
    """Composes `cross_entropy` of the log-softmax: what is smoothed, or has probabilities."""
    x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    dim = min(1, x.dim() - 1)
    logs = torch.log_softmax(x, dim)
    if weight is not None:
        logs = logs * weight.to(x.dtype).view([-1] + [1] * (x.dim() - 1 - dim))
    spread = -smoothing / x.shape[dim] * logs.sum(dim)
    if target.is_floating_point():
        rows = (smoothing - 1) * (logs * target.to(x.dtype)).sum(dim) + spread
        return rows if reduction == "none" else rows.mean() if reduction == "mean" else rows.sum()
    spread = torch.where(target == ignore_index, 0, spread.view(target.shape))
    label = cross_entropy(input, target, weight, ignore_index, reduction, 0.0)
    if reduction == "none":
        return (1 - smoothing) * label + spread
    total = spread.sum()
    if reduction == "mean":
        ones = torch.ones_like(spread)
        counts = ones if weight is None else weight.to(x.dtype)[torch.where(target == ignore_index, 0, target)]
        total = total / torch.where(target == ignore_index, 0, counts).sum()
    return (1 - smoothing) * label + total
