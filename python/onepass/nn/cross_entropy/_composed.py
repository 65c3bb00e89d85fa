"""The cross-entropy loss composed of torch's operations: for torch.func, higher derivatives and empty batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from onepass.nn.cross_entropy._kernels import Options, Second

__all__ = ["forward"]

# What torch.nn.functional.cross_entropy calls. That function itself may be ours, or another's, by now: users put
# such ones in its place, before or after this import, and ours would call itself without end.
_cross_entropy: Callable[..., Tensor] = torch._C._nn.cross_entropy_loss
_REDUCTION_NONE = 0


def forward(input: Tensor, target: Tensor, second: Second, weight: Tensor | None, options: Options) -> Tensor:
    """Returns the loss in float32, or float64, as the kernels define it."""
    target2, lams, lam = second
    ignore_index, label_smoothing, z_loss, reduction = options
    x = input if input.dtype == torch.float64 else input.float()
    weight = None if weight is None else weight.to(x.dtype)
    dense = target.is_floating_point()
    if not dense:
        # A row that does not count adds nothing, whatever its logits are: 0 times nan would be nan.
        ignored = target == ignore_index
        if target2 is not None:
            ignored = ignored & (target2 == ignore_index)
        x = torch.where(ignored.view(1) if x.dim() == 1 else ignored.unsqueeze(1), 0, x)

    def rows_of(labels: Tensor) -> Tensor:
        return _cross_entropy(x, labels, weight, _REDUCTION_NONE, ignore_index, label_smoothing)

    def weights_of(labels: Tensor) -> Tensor:
        ignored = labels == ignore_index
        of_class = x.new_ones(labels.shape) if weight is None else weight[labels.masked_fill(ignored, 0)]
        return of_class.masked_fill(ignored, 0)

    if dense:
        losses = rows_of(target.to(x.dtype))
        weights = torch.ones_like(losses)
    elif target2 is None:
        losses, weights = rows_of(target), weights_of(target)
    else:
        part = (
            lam if lams is None else lams.view(target.shape if x.dim() == 1 else [-1] + [1] * (target.dim() - 1))
        )
        losses = part * rows_of(target) + (1 - part) * rows_of(target2)
        weights = part * weights_of(target) + (1 - part) * weights_of(target2)
    if z_loss:
        square = x.logsumexp(0 if x.dim() == 1 else 1).square()
        losses = losses + z_loss * torch.where(weights == 0, 0, weights * square)
    if reduction == "none":
        return losses
    return losses.sum() / weights.sum() if reduction == "mean" else losses.sum()
