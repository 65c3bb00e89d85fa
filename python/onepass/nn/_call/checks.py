"""Checks of types, ranges and memory that name the argument."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from onepass._arguments import told

__all__ = [
    "OPTIONAL",
    "check_dense",
    "check_generator",
    "check_integer",
    "check_number",
    "check_optional",
    "check_probability",
    "check_scaling",
    "check_tensor",
]

# Types that a compiler puts in the place of unknown numbers.
_SYMBOLS = (torch.SymFloat, torch.SymInt)


def check_number(function: str, argument: str, value: Any) -> None:
    """Raises TypeError unless the value is a real number, or a tensor of one."""
    # The type comes first: asking an abstract class takes longer than all other checks of a call.
    if type(value) is float or type(value) is int:
        return
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            what = f"a tensor of shape {tuple(value.shape)} and {value.dtype}"
            raise TypeError(f"{function}: {argument} must be a number, got {what}")
    elif not isinstance(value, (Real, *_SYMBOLS)):
        raise TypeError(f"{function}: {argument} must be a number, got {told(value)}")


def check_probability(function: str, argument: str, value: Any) -> None:
    """Raises TypeError unless the value is a number, ValueError unless it is from 0 to 1."""
    check_number(function, argument, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{function}: {argument} must be at least 0 and at most 1, got {value}")


def check_scaling(function: str, value: Any) -> None:
    """Raises ValueError unless the value names a way in which dropout scales."""
    if value not in ("inverted", "test_time"):
        raise ValueError(f"{function}: scaling must be 'inverted' or 'test_time', got {told(value)}")


def check_integer(function: str, argument: str, value: Any) -> None:
    """Raises TypeError unless the value is an integer, or a tensor of one."""
    if type(value) is int or isinstance(value, (Integral, torch.SymInt)):
        return
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_floating_point() or value.is_complex():
        raise TypeError(f"{function}: {argument} must be an integer, got {told(value)}")


def check_tensor(function: str, argument: str, value: Any) -> None:
    """Raises TypeError unless the value is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{function}: {argument} must be a tensor, got {told(value)}")


# Types of optional tensors that need no further check.
OPTIONAL = (torch.Tensor, torch.nn.Parameter, type(None))


def check_optional(function: str, **values: Any) -> None:
    """Raises TypeError unless each value is a tensor or None."""
    for argument, value in values.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{function}: {argument} must be a tensor or None, got {told(value)}")


def check_dense(function: str, **values: Tensor | None) -> None:
    """Raises TypeError unless each value is None or a strided tensor."""
    for argument, value in values.items():
        if value is None:
            continue
        if value.layout != torch.strided:
            raise TypeError(f"{function}: {argument} must be dense, got layout {value.layout}")
        # A nested tensor has the layout torch.strided, and no shape.
        if value.is_nested:
            raise TypeError(f"{function}: {argument} must be dense, got a nested tensor")


def check_generator(function: str, value: Any) -> None:
    """Raises TypeError unless the value is a generator or None."""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f"{function}: generator must be a torch.Generator, got {told(value)}")
