"""Copies tensors whose memory layout differs from their parameter's to a layout that the kernels take.

The kernels walk memory, not indices: equal positions in memory must be equal elements of the parameter, its
gradient and its states, and the parameter must fill one block. Where that is not so (a channels_last parameter
with a contiguous gradient, a parameter that is a strided view) the step runs on copies and copies back: slower,
and right.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from onepass._memory import check_memory, lacks_memory, overlaps_itself
from onepass.optim._lists.arguments import Names
from onepass.optim._lists.overlap import Extent, extent_of


def is_dense(tensor: Tensor) -> bool:
    """True if the elements fill one block of memory in some order of the dimensions, none twice."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return tensor.numel() == 0
            expected *= size
    return True


def same_layout(tensor: Tensor, like: Tensor) -> bool:
    """True if equal indices have equal offsets; dimensions of size 1 do not count."""
    return tensor.shape == like.shape and (
        tensor.numel() <= 1
        or all(
            a == b or size == 1 for a, b, size in zip(tensor.stride(), like.stride(), tensor.shape, strict=True)
        )
    )


def laid_out_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy of `tensor`, its dtype kept, with the layout of the dense tensor `like`."""
    return torch.empty_like(like, dtype=tensor.dtype, device=tensor.device).copy_(tensor)


class Stand(NamedTuple):
    """A tensor and the copy that stands in for it during the step."""

    tensor: Tensor
    copy: Tensor


def regular(
    lists: list[list[Any]], writable: list[bool], names: Names
) -> tuple[list[list[Any]], list[Stand], list[Extent]]:
    """Replaces tensors that the kernels cannot take as they are stored.

    Args:
        lists: Lists of equal length; the first holds the parameters. Entries that are not torch tensors, or whose
            shape is not their parameter's, pass through (the core accepts or rejects them).
        writable: Whether the step writes each list.
        names: Names the lists in errors.

    Returns:
        The lists with copies in place of irregular entries; what must be copied back afterwards; and the memory
        of all entries, for `check_apart` (which the core does for entries that it gets as they are).

    Raises:
        ValueError: A tensor that the step writes has several elements at one address (an expanded view).
    """
    replaced = [list(entries) for entries in lists]
    back: list[Stand] = []
    extents: list[Extent] = []
    if any(len(entries) != len(lists[0]) for entries in lists):
        return replaced, back, extents  # the core says which list it is
    for i, param in enumerate(lists[0]):
        # The layout that most tensors of the row already have: the parameter's own if it can be.
        layout = param
        if _plain(param) and not is_dense(param):
            check_memory(names.full(0, i), param)
            layout = param.detach().contiguous()
        for k, entries in enumerate(replaced):
            entry = entries[i]
            irregular = _is_irregular(entry, param, layout)
            # Of what is not copied the core sees a freed storage, not one that was cut short.
            if _plain(entry) and (found := lacks_memory(entry)) is not None and (irregular or found[0]):
                check_memory(names.full(k, i), entry)
            extents += extent_of(entry, names, k, i, writable[k], irregular)
            if not irregular:
                continue
            # A ZeroTensor stores nothing, and zeroing a gradient leaves it one.
            written = writable[k] and not (entry._is_zerotensor() and names.lists[k] == "grads")
            if written and entry._is_zerotensor():
                raise ValueError(f"{names.full(k, i)} must have memory, got a ZeroTensor, which cannot be written")
            if written and overlaps_itself(entry):
                raise ValueError(
                    f"{names.full(k, i)} must have one place in memory for each element, got strides "
                    f"{tuple(entry.stride())} for shape {tuple(entry.shape)}"
                )
            entries[i] = laid_out_like(entry.detach(), layout)
            if written:
                back.append(Stand(entry, entries[i]))
    return replaced, back, extents


def _is_irregular(entry: Any, param: Any, layout: Any) -> bool:
    if not (_plain(param) and _plain(entry) and entry.shape == param.shape):
        return False
    return not same_layout(entry, layout) or entry.is_neg() or entry._is_zerotensor()


def _plain(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
