"""Kinds of tensors: these tests say whether the kernels can take a tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["hides_memory", "is_fake", "is_plain", "is_sharded"]

_PLAIN = (Tensor, torch.nn.Parameter)


def is_fake(value: Any) -> bool:
    """True for a tensor of FakeTensorMode, which has shape, dtype and device, and no memory."""
    return isinstance(value, FakeTensor)


def is_plain(tensor: Tensor) -> bool:
    """True for torch's own class, and for a parameter."""
    return type(tensor) in _PLAIN


def is_sharded(value: Any) -> bool:
    """True for a DTensor; its module, which takes long to load, need not be there."""
    return type(value) not in _PLAIN and any(
        base.__name__ == "DTensor" and base.__module__.startswith("torch.distributed")
        for base in type(value).__mro__
    )


def hides_memory(tensor: Tensor) -> bool:
    """True if operations on the tensor go elsewhere first: to a subclass, or to a transformation of torch.func.

    A subclass is recognised by a __torch_dispatch__ that is not torch's disabled one, as csrc/bind/core/tensor.cpp
    does it.
    """
    if type(tensor) in _PLAIN:
        return torch._is_functional_tensor(tensor)
    dispatch = getattr(type(tensor), "__torch_dispatch__", None)
    return dispatch is not None and getattr(dispatch, "__name__", "") != "_disabled_torch_dispatch_impl"
