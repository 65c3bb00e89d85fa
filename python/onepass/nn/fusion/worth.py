"""Where our batch norm in a compiled graph is not slower than what Inductor makes of torch's (docs/fuse.md)."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

__all__ = ["why_not_worth"]


def why_not_worth(input: Tensor | None, steps: Collection[str]) -> str:
    """Says why a batch norm is Inductor's to compile; empty where ours was measured to be as fast or faster.

    Inductor makes one loop of torch's batch norm, the steps and what stands around them. An operator of ours is a
    border that no loop crosses. Behind a convolution, in either layout, that costs more than our pass saves.
    Of (N, C) Inductor sums over rows, which takes longer than our whole pass.

    Args:
        input: A tensor of the input's shape and layout, without memory.
        steps: The kinds of the steps that would go into its pass.
    """
    if input is not None and input.dim() > 2:
        return "Inductor is faster on inputs of more than 2 dimensions"
    return ""
