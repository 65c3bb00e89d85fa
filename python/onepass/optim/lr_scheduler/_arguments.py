"""The arguments of schedulers: attributes that may be changed, and checks that name the argument."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim import Optimizer

from onepass._arguments import told


class Setting:
    """An argument that is kept as an attribute and in the state_dict, under torch's name, and may be changed.

    It holds Python's own numbers (`plain`), whatever was given.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        try:
            return instance.__dict__[self.name]
        except KeyError:
            raise AttributeError(self.name) from None

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self.name] = plain(value)
        instance.__dict__["_tracks"] = None


def plain(value: Any) -> Any:
    """Turns a number of any class, or a sequence of numbers, into Python's own.

    torch.load takes those with weights_only=True. Anything else is returned as it is.
    """
    if type(value) in (float, int, bool, str) or value is None:
        return value
    if isinstance(value, (np.bool_, np.ndarray)):
        return plain(value.tolist())
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Counter):
        return Counter({plain(key): plain(count) for key, count in value.items()})
    if is_list(value):
        return [plain(entry) for entry in value]
    return value


def check_optimizer(scheduler: str, optimizer: Any) -> None:
    """Raises TypeError unless the argument `optimizer` is one."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{scheduler}: optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")


def check_rates(scheduler: str, optimizer: Optimizer) -> None:
    """Raises ValueError for a group without a learning rate, TypeError for one whose rate has no value."""
    for i, group in enumerate(optimizer.param_groups):
        if "lr" not in group:
            raise ValueError(f"{scheduler}: param_groups[{i}] must hold 'lr', got {told(list(group))}")
        if isinstance(group["lr"], Tensor) and group["lr"].is_meta:
            raise TypeError(f"{scheduler}: lr of param_groups[{i}] must have a value, got a meta tensor")


def is_number(value: Any) -> bool:
    """Whether an argument is a number, or a tensor that holds one."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not (value.is_meta or value.is_complex())
    return isinstance(value, Real)


def is_list(value: Any) -> bool:
    """Whether an argument has an entry for each group: any sequence but text, also a configuration's list."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def as_list(scheduler: str, argument: str, value: Any, groups: int) -> list[float]:
    """Returns a number for each group, from one for all or a list.

    Raises:
        TypeError: An entry is not a number.
        ValueError: A list has another number of entries than there are groups, or a number is negative or not
            finite.
    """
    value = plain(value)
    if not is_list(value):
        return [amount(scheduler, argument, value)] * groups
    if len(value) != groups:
        raise ValueError(
            f"{scheduler}: {argument} must have one entry for each of {groups} groups, got {len(value)}"
        )
    return [amount(scheduler, f"{argument}[{i}]", entry) for i, entry in enumerate(value)]


def amount(scheduler: str, argument: str, value: Any) -> float:
    """Returns a learning rate or a momentum as a float.

    Raises:
        TypeError: It is not a number.
        ValueError: It is negative or not finite.
    """
    value = plain(value)
    if not is_number(value) or isinstance(value, bool):
        raise TypeError(f"{scheduler}: {argument} must be a number, got {told(value)}")
    size = float(value)
    if not 0 <= size < math.inf:
        raise ValueError(f"{scheduler}: {argument} must be finite and at least 0, got {told(value)}")
    return size


def check_state(scheduler: str, state_dict: Any) -> None:
    """Raises TypeError unless a state is a dict, and its record of others' changes is one, too."""
    parts = {"state_dict": state_dict}
    if isinstance(state_dict, Mapping) and "_written" in state_dict:
        parts["state_dict['_written']"] = state_dict["_written"]
    for place, value in parts.items():
        if not isinstance(value, Mapping):
            raise TypeError(f"{scheduler}: {place} must be a dict, got {type(value).__name__}")
