"""Decides about a step from the gradients of all ranks: one sum of a few float64 numbers, no wait for a GPU."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from onepass.optim._lists.norms import NONFINITE, NORM, measure

__all__ = ["Decision", "Shares", "decide", "sum_over"]

# A float that multiplies gradients becomes 0 below this; a factor of 0 would be no scale.
_LEAST = 1e-300


class Shares(NamedTuple):
    """Numbers of this rank that are added to those of the others."""

    values: Tensor
    """float64. Of gradients: the square of their norm, and how many elements are infinite or nan."""

    @staticmethod
    def of(grads: list[Tensor], device: torch.device) -> Shares:
        """Measures gradients in one pass over their memory.

        Args:
            grads: Those that this rank counts, none of which is empty.
            device: Where the result is, should there be none.
        """
        if not grads:
            return Shares(torch.zeros(2, dtype=torch.float64, device=device))
        dense = [grad if grad.is_contiguous() else grad.contiguous() for grad in grads]
        control, _ = measure("grad_norm", dense)
        return Shares(torch.stack([control[NORM].square(), control[NONFINITE]]))


class Decision(NamedTuple):
    """What all ranks do in a step."""

    grad_scale: Any
    """What gradients are divided by, or None."""
    found_inf: Any
    """Not 0 if the step is skipped; None if it cannot be."""
    norm: Tensor | None
    """The norm of all unscaled gradients, if it was measured."""
    share: Tensor | None
    """What clipping multiplies unscaled gradients by, or None."""


def sum_over(group: Any, shares: Shares) -> Shares:
    """Adds the numbers of all ranks of a group, in place.

    Args:
        group: A process group.
        shares: This rank's numbers.
    """
    dist.all_reduce(shares.values, group=group)
    return shares


def decide(
    shares: Shares, max_grad_norm: float | None, skip_nonfinite: bool, grad_scale: Any, found_inf: Any
) -> Decision:
    """Decides as the core does in one process (csrc/math/clip.h).

    Args:
        shares: The sums over all ranks.
        max_grad_norm: The largest norm that is left as it is, or None.
        skip_nonfinite: Whether a gradient that is not finite skips the step.
        grad_scale: What the gradients are divided by, or None.
        found_inf: Not 0 if the step is to be skipped anyway, or None.
    """
    squares, nonfinite = shares.values
    norm = squares.sqrt()
    if grad_scale is not None:
        norm = norm / grad_scale
    scale, share = grad_scale, None
    if max_grad_norm is not None:
        share = (max_grad_norm / (norm + 1e-6)).clamp(_LEAST, 1.0)
        scale = (1.0 if grad_scale is None else grad_scale) / share
    found = found_inf
    if skip_nonfinite:
        overflowed = ((nonfinite > 0) | ~norm.isfinite()).float()
        found = (
            overflowed
            if found_inf is None
            else torch.as_tensor(found_inf, device=norm.device).float() + overflowed
        )
    return Decision(scale, found, norm, share)
