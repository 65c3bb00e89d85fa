"""Names arguments in errors, and turns hyper-parameters into numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, NamedTuple, cast

import numpy as np
from torch import Tensor

from onepass._arguments import told
from onepass.optim._lists.kinds import is_fake

# Well within the range of floats.
_LARGE = 2**53


class Names(NamedTuple):
    """Names the entries of a step's lists, as the core does."""

    function: str
    lists: tuple[str, ...]
    group: int | None = None
    """Number of the param group, or None if it is the only one."""
    indices: list[int] | None = None
    """Position of each entry in its group, or None if the lists are the whole group."""

    def place(self, which: int, i: int) -> str:
        """Names entry i of a list, for instance ``param_groups[1].grads[17]``."""
        prefix = "" if self.group is None else f"param_groups[{self.group}]."
        return f"{prefix}{self.lists[which]}[{i if self.indices is None else self.indices[i]}]"

    def full(self, which: int, i: int) -> str:
        """Names entry i of a list with its function, for instance ``adamw: grads[17]``."""
        return f"{self.function}: {self.place(which, i)}"


def number(function: str, option: str, value: Any) -> float:
    """Converts a real number of any class, or a one-element tensor, to a float.

    Raises:
        TypeError: The value is neither.
        ValueError: The tensor has another number of elements, or the number is beyond the range of floats.
    """
    if type(value) is float:
        return value
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{function}: {option} must have one element, got shape {tuple(value.shape)}")
        if is_fake(value):
            return math.nan  # it has no value; a kernel would refuse this one
        if value.is_meta or value.is_complex():
            got = "a meta tensor, which has no value" if value.is_meta else f"a tensor of {value.dtype}"
            raise TypeError(f"{function}: {option} must be a number or a one-element tensor, got {got}")
        value = value.detach() if value.requires_grad else value
    elif not _is_number(value):
        raise TypeError(f"{function}: {option} must be a number or a one-element tensor, got {told(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(
            f"{function}: {option} must be within the range of floats, got a number of class "
            f"{type(value).__name__} beyond 1.8e308"
        ) from None


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray):  # numpy's own functions give arrays without dimensions
        return value.ndim == 0 and isinstance(value.item(), Real)
    return isinstance(value, (Real, Decimal))


def group_number(function: str, group: dict[str, Any], option: str) -> float:
    """Converts an option as `number` does; the group then holds the plain number, which any checkpoint can."""
    value = group[option]
    kind = type(value)
    if kind is float:
        return cast(float, value)
    if kind is int and -_LARGE < value < _LARGE:
        return float(value)
    result = number(function, option, value)
    if kind not in (int, bool) and not isinstance(value, Tensor):
        group[option] = result
    return result


def rate_of(function: str, group: dict[str, Any]) -> float | Tensor:
    """The group's learning rate as `group_number` gives it, or the tensor itself if the kernel can read it."""
    value = group["lr"]
    if isinstance(value, Tensor):
        return number_or_tensor(function, "lr", value, on_device=bool(group.get("capturable")))
    return group_number(function, group, "lr")


def loop_number(group: dict[str, Any], option: str) -> Any:
    """An option as torch's loop takes it: a number, or the value itself if the update is differentiable."""
    value = group[option]
    return value if group["differentiable"] else number("", option, value)


def pair_of_numbers(function: str, group: dict[str, Any], option: str) -> tuple[float, float]:
    """Converts an option that is a pair to floats; the group then holds a tuple of plain numbers."""
    pair = group[option]
    if type(pair) is tuple and [*map(type, pair)] == [float, float]:
        return cast("tuple[float, float]", pair)
    group[option] = first, second = plain_pair(function, option, pair)
    return number(function, f"{option}[0]", first), number(function, f"{option}[1]", second)


def loop_pair(group: dict[str, Any], option: str) -> tuple[Any, Any]:
    """A pair of options as torch's loop takes them, see `loop_number`."""
    first, second = group[option]
    return (first, second) if group["differentiable"] else (number("", option, first), number("", option, second))


def plain_number(function: str, option: str, value: Any) -> Any:
    """Converts a number to Python's own class, which torch.load takes with weights_only; a tensor stays."""
    if type(value) in (float, int, bool) or isinstance(value, Tensor):
        return value
    return number(function, option, value)


def plain_pair(function: str, option: str, value: Any) -> tuple[Any, Any]:
    """Converts two numbers in any sequence to a tuple of plain ones.

    Raises:
        TypeError, ValueError: As `check_pair` and `number`.
    """
    check_pair(function, option, value)
    entries = value.tolist() if isinstance(value, Tensor) else value
    plain = (plain_number(function, f"{option}[{i}]", entry) for i, entry in enumerate(entries))
    return cast("tuple[Any, Any]", tuple(plain))


def number_or_tensor(function: str, option: str, value: Any, on_device: bool = False) -> float | Tensor:
    """Converts as `number`, except a CUDA tensor, or with `on_device` any tensor, which the kernel reads."""
    if isinstance(value, Tensor) and (value.is_cuda or on_device):
        return value
    return number(function, option, value)


def check_pair(function: str, option: str, value: Any) -> None:
    """Raises TypeError unless the value is a sequence, ValueError unless it has two entries."""
    if not isinstance(value, (Sequence, Tensor, np.ndarray)) or getattr(value, "ndim", 1) != 1:
        raise TypeError(f"{function}: {option} must be two numbers, got {told(value)}")
    if isinstance(value, Tensor) and value.is_meta:
        raise TypeError(f"{function}: {option} must be two numbers, got a meta tensor, which has no values")
    if len(value) != 2:
        raise ValueError(f"{function}: {option} must be two numbers, got {told(value)}")


def check_betas(function: str, betas: Any) -> None:
    """Raises TypeError unless betas are two numbers, ValueError unless they lie in [0, 1)."""
    check_pair(function, "betas", betas)
    for k in range(2):
        check_range(function, f"betas[{k}]", betas[k], 0, 1)


def limit_number(function: str, option: str, value: Any) -> float:
    """Converts an upper limit of norms or magnitudes to a float: at least 0, or infinity for no limit.

    Raises:
        TypeError: The value is not a number.
        ValueError: It is negative, nan, or a tensor of several elements.
    """
    limit = number(function, option, value)
    if limit != math.inf:
        check_range(function, option, limit, 0)
    return limit


def check_range(function: str, option: str, value: Any, low: float, high: float = math.inf) -> None:
    """Raises ValueError unless low <= value < high, TypeError if it is not a number.

    The value of a CUDA tensor is not looked at, since that would wait for the device. A fake tensor has no value.
    """
    if isinstance(value, Tensor) and (value.is_cuda or value.is_meta or is_fake(value)) and value.numel() == 1:
        return
    if not low <= number(function, option, value) < high:
        limits = f"at least {low} and below {high}"
        if high == math.inf:
            limits = "finite" if low == -math.inf else f"finite and at least {low}"
        raise ValueError(f"{function}: {option} must be {limits}, got {value}")
