"""How values reach an optimizer's groups: one field of all groups, as a function of the step."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Factor = Callable[[int], float]

# Looking at the kind of every group's value would cost as much as writing it.
_FEW = 16


class Track:
    """value = start + (end - start) f(step) in each group; in place where the group holds a tensor.

    Args:
        field: Key of the group, or a place in a tuple such as ``betas[0]``.
        factors: One function for all groups, or one for each; None leaves a group alone.
        ends: The value of each group at factor 1.
        starts: That at factor 0, or None for 0.
    """

    def __init__(
        self,
        field: str,
        factors: Factor | Sequence[Factor | None],
        ends: list[float],
        starts: list[float] | None = None,
    ) -> None:
        self.field = field
        self.factors = factors
        self.ends = ends
        self.starts = starts
        self._groups: Any = None
        self._has_tensors = False

    def values(self, step: int) -> list[float | None]:
        """The value of each group; None for one that is left alone."""
        if not callable(self.factors):
            own = [None if factor is None else factor(step) for factor in self.factors]
            starts = self.starts or [0.0] * len(own)
            triples = zip(own, self.ends, starts, strict=True)
            return [None if f is None else _between(start, end, f) for f, end, start in triples]
        f = self.factors(step)
        if self.starts is None:
            return [end * f for end in self.ends]
        return [_between(start, end, f) for start, end in zip(self.starts, self.ends, strict=True)]

    def write(self, groups: list[dict[str, Any]], step: int) -> None:
        """Puts the values into the groups."""
        field, ends = self.field, self.ends
        if not (self.starts is None and callable(self.factors)) or field[-1] == "]" or self._tensors(groups):
            for group, value in zip(groups, self.values(step), strict=True):
                if value is not None:
                    put(group, field, value)
            return
        f = self.factors(step)
        if len(ends) > 1 and ends.count(ends[0]) == len(ends):
            shared = ends[0] * f
            for group in groups:
                group[field] = shared
        else:
            for group, end in zip(groups, ends, strict=True):
                group[field] = end * f

    def _tensors(self, groups: list[dict[str, Any]]) -> bool:
        """Whether a group holds its value as a tensor. With many groups looked at once for each list of them."""
        if len(groups) <= _FEW or groups is not self._groups:
            self._groups = groups
            self._has_tensors = False
            for group in groups:
                if isinstance(group[self.field], Tensor):
                    self._has_tensors = True
        return self._has_tensors


def _between(start: float, end: float, factor: float) -> float:
    return start + (end - start) * factor


def place(field: str) -> tuple[str, int | None]:
    """The key, and the place in its tuple if the field has one: ``betas[0]`` is ("betas", 0)."""
    found = re.fullmatch(r"(\w+)\[(\d+)\]", field)
    return (found[1], int(found[2])) if found else (field, None)


def get(group: dict[str, Any], field: str) -> Any:
    """The value of a field, a number or a tensor."""
    key, index = place(field)
    return group[key] if index is None else group[key][index]


def put(group: dict[str, Any], field: str, value: float) -> None:
    """Sets a field; a tensor is filled in place, so that graphs and compiled steps see it."""
    current = get(group, field)
    if isinstance(current, Tensor):
        current.fill_(value)
        return
    key, index = place(field)
    if index is None:
        group[key] = value
    else:
        group[key] = (*group[key][:index], value, *group[key][index + 1 :])
