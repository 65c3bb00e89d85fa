"""How values reach an optimizer's groups: one field of all groups, as a function of the step."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from onepass import _native

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
        self.factor = factors if callable(factors) else None
        self.factors = None if callable(factors) else factors
        self.ends = ends
        self.starts = starts
        self._is_plain = place(field)[1] is None
        self._groups: Any = None
        self._has_tensors = False

    def values(self, step: int) -> list[float | None]:
        """The value of each group; None for one that is left alone."""
        if self.factor is not None:
            f = number(self.factor(step), step)
            return [*self._scaled(f)]
        own = [None if factor is None else number(factor(step), step) for factor in self.factors or ()]
        starts = self.starts or [0.0] * len(own)
        triples = zip(own, starts, self.ends, strict=True)
        return [None if f is None else start + (end - start) * f for f, start, end in triples]

    def _scaled(self, f: float) -> list[float]:
        if self.starts is None:
            return [end * f for end in self.ends]
        return [start + (end - start) * f for start, end in zip(self.starts, self.ends, strict=True)]

    def write_each(self, groups: list[dict[str, Any]], values: list[float | None]) -> None:
        """Puts values into the groups, whose factors differ."""
        for group, value in zip(groups, values, strict=True):
            if value is not None:
                put(group, self.field, value)

    def write(self, groups: list[dict[str, Any]], f: float) -> None:
        """Puts the values at a factor into the groups."""
        field, ends = self.field, self.ends
        if not self._is_plain:
            self._write_in_tuples(groups, f)
        elif len(ends) == 1:
            # The usual case: nothing is worth being looked for first.
            start = 0.0 if self.starts is None else self.starts[0]
            value = start + (ends[0] - start) * f
            if isinstance(groups[0][field], Tensor):
                groups[0][field].fill_(value)
            else:
                groups[0][field] = value
        elif self._tensors(groups):
            for group, value in zip(groups, self._scaled(f), strict=True):
                put(group, field, value)
        elif _all_equal(ends) and (self.starts is None or _all_equal(self.starts)):
            start = 0.0 if self.starts is None else self.starts[0]
            shared = start + (ends[0] - start) * f
            for group in groups:
                group[field] = shared
        else:
            _native.core.write_scaled(groups, field, ends, f, self.starts)

    def _write_in_tuples(self, groups: list[dict[str, Any]], f: float) -> None:
        key, index = place(self.field)
        assert index is not None
        for group, value in zip(groups, self._scaled(f), strict=True):
            entries = group[key]
            if isinstance(entries[index], Tensor):
                entries[index].fill_(value)
            else:
                group[key] = (*entries[:index], value, *entries[index + 1 :])

    def _tensors(self, groups: list[dict[str, Any]]) -> bool:
        """Whether a group holds its value as a tensor. With many groups looked at once for each list of them."""
        if len(groups) <= _FEW or groups is not self._groups:
            self._groups = groups
            self._has_tensors = False
            for group in groups:
                if isinstance(group[self.field], Tensor):
                    self._has_tensors = True
        return self._has_tensors


def _all_equal(values: list[float]) -> bool:
    # The last is another one in most lists that are not equal.
    return len(values) > 0 and values[0] == values[-1] and values.count(values[0]) == len(values)


_TUPLE_FIELD = re.compile(r"(\w+)\[(\d+)\]")


def place(field: str) -> tuple[str, int | None]:
    """The key, and the place in its tuple if the field has one: ``betas[0]`` is ("betas", 0)."""
    found = _TUPLE_FIELD.fullmatch(field) if field[-1:] == "]" else None
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


def number(value: Any, step: float) -> float:
    """What a function of the step returned.

    Raises:
        TypeError: It is no number.
    """
    if type(value) is not float and not isinstance(value, Real):
        raise TypeError(f"lr_scheduler: a factor must be a number, got {value!r} at step {step}")
    return value  # type: ignore[return-value]  # an integer is as good


def initial_rates(groups: list[dict[str, Any]], known: int = 0) -> list[float]:
    """The initial rates of the groups from number `known` on, kept in the groups as torch does.

    Each group gets a tensor of its own where several hold one: their rates may differ from now on.
    """
    rates = []
    for i, group in enumerate(groups[known:], known):
        own_tensor(groups, i, "lr")
        lr = group["lr"]
        rates.append(float(group.setdefault("initial_lr", lr.clone() if isinstance(lr, Tensor) else lr)))
    return rates


def own_tensor(groups: list[dict[str, Any]], i: int, key: str) -> None:
    """Copies the tensor of a group if an earlier group holds it, too."""
    value = groups[i][key]
    if isinstance(value, Tensor) and any(group.get(key) is value for group in groups[:i]):
        groups[i][key] = value.clone()
