"""How arguments are named in errors, and hyper-parameters turned into numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor


class Names(NamedTuple):
    """Names the entries of a step's lists, as the core does."""

    function: str
    lists: tuple[str, ...]
    group: int | None = None
    """Number of the param group, or None if there is one alone."""
    indices: list[int] | None = None
    """Where in its group each entry stands, or None if the lists are the whole group."""

    def place(self, which: int, i: int) -> str:
        """Names entry i of a list, for instance ``param_groups[1].grads[17]``."""
        prefix = "" if self.group is None else f"param_groups[{self.group}]."
        return f"{prefix}{self.lists[which]}[{i if self.indices is None else self.indices[i]}]"

    def full(self, which: int, i: int) -> str:
        """Names entry i of a list with its function, for instance ``adamw: grads[17]``."""
        return f"{self.function}: {self.place(which, i)}"


def number(function: str, option: str, value: Any) -> float:
    """The value of a real number or of a one-element tensor, as a float.

    Raises:
        TypeError: The value is neither.
        ValueError: The tensor has another number of elements.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{function}: {option} must have one element, got shape {tuple(value.shape)}")
    elif not isinstance(value, Real):
        raise TypeError(f"{function}: {option} must be a number or a one-element tensor, got {value!r}")
    return float(value)


def number_or_tensor(function: str, option: str, value: Any, on_device: bool = False) -> float | Tensor:
    """As `number`, but a CUDA tensor itself: the kernel reads it. With `on_device` any tensor itself."""
    if isinstance(value, Tensor) and (value.is_cuda or on_device):
        return value
    return number(function, option, value)


def check_pair(function: str, option: str, value: Any) -> None:
    """Raises TypeError unless the value is a tuple or the like, ValueError unless it has two entries."""
    if not isinstance(value, (Sequence, Tensor, np.ndarray)) or getattr(value, "ndim", 1) != 1:
        raise TypeError(f"{function}: {option} must be two numbers, got {value!r}")
    if len(value) != 2:
        raise ValueError(f"{function}: {option} must be two numbers, got {value!r}")


def check_range(function: str, option: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raises ValueError unless low <= value < high, TypeError if it is no number.

    The value of a CUDA tensor is not looked at: that would wait for the device.
    """
    if isinstance(value, Tensor) and (value.is_cuda or value.is_meta) and value.numel() == 1:
        return
    if not low <= number(function, option, value) < high:
        limits = f"finite and at least {low}" if high == math.inf else f"at least {low} and below {high}"
        raise ValueError(f"{function}: {option} must be {limits}, got {value}")
