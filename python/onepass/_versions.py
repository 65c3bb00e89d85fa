"""Version counters, by which autograd notices that a tensor it kept was written."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bump_versions"]


def _increments_lists() -> bool:
    try:
        torch.autograd.graph.increment_version([torch.empty(0)])
    except RuntimeError:
        return False
    return True


# torch 2.4 takes one tensor at a time.
_INCREMENTS_LISTS = _increments_lists()


def bump_versions(tensors: list[Tensor]) -> None:
    """Tells autograd that these tensors were written in place, as torch's own in-place operations do."""
    if _INCREMENTS_LISTS:
        torch.autograd.graph.increment_version(tensors)
        return
    for tensor in tensors:
        torch.autograd.graph.increment_version(tensor)
