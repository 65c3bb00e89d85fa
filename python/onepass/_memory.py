"""What is asked of a tensor's memory before it is copied or written."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter

__all__ = ["LARGE", "check_large", "check_memory", "lacks_memory", "overlaps_itself"]

# Tensors of at least that many elements are asked for their memory before a kernel takes them as they are.
LARGE = 2**18


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

    torch copies such a tensor without looking, and the process dies; a kernel reads what is behind the storage.

    Args:
        where: The argument, as errors name it.
        tensor: Any tensor. Kinds that have no storage of their own, and subclasses, pass.
    """
    found = lacks_memory(tensor)
    if found is not None:
        stored, wanted = found
        raise ValueError(f"{where} must have memory, got a storage of {stored} bytes where {wanted} are needed")


def check_large(function: str, **tensors: Tensor | None) -> None:
    """Calls `check_memory` for each argument of a function that is given."""
    for argument, tensor in tensors.items():
        if tensor is not None:
            check_memory(f"{function}: {argument}", tensor)


def lacks_memory(tensor: Tensor) -> tuple[int, int] | None:
    """Returns the bytes of a plain tensor's storage, and those that it needs; None if they are enough.

    It takes 0.5 us on a contiguous tensor, which a call on a small one would notice.
    """
    if torch.compiler.is_compiling():
        return None  # a traced tensor has no storage to ask
    if type(tensor) not in (Tensor, Parameter):
        return None
    try:
        if tensor.is_contiguous():
            wanted = (tensor.storage_offset() + tensor.numel()) * tensor.element_size()
            if tensor.untyped_storage().nbytes() >= wanted:
                return None
    except RuntimeError:
        pass  # a kind that has no storage, or no strides
    if tensor.layout != torch.strided or not tensor.numel():
        return None
    if tensor.is_meta or tensor._is_zerotensor() or not torch._C._has_storage(tensor):
        return None
    last = sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
    wanted = (tensor.storage_offset() + last + 1) * tensor.element_size()
    stored = tensor.untyped_storage().nbytes()
    return None if stored >= wanted else (int(stored), int(wanted))
