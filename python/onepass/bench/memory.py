"""What autograd keeps between a forward and a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

__all__ = ["kept_bytes"]


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
