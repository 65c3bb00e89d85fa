"""The two memory layouts that the kernels walk, channels first and channels last, and copies into them."""

from __future__ import annotations

import torch
from torch import Tensor

from onepass._memory import check_memory

__all__ = ["dense", "in_layout_of", "is_channels_last"]

# By the number of dimensions; torch has names for these.
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def dense(input: Tensor, where: str) -> Tensor:
    """Returns the input itself if it is contiguous, or is so with its channels moved to the end; else a copy.

    The copy has the nearer layout: a part of a channels_last tensor becomes channels_last. `where` names the
    argument: ValueError if it has no memory.
    """
    if _is_dense(input):
        return input
    check_memory(where, input)
    copy = input.clone()  # keeps the order of the strides
    return copy if _is_dense(copy) else input.contiguous()


def in_layout_of(tensor: Tensor, like: Tensor, where: str) -> Tensor:
    """Returns the tensor itself if it has the strides of `like`, which is dense; else a copy that has them.

    `where` names the argument: ValueError if it has no memory.
    """
    if tensor.shape != like.shape or tensor.stride() == like.stride():
        return tensor  # the core refuses another shape, and names the argument
    check_memory(where, tensor)
    if like.is_contiguous():
        return tensor.contiguous()
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


def is_channels_last(tensor: Tensor) -> bool:
    """Says whether a tensor of any number of dimensions is contiguous with its channels moved to the end."""
    # A view of what wants a gradient takes 50 us inside a training step, where the caches hold other things.
    channels_last = _CHANNELS_LAST.get(tensor.dim())
    if channels_last is not None:
        return tensor.is_contiguous(memory_format=channels_last)
    return tensor.dim() > 2 and tensor.movedim(1, -1).is_contiguous()


def _is_dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or is_channels_last(tensor)
