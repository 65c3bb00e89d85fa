"""The parity rule, by which results are compared, and the measures that it uses.

A result may be twice as far from the float64 result as torch's is, plus one unit in the last place of the element:
err(ours, float64) <= 2 * err(torch, float64) + 1 ulp. "torch" is its plain single-tensor loop.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# The multiple of torch's error that is allowed: rounding errors of equal size may add up or cancel.
FACTOR = 2


class Verdict(NamedTuple):
    """Holds what the rule says of one tensor, and the element that is nearest to its limit, or furthest beyond."""

    ok: bool
    worst: int
    """Flat index of that element."""
    error: float
    """Our error there."""
    limit: float
    """The error allowed there."""
    torch_error: float
    """torch's largest finite error in the whole tensor."""

    @property
    def share(self) -> float:
        """The error divided by the limit, which is 0 only where the exact result is nan."""
        if self.limit == 0:
            return 0.0 if self.error == 0 else math.inf
        return self.error / self.limit


def ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Computes the distance to the next larger number of a dtype, for each element.

    Args:
        value: Numbers, of any shape.
        dtype: The dtype whose spacing counts.

    Returns:
        The distances, in float64; at least that of the smallest normal number.
    """
    info = torch.finfo(dtype)
    magnitude = value.abs().to(torch.float64).clamp(min=info.smallest_normal, max=info.max)
    return torch.exp2(torch.floor(torch.log2(magnitude))) * info.eps


def error(result: Tensor, exact: Tensor) -> Tensor:
    """Computes the absolute error of each element; 0 where both are the same infinity, or both nan.

    Args:
        result: What is judged, of any dtype.
        exact: The right result, of the same shape.

    Returns:
        The errors, in float64; infinity where only one of the two is nan or infinite.
    """
    wide = result.detach().to(device="cpu", dtype=torch.float64)
    exact = exact.detach().to(device="cpu", dtype=torch.float64)
    same = (wide == exact) | (wide.isnan() & exact.isnan())
    return torch.where(same, 0.0, (wide - exact).abs().nan_to_num(nan=torch.inf, posinf=torch.inf))


def within(ours: Tensor, torchs: Tensor, exact: Tensor) -> Verdict:
    """Applies the rule to one tensor.

    Args:
        ours: Our result, of any shape.
        torchs: torch's result from the same inputs, of the same shape and dtype.
        exact: The result in float64, of the same shape.

    Returns:
        The verdict; an empty tensor keeps the rule.

    Raises:
        ValueError: Shapes or dtypes differ.
    """
    if not ours.shape == torchs.shape == exact.shape:
        raise ValueError(
            f"within: ours, torchs and exact must have one shape, got {tuple(ours.shape)}, "
            f"{tuple(torchs.shape)} and {tuple(exact.shape)}"
        )
    if ours.dtype != torchs.dtype:
        raise ValueError(f"within: ours must have torchs' dtype {torchs.dtype}, got {ours.dtype}")
    if ours.numel() == 0:
        return Verdict(True, 0, 0.0, 0.0, 0.0)
    theirs = error(torchs, exact)
    # torch may hit a single element by luck, so its largest finite error counts for the whole tensor. (A tensor of
    # one element should therefore be judged together with others.)
    finite = theirs[theirs.isfinite()]
    torch_error = float(finite.max()) if finite.numel() else 0.0
    mine = error(ours, exact).flatten()
    limit = FACTOR * torch_error + ulp(exact.detach().cpu(), ours.dtype).nan_to_num(nan=0.0).flatten()
    worst = int((mine / limit).nan_to_num(nan=0.0, posinf=torch.inf).argmax())
    return Verdict(bool((mine <= limit).all()), worst, float(mine[worst]), float(limit[worst]), torch_error)
