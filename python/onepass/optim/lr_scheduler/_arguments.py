"""The arguments of schedulers: attributes that may be changed, and their checks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim import Optimizer


class Setting:
    """An argument that is an attribute and an entry of the state_dict, as torch names it; it may be changed.

    It holds Python's own numbers whatever it is given (`plain`).
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
    """A number of any class as Python's own, which torch.load takes with weights_only; also those in a sequence.

    What is no number stays what it is.
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
    """Raises TypeError unless it is an optimizer."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{scheduler}: optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")


def is_list(value: Any) -> bool:
    """Whether an argument has an entry for each group: any sequence but text, as lists of configurations are."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def as_list(scheduler: str, argument: str, value: Any, groups: int) -> list[float]:
    """A number for each group.

    Raises:
        TypeError: One is no number.
        ValueError: A list has another number of entries, or a number is negative or not finite.
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
    """A rate or a momentum.

    Raises:
        TypeError: It is no number.
        ValueError: It is negative or not finite.
    """
    value = plain(value)
    if not isinstance(value, (Real, Tensor)) or isinstance(value, bool):
        raise TypeError(f"{scheduler}: {argument} must be a number, got {value!r}")
    size = float(value)
    if not 0 <= size < math.inf:
        raise ValueError(f"{scheduler}: {argument} must be finite and at least 0, got {value!r}")
    return size


def check_state(scheduler: str, state_dict: Any) -> None:
    """Raises TypeError unless a state is a dict, and what it holds of others' changes, too."""
    parts = {"state_dict": state_dict}
    if isinstance(state_dict, Mapping) and "_written" in state_dict:
        parts["state_dict['_written']"] = state_dict["_written"]
    for place, value in parts.items():
        if not isinstance(value, Mapping):
            raise TypeError(f"{scheduler}: {place} must be a dict, got {type(value).__name__}")
