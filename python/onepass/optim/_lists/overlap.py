"""Finds tensors that share memory among those that a step takes by copy.

The core compares blocks of memory. It never sees strided views, whose elements may alternate in memory without
sharing any (the columns of one matrix). numpy solves that exactly, from addresses only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from onepass.optim._lists.arguments import Names
from onepass.optim._lists.kinds import hides_memory


class Extent(NamedTuple):
    """The memory of one entry of a step's lists: bytes begin .. end, only some of which the array may use."""

    begin: int
    end: int
    array: np.ndarray[Any, Any]
    names: Names
    which: int
    position: int
    written: bool
    is_copied: bool


class _Memory:
    """A tensor's memory as numpy takes it; nothing is read, so it may be on a GPU."""

    def __init__(self, tensor: Tensor) -> None:
        size = tensor.itemsize
        self.__array_interface__ = {
            "version": 3,
            "data": (tensor.data_ptr(), False),
            "shape": tuple(tensor.shape),
            "strides": tuple(size * stride for stride in tensor.stride()),
            "typestr": f"|V{size}",
        }


def extent_of(entry: Any, names: Names, which: int, position: int, written: bool, is_copied: bool) -> list[Extent]:
    """The entry's extent; none if it has no memory."""
    if isinstance(entry, Tensor) and _has_memory(entry):
        array = np.asarray(_Memory(entry))
    elif isinstance(entry, np.ndarray) and entry.size:
        array = entry
    else:
        return []
    begin = array.__array_interface__["data"][0]
    end = begin + array.itemsize
    for size, stride in zip(array.shape, array.strides, strict=True):
        begin += min((size - 1) * stride, 0)
        end += max((size - 1) * stride, 0)
    return [Extent(begin, end, array, names, which, position, written, is_copied)]


def _has_memory(tensor: Tensor) -> bool:
    # Sharded training frees the storage of parameters that are not needed; a tensor of zeros may have none.
    strided = tensor.layout == torch.strided and not tensor.is_meta and not hides_memory(tensor)
    return strided and tensor.numel() > 0 and tensor.untyped_storage().nbytes() > 0 and tensor.data_ptr() != 0


def check_apart(extents: list[Extent]) -> None:
    """Raises ValueError if an entry that is taken by copy shares memory with another, one of them written."""
    if not any(extent.is_copied for extent in extents):
        return
    near: list[Extent] = []
    for extent in sorted(extents, key=lambda one: one.begin):
        near = [other for other in near if other.end > extent.begin]
        for other in near:
            matters = (other.written or extent.written) and (other.is_copied or extent.is_copied)
            if matters and np.shares_memory(other.array, extent.array):
                first, second = sorted(
                    (other, extent), key=lambda one: (one.names.group or 0, one.which, one.position)
                )
                raise ValueError(
                    f"{first.names.full(first.which, first.position)} and "
                    f"{second.names.place(second.which, second.position)} must not share memory, got overlapping "
                    "strided views"
                )
        near.append(extent)
