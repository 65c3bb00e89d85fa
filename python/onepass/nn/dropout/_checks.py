"""What dropout refuses before it computes anything."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from onepass._memory import overlaps_itself
from onepass.nn._call.checks import check_dense, check_optional, check_probability, check_tensor

__all__ = ["check_dimensions", "check_inplace", "check_kinds", "check_tensors"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_kinds(function: str, input: Tensor, p: float, residual: Tensor | None) -> None:
    """Raises for what no call takes, also one that has nothing to compute."""
    check_tensor(function, "input", input)
    check_optional(function, residual=residual)
    check_probability(function, "p", p)


def check_tensors(function: str, input: Tensor, residual: Tensor | None) -> None:
    """Raises for tensors with which nothing can be computed."""
    check_dense(function, input=input, residual=residual)
    if input.dtype not in _DTYPES:
        names = "torch.float32, torch.float64, torch.bfloat16 or torch.float16"
        raise TypeError(f"{function}: input must be {names}, got {input.dtype}")
    if residual is not None:
        if residual.dtype != input.dtype:
            raise TypeError(f"{function}: residual must be {input.dtype} like input, got {residual.dtype}")
        if residual.shape != input.shape or residual.device != input.device:
            raise ValueError(
                f"{function}: residual must have input's shape {tuple(input.shape)} on {input.device}, "
                f"got {tuple(residual.shape)} on {residual.device}"
            )


def check_inplace(function: str, input: Tensor, residual: Tensor | None) -> None:
    """Raises before the kernel has changed anything what torch would raise afterwards."""
    if not input.is_contiguous() and overlaps_itself(input):
        raise RuntimeError(
            f"{function}: input must not share memory between its elements with inplace=True, got strides "
            f"{input.stride()} for shape {tuple(input.shape)}"
        )
    if input.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(f"{function}: input must not be an inference tensor with inplace=True, got one")
    if not torch.is_grad_enabled():
        return
    if not (input.requires_grad or (residual is not None and residual.requires_grad)):
        return
    autograd = cast(Any, torch._C)._autograd
    # Views that autograd cannot write through, such as what chunk gives.
    if input._is_view() and (made := autograd._get_creation_meta(input)) != autograd.CreationMeta.DEFAULT:
        raise RuntimeError(
            f"{function}: input must not be one of many views or a view made without gradients with inplace=True, "
            f"got {made.name}"
        )
    base = input._base if input._is_view() else None
    if any(one is not None and one.is_leaf and one.requires_grad for one in (input, base)):
        kind = "a leaf" if base is None else "a view of a leaf"
        raise RuntimeError(f"{function}: input must not be {kind} that requires grad with inplace=True, got one")


def check_dimensions(function: str, input: Tensor, wanted: tuple[int, int]) -> None:
    """Raises for an input with another number of dimensions."""
    check_tensor(function, "input", input)
    if input.dim() not in wanted:
        raise ValueError(f"{function}: input must have {wanted[0]} or {wanted[1]} dimensions, got {input.dim()}")
