"""What layer and RMS normalisation refuse before they compute anything."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from onepass._arguments import told
from onepass.nn._call.checks import (
    OPTIONAL,
    check_dense,
    check_number,
    check_optional,
    check_probability,
    check_tensor,
)

__all__ = ["check", "check_affine", "shape_of"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def shape_of(function: str, normalized_shape: Any) -> tuple[int, ...]:
    """Returns the sizes of a row's dimensions as a tuple; raises unless they are at least one integer."""
    if type(normalized_shape) is tuple and normalized_shape and all(type(one) is int for one in normalized_shape):
        return normalized_shape
    if isinstance(normalized_shape, Integral) or not isinstance(normalized_shape, Iterable):
        raise TypeError(f"{function}: normalized_shape must be a list of integers, got {told(normalized_shape)}")
    try:
        # A size that a compiler or an exporter has not fixed stays what it is.
        shape: tuple[Any, ...] = tuple(
            one if isinstance(one, torch.SymInt) else operator.index(one) for one in normalized_shape
        )
    except TypeError:
        got = told(normalized_shape)
        raise TypeError(f"{function}: normalized_shape must be a list of integers, got {got}") from None
    if not shape:
        got = told(normalized_shape)
        raise ValueError(f"{function}: normalized_shape must have at least 1 dimension, got {got}")
    return shape


def check(
    function: str,
    input: Tensor,
    shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    dropout: float,
) -> int:
    """Raises for what the core does not check; returns the input's number of elements."""
    # Types first, here and below: a call on a small tensor would notice each further function.
    if type(weight) not in OPTIONAL or type(bias) not in OPTIONAL or type(residual) not in OPTIONAL:
        check_optional(function, weight=weight, bias=bias, residual=residual)
    if type(input) is not Tensor:
        check_tensor(function, "input", input)
    if input.layout != torch.strided or input.is_nested:
        check_dense(function, input=input)
    if input.dtype not in _DTYPES:
        raise TypeError(
            f"{function}: input must be torch.float32, torch.float64, torch.bfloat16 or torch.float16, got "
            f"{input.dtype}"
        )
    if input.shape[-len(shape) :] != shape:
        raise ValueError(
            f"{function}: input must end in normalized_shape {list(shape)}, got shape {list(input.shape)}"
        )
    if (weight is not None and weight.shape != shape) or (bias is not None and bias.shape != shape):
        check_affine(function, shape, weight=weight, bias=bias)
    if type(eps) is not float:
        check_number(function, "eps", eps)
    if eps != eps:
        raise ValueError(f"{function}: eps must be a number, got {eps}")
    if type(dropout) is not float or not 0 <= dropout <= 1:
        check_probability(function, "dropout", dropout)
    if residual is None:
        if dropout:
            raise ValueError(f"{function}: residual must be given with dropout={dropout}, got None")
    elif residual.shape != input.shape or residual.dtype != input.dtype or residual.device != input.device:
        raise ValueError(
            f"{function}: residual must have input's dtype and shape {input.dtype} {list(input.shape)} on "
            f"{input.device}, got {residual.dtype} {list(residual.shape)} on {residual.device}"
        )
    return input.numel()


def check_affine(function: str, shape: tuple[int, ...], **tensors: Tensor | None) -> None:
    """Raises ValueError unless each tensor that is given has the shape of a row."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != shape:
            raise ValueError(
                f"{function}: {name} must have normalized_shape {list(shape)}, got shape {list(tensor.shape)}"
            )
