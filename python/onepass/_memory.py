"""What is asked of a tensor's memory before it is copied or written."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["check_memory", "overlaps_itself"]


def overlaps_itself(tensor: Tensor) -> bool:
    """True if two elements may have one address, as in an expanded view."""
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return True
            reach += stride * (size - 1)
    return False


def check_memory(where: str, tensor: Tensor) -> None:
    """Raises ValueError if a plain tensor's storage ends before its last element, as after ``resize_(0)``.

    torch copies such a tensor without looking, and the process dies.

    Args:
        where: The argument, as errors name it.
        tensor: Any tensor. Kinds that have no storage of their own, and subclasses, pass.
    """
    if torch.compiler.is_compiling():
        return  # a traced tensor has no storage to ask
    if type(tensor) not in (Tensor, Parameter) or tensor.layout != torch.strided or not tensor.numel():
        return
    if tensor.is_meta or tensor._is_zerotensor() or not torch._C._has_storage(tensor):
        return
    last = sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    wanted = (tensor.storage_offset() + last + 1) * tensor.element_size()
    stored = tensor.untyped_storage().nbytes()
    if stored < wanted:
        raise ValueError(f"{where} must have memory, got a storage of {stored} bytes where {wanted} are needed")
