"""Memory around an operation: what autograd keeps of it, and pages that exist before it is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

__all__ = ["kept_bytes", "touch_heap"]


def kept_bytes(run: Callable[[], Tensor], besides: Iterable[Tensor] = ()) -> int:
    """Measures the memory that the derivative of a call keeps, each block once.

    Args:
        run: The call; its result holds the derivative.
        besides: Tensors whose memory does not count, such as parameters.

    Returns:
        The bytes.
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
    # Only now, as the blocks are told apart by their addresses, may their memory be used again.
    del output
    return sum(blocks.values())


def touch_heap(like: Tensor, tensors: int) -> None:
    """Writes once to every page that malloc will hand out.

    Each step makes new tensors, and malloc reuses freed memory in an order of its own. Without this, some calls of
    dozens of rounds would get fresh pages, which cost more than the operation.

    Args:
        like: A tensor of the kind that the steps make.
        tensors: A number above what any competitor has at a time.
    """
    touched = [torch.zeros(like.numel(), dtype=like.dtype, device=like.device) for _ in range(tensors)]
    touched.clear()
