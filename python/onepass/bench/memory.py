"""Memory around an operation: what autograd keeps of it, and pages that are there before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

__all__ = ["kept_bytes", "touch_heap"]


def kept_bytes(run: Callable[[], Tensor], besides: Iterable[Tensor] = ()) -> int:
    """Bytes of all memory that the derivative of a call keeps, each block once.

    Args:
        run: The call; its result holds the derivative.
        besides: Tensors whose memory does not count, such as parameters.
    """
    blocks: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        blocks[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    for tensor in besides:
        blocks.pop(tensor.untyped_storage().data_ptr(), None)
    # Only now may the memory of the blocks be used again.
    del output
    return sum(blocks.values())


def touch_heap(like: Tensor, tensors: int) -> None:
    """Lets every page that malloc will hand out have been written once.

    Each step makes new tensors, and freed memory is used again in an order of malloc's own: for dozens of rounds
    some calls would meet fresh pages, which cost more than the operation.

    Args:
        like: A tensor as the steps make them.
        tensors: More than any competitor has at a time.
    """
    touched = [torch.zeros(like.numel(), dtype=like.dtype, device=like.device) for _ in range(tensors)]
    touched.clear()
