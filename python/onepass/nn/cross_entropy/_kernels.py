"""Calls of the cross-entropy kernels on plain dense tensors: what they write into is allocated here."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from onepass import _native
from onepass.nn._call.buffers import new_workspace, statistics_dtype

__all__ = [
    "FIRST_ALONE",
    "Options",
    "Result",
    "Second",
    "backward",
    "forward",
    "new_result",
    "options_of",
    "rows_of",
]


class Options(NamedTuple):
    """What a call does, tensors aside."""

    ignore_index: int
    """The label that does not count."""
    label_smoothing: float
    """0 to 1."""
    z_loss: float
    """Factor of the squared log-sum-exp."""
    reduction: str
    """``"none"``, ``"mean"`` or ``"sum"``."""


# The same object for the same options: a call on a small tensor would notice that one is made.
options_of = lru_cache(maxsize=256)(Options)


class Second(NamedTuple):
    """A second label for each row, and how much the first one weighs."""

    target: Tensor | None
    """int64 labels, contiguous; None if there are only first labels."""
    lams: Tensor | None
    """The first label's weight, one number each sample in the arithmetic's dtype; None for `lam`."""
    lam: float
    """The first label's weight."""


FIRST_ALONE = Second(None, None, 1.0)


class Result(NamedTuple):
    """What the kernel writes."""

    loss: Tensor
    """Of shape (), or (rows,) without reduction."""
    saved: Tensor
    """What backward needs of each row."""
    totals: Tensor
    """Sums over the rows, of which backward needs some (csrc/kernels/loss/cross_entropy.h)."""


def rows_of(input: Tensor) -> int:
    """Returns how many distributions over the classes the logits hold."""
    return 1 if input.dim() < 2 else input.numel() // input.shape[1]


def new_result(input: Tensor, target: Tensor, reduction: str) -> Result:
    """Allocates memory for what `forward` returns; the totals are 0, since kernels add to them."""
    wide, rows, device = statistics_dtype(input), rows_of(input), input.device
    return Result(
        torch.empty(rows if reduction == "none" else (), dtype=wide, device=device),
        torch.empty((3 if target.is_floating_point() else 2, rows), dtype=wide, device=device),
        torch.zeros(_native.core.cross_entropy_totals, dtype=torch.float64, device=device),
    )


def forward(
    input: Tensor,
    target: Tensor,
    second: Second,
    weight: Tensor | None,
    options: Options,
    statistics: bool,
) -> Result:
    """Runs the kernel.

    Args:
        input: Logits as `layout.dense` gives them, not empty.
        target: int64 labels, contiguous; or probabilities, with the input's strides.
        second: The second labels.
        weight: Dense, of shape (C), or None.
        options: What to compute.
        statistics: Whether totals are to hold those of the predictions.
    """
    core, threads = _native.core, torch.get_num_threads()
    dense = target.is_floating_point()
    result = new_result(input, target, options.reduction)
    size = 0 if input.is_cpu else core.cross_entropy_workspace(x=input, threads=threads, statistics=statistics)
    core.cross_entropy_forward(
        x=input,
        threads=threads,
        target=None if dense else target,
        target2=second.target,
        lam=second.lam if second.lams is None else second.lams,
        probabilities=target if dense else None,
        weight=weight,
        ignore_index=options.ignore_index,
        label_smoothing=options.label_smoothing,
        z_loss=options.z_loss,
        reduction=options.reduction,
        statistics=statistics,
        loss=result.loss,
        saved=result.saved,
        totals=result.totals,
        workspace=new_workspace(input, size) if size else None,
    )
    return result


def backward(
    grad: Tensor,
    input: Tensor,
    saved: Tensor,
    totals: Tensor,
    target: Tensor,
    second: Second,
    weight: Tensor | None,
    options: Options,
    inplace: bool = False,
) -> Tensor:
    """Runs the kernel: the gradient of the logits, which takes their place if `inplace`."""
    core, threads = _native.core, torch.get_num_threads()
    dense = target.is_floating_point()
    dx = input.detach() if inplace else torch.empty_like(input)
    size = 0 if input.is_cpu else core.cross_entropy_workspace(x=input, threads=threads, statistics=False)
    core.cross_entropy_backward(
        x=input,
        threads=threads,
        dx=dx,
        target=None if dense else target,
        target2=second.target,
        lam=second.lam if second.lams is None else second.lams,
        probabilities=target if dense else None,
        weight=weight,
        ignore_index=options.ignore_index,
        label_smoothing=options.label_smoothing,
        z_loss=options.z_loss,
        reduction=options.reduction,
        grad=grad.contiguous(),
        saved=saved,
        totals=totals,
        workspace=new_workspace(input, size) if size else None,
    )
    if inplace:
        # What else was computed from the logits must notice that they are gone.
        torch.autograd.graph.increment_version(input)
    return dx
