"""Where our batch norm in a compiled graph is not slower than what Inductor makes of torch's (docs/fuse.md)."""

from __future__ import annotations

from collections.abc import Collection

from onepass.nn.fusion.chain import DROPOUT

__all__ = ["why_not_worth"]


def why_not_worth(steps: Collection[str]) -> str:
    """Says why a batch norm is Inductor's to compile; empty where ours was measured to be faster.

    Inductor makes one loop of torch's batch norm, the steps and what stands around them. An operator of ours is a
    border that no loop crosses, and its call takes longer than that of a loop. Behind convolutions, in either
    layout, and on (N, C) that costs as much as our pass saves, or more. A dropout turns it: Inductor draws a
    random number for each element, which takes longer than all the rest.

    Args:
        steps: The kinds of the steps that would go into its pass; a dropout only if it drops.
    """
    return "" if DROPOUT in steps else "Inductor is faster without a dropout"
