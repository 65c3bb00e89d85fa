"""Calls of the dropout kernel on plain tensors: layouts, and what it writes into."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from onepass import _native
from onepass.nn._call.layout import is_channels_last
from onepass.nn._call.seeds import Seed

__all__ = ["Options", "can_walk", "gradient_of", "options_of", "run", "walkable"]


class Options(NamedTuple):
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
    part: tuple[int, ...] | None = None
    """Where the draws are among those of a whole tensor: the first one, sizes, strides; None for the whole."""


# The same object for the same options: a call on a small tensor would notice that one is made.
options_of = lru_cache(maxsize=256)(Options)


@lru_cache(maxsize=256)
def gradient_of(options: Options) -> Options:
    """Returns the options of the derivative."""
    return options._replace(gradient=True)


def run(
    input: Tensor, residual: Tensor | None, seed: Seed, options: Options, inplace: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Runs the kernel on plain tensors; the result has the strides that `walkable` gives the input.

    Returns:
        The result, and the seed's tensor unless it is a number.
    """
    input = walkable(input, options)
    output = input if inplace else torch.empty_like(input)
    if residual is not None and residual.stride() != input.stride():
        residual = torch.empty_like(input).copy_(residual)
    table = None
    if options.planes or options.shared:
        table = torch.empty(_draws(input, options), dtype=torch.uint8, device=input.device)
    drawn = _native.core.dropout(
        x=input,
        threads=torch.get_num_threads(),
        planes=options.planes,
        shared=options.shared,
        y=output,
        residual=residual,
        p=options.p,
        scaling=options.scaling,
        gradient=options.gradient,
        table=table,
        seed=seed,
        **({} if options.part is None else {"part": options.part}),
    )
    return output, drawn


def can_walk(input: Tensor, options: Options) -> bool:
    """Says whether the kernel takes the input with its strides."""
    if input.is_contiguous():
        return True
    if options.part is not None or (options.shared and not options.planes):
        return False
    if is_channels_last(input):
        return True
    return not options.planes and input.dim() >= 2 and input.transpose(-1, -2).is_contiguous()


def walkable(input: Tensor, options: Options) -> Tensor:
    """Returns the input itself if the kernel takes its strides, else a contiguous copy."""
    return input if can_walk(input, options) else input.contiguous()


def _draws(input: Tensor, options: Options) -> int:
    examples = 1 if options.shared else input.shape[0]
    return examples * (input.shape[1] if options.planes else input.numel() // input.shape[0])
