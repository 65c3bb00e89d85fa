"""Calls of the cross-entropy kernels on plain dense tensors: what they write into is allocated here."""

from __future__ import annotations

import torch
from torch import Tensor

from onepass import _native
from onepass.nn._call.buffers import statistics_dtype, workspace

__all__ = ["backward", "forward", "new_results", "rows_of"]


def rows_of(input: Tensor) -> int:
    """How many distributions over the classes the logits hold."""
    return 1 if input.dim() < 2 else input.numel() // input.shape[1]


def new_results(input: Tensor, target: Tensor, reduction: str) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for what `forward` returns; the totals are 0, since kernels add to them."""
    wide, rows, device = statistics_dtype(input), rows_of(input), input.device
    return (
        torch.empty(rows if reduction == "none" else (), dtype=wide, device=device),
        torch.empty((3 if target.is_floating_point() else 2, rows), dtype=wide, device=device),
        torch.zeros(_native.core.cross_entropy_totals, dtype=torch.float64, device=device),
    )


def forward(
    input: Tensor,
    target: Tensor,
    target2: Tensor | None,
    lams: Tensor | None,
    lam: float,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
    statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs the kernel.

    Args:
        input: Logits as `_layout.dense` gives them, not empty.
        target: int64 labels, contiguous; or probabilities, which lie as the input does.
        target2: As the labels, or None.
        lams: One number each sample in the arithmetic's dtype, or None for `lam`.
        lam: Of the first label.
        weight: Dense, of shape (C), or None.
        ignore_index: The label that does not count.
        label_smoothing: 0 to 1.
        z_loss: Factor of the squared log-sum-exp.
        reduction: none, mean or sum.
        statistics: Whether totals are to hold them.

    Returns:
        The loss (of shape (rows,) without reduction), what backward needs of each row, and the totals.
    """
    core, threads = _native.core, torch.get_num_threads()
    dense = target.is_floating_point()
    loss, saved, totals = new_results(input, target, reduction)
    core.cross_entropy_forward(
        input,
        None if dense else target,
        target2,
        lam if lams is None else lams,
        target if dense else None,
        weight,
        ignore_index,
        label_smoothing,
        z_loss,
        reduction,
        statistics,
        loss,
        saved,
        totals,
        workspace(input, lambda: core.cross_entropy_workspace(input, statistics, threads)),
        threads,
    )
    return loss, saved, totals


def backward(
    grad: Tensor,
    input: Tensor,
    saved: Tensor,
    totals: Tensor,
    target: Tensor,
    target2: Tensor | None,
    lams: Tensor | None,
    lam: float,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
    inplace: bool = False,
) -> Tensor:
    """Runs the kernel: the gradient of the logits, which takes their place if `inplace`."""
    core, threads = _native.core, torch.get_num_threads()
    dense = target.is_floating_point()
    dx = input.detach() if inplace else torch.empty_like(input)
    core.cross_entropy_backward(
        grad.contiguous(),
        input,
        dx,
        None if dense else target,
        target2,
        lam if lams is None else lams,
        target if dense else None,
        weight,
        ignore_index,
        label_smoothing,
        z_loss,
        reduction,
        saved,
        totals,
        workspace(input, lambda: core.cross_entropy_workspace(input, False, threads)),
        threads,
    )
    if inplace:
        # What else was computed from the logits must notice that they are gone.
        torch.autograd.graph.increment_version(input)
    return dx
