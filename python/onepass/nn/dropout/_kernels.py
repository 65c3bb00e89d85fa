"""Calls of the dropout kernel on plain tensors: layouts, and what it writes into."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from onepass import _native
from onepass.nn._call.seeds import Seed

__all__ = ["How", "can_walk", "run", "walkable"]


class How(NamedTuple):
    """What is done to elements, and which of them share a draw."""

    p: float
    scaling: str
    """``"inverted"``, ``"test_time"``, ``"alpha"``."""
    gradient: bool
    """Of the result by the input, in place of the result."""
    planes: bool
    """One draw for all of input[n, c]."""
    shared: bool
    """The draws of input[0] for all other input[n]."""


def run(
    input: Tensor, residual: Tensor | None, seed: Seed, how: How, inplace: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Runs the kernel on plain tensors; the result lies as `walkable` makes the input lie.

    Returns:
        The result, and the seed's tensor unless it is a number.
    """
    p, scaling, gradient, planes, shared = how
    input = walkable(input, how)
    output = input if inplace else torch.empty_like(input)
    if residual is not None and residual.stride() != input.stride():
        residual = torch.empty_like(input).copy_(residual)
    table = None
    if planes or shared:
        table = torch.empty(_draws(input, planes, shared), dtype=torch.uint8, device=input.device)
    # By position, in the order of the stub: names cost a microsecond.
    drawn = _native.core.dropout(
        input,
        output,
        residual,
        p,
        scaling,
        gradient,
        seed,
        planes,
        shared,
        table,
        torch.get_num_threads(),
    )
    return output, drawn


def can_walk(input: Tensor, how: How) -> bool:
    """Whether the kernel takes the input as it lies in memory."""
    if input.is_contiguous():
        return True
    if how.shared and not how.planes:
        return False
    # Channels last in any number of dimensions.
    if input.dim() > 2 and input.movedim(1, -1).is_contiguous():
        return True
    return not how.planes and input.dim() >= 2 and input.transpose(-1, -2).is_contiguous()


def walkable(input: Tensor, how: How) -> Tensor:
    """The input itself if the kernel takes it as it lies in memory, else a contiguous copy."""
    return input if can_walk(input, how) else input.contiguous()


def _draws(input: Tensor, planes: bool, shared: bool) -> int:
    examples = 1 if shared else input.shape[0]
    return examples * (input.shape[1] if planes else input.numel() // input.shape[0])
