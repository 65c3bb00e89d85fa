"""Version counters, by which autograd notices that a tensor that it kept was written."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["bump_versions"]


def _increments_lists() -> bool:
    """Says whether torch's function takes a list of tensors; that of torch 2.4 takes one tensor."""
    try:
        torch._C._increment_version([torch.empty(0)])
    except (RuntimeError, TypeError):
        return False
    return True


def _bump_one_by_one(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if not tensor.is_inference():  # has no counter: raises here
            torch.autograd.graph.increment_version(tensor)


# Tells autograd that tensors were written in place, as torch's own in-place operations do. It is torch's function
# itself: in Python code around it the handler of a signal could raise before the counters move.
bump_versions: Callable[[list[Tensor]], None] = (
    torch._C._increment_version if _increments_lists() else _bump_one_by_one
)
