"""Version counters, by which autograd notices that a tensor it kept was written."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["bump_versions"]


def _increments_lists() -> bool:
    """False for torch 2.4, which takes one tensor at a time."""
    try:
        torch._C._increment_version([torch.empty(0)])
    except (RuntimeError, TypeError):
        return False
    return True


def _bump_one_by_one(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if not tensor.is_inference():  # has no counter, and raises here
            torch.autograd.graph.increment_version(tensor)


# Tells autograd that these tensors were written in place, as torch's own in-place operations do. torch's function
# itself, with no Python around it in which the handler of a signal could raise instead.
bump_versions: Callable[[list[Tensor]], None] = (
    torch._C._increment_version if _increments_lists() else _bump_one_by_one
)
