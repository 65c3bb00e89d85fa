"""Writes the values of one field, as functions of the step, into an optimizer's groups."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from onepass import _native
from onepass._arguments import told
from onepass.optim.lr_scheduler._arguments import plain
from onepass.optim.lr_scheduler._memory import Factors, Memory
from onepass.optim.lr_scheduler._neighbours import scale_zeros
from onepass.optim.schedules import Schedule

Shape = Callable[[int], float]

# Up to this many groups their values are looked at in each step; with more it would cost as much as the writing.
_FEW = 16


class Track:
    """Sets value = start + (end - start) f(step) in each group; fills a tensor in place.

    Args:
        field: A key of the groups, or a place in a tuple such as ``betas[0]``.
        shapes: f for all groups, or a list with one for each; None leaves a group alone.
        ends: The value of each group at factor 1.
        starts: The value of each group at factor 0; None for 0.
    """

    def __init__(
        self,
        field: str,
        shapes: Shape | Sequence[Shape | None],
        ends: list[float],
        starts: list[float] | None = None,
    ) -> None:
        # With a memory, what others have changed is scaled; without one it is overwritten.
        self.memory: Memory | None = None
        # The scheduler that owns the memory.
        self.owner: Callable[[], Any] | None = None
        self.field = field
        self.shapes = shapes
        # A bound method is called faster than the object that it belongs to.
        one = shapes.__call__ if isinstance(shapes, Schedule) else shapes
        self._shape: Shape | None = one if callable(one) else None
        self.ends = ends
        self.starts = starts
        self._key, self._index = place(field)
        self._is_simple = self._shape is not None and self._index is None
        self._groups: Any = None
        self._has_tensors = False

    def at(self, step: int) -> Factors:
        """Returns the factor of all groups at a step, or a list with one for each."""
        if self._shape is not None:
            f = self._shape(step)
            return f if type(f) is float else number(f, step)
        shapes: Any = self.shapes
        return [None if shape is None else number(shape(step), step) for shape in shapes]

    def values(self, step: int) -> list[float | None]:
        """Returns the value of each group at a step; None for one that is left alone."""
        return self._values(self.at(step))

    def _values(self, found: Factors) -> list[float | None]:
        ends = self.ends
        if self.starts is None:
            if not isinstance(found, list):
                return [end * found for end in ends]
            return [None if f is None else end * f for f, end in zip(found, ends, strict=True)]
        factors = found if isinstance(found, list) else [found] * len(ends)
        triples = zip(factors, self.starts, ends, strict=True)
        return [None if f is None else start + (end - start) * f for f, start, end in triples]

    def write(self, groups: list[dict[str, Any]], found: Factors) -> None:
        """Writes the values at a factor, or at a list with one for each group."""
        memory = self.memory
        if self._is_simple and len(self.ends) == 1:
            # The most frequent case comes first, without any search.
            f: Any = found
            group, field = groups[0], self.field
            start = 0.0 if self.starts is None else self.starts[0]
            now = group[field]
            if memory is None:
                value = start + (self.ends[0] - start) * f
                if type(now) is not float and isinstance(now, Tensor):
                    now.fill_(value)
                else:
                    group[field] = value
                return
            lasts, ends = memory.lasts, memory.ends
            if now is lasts[0] and (ends is None or not memory.begins_again):
                group[field] = lasts[0] = start + ((ends or self.ends)[0] - start) * f
                memory.factors = f
                return
        if memory is None:
            self._overwrite(groups, found)
        elif isinstance(found, list):
            self._chain(groups, found)
        elif not self._write_many(memory, groups, found):
            self._chain(groups, [found] * len(memory.lasts))
            memory.factors = found

    def _write_many(self, memory: Memory, groups: list[dict[str, Any]], f: float) -> bool:
        """Writes plain numbers if the groups hold what was written last; otherwise writes nothing."""
        if len(memory.lasts) == 1 or self._index is not None or (memory.ends is not None and memory.begins_again):
            return False
        ends = memory.ends or self.ends
        if not _native.core.write_scaled(groups, self.field, ends, f, self.starts, memory.lasts):
            return False
        memory.factors = f
        return True

    def _chain(self, groups: list[dict[str, Any]], found: list[float | None]) -> None:
        """Scales the values that another has changed; for the others it writes the closed form."""
        memory = self.memory
        assert memory is not None
        starts = self.starts or [0.0] * len(found)
        for i, (group, f, start, end) in enumerate(zip(groups, found, starts, self.ends, strict=True)):
            if f is None:
                continue
            now = get(group, self.field)
            if memory.begins_again and memory.ends and memory.factor(i) == 0:
                memory.ends[i] = end
            value: float | None = start + ((memory.ends[i] if memory.ends else end) - start) * f
            if not memory.holds(i, now):
                memory.ends = memory.ends or list(self.ends)
                value = memory.onto(i, float(now), start, f)
                if value == 0 and now == 0 and f != 0 and self.owner is not None:
                    scale_zeros(self.owner(), self.field, i, f / memory.factor(i))
            if value is None:
                value = float(now)
            else:
                put(group, self.field, value)
            memory.note(i, get(group, self.field), value)
        memory.factors = found

    def restart(self, groups: list[dict[str, Any]], found: Factors) -> None:
        """Writes the values at a factor whatever the groups hold, and forgets what others have changed."""
        memory = self.memory
        if memory is None:
            self._overwrite(groups, found)
            return
        memory.ends = None
        for i, (group, value) in enumerate(zip(groups, self._values(found), strict=True)):
            if value is not None:
                put(group, self.field, value)
                memory.note(i, get(group, self.field), value)
        memory.factors = found

    def take_over(self, lasts: list[float]) -> None:
        """Goes on as if it had written these values at the last factor."""
        memory = self.memory
        assert memory is not None
        memory.ends = list(self.ends)
        for i, last in enumerate(lasts):
            start = 0.0 if self.starts is None else self.starts[i]
            memory.onto(i, last, start, memory.factor(i))
            memory.lasts[i] = last

    def _overwrite(self, groups: list[dict[str, Any]], found: Factors) -> None:
        field, ends = self.field, self.ends
        if isinstance(found, list) or self._index is not None or self._tensors(groups):
            for group, value in zip(groups, self._values(found), strict=True):
                if value is not None:
                    _put_at(group, self._key, self._index, value)
        elif _all_equal(ends) and (self.starts is None or _all_equal(self.starts)):
            start = 0.0 if self.starts is None else self.starts[0]
            shared = start + (ends[0] - start) * found
            for group in groups:
                group[field] = shared
        else:
            _native.core.write_scaled(groups, field, ends, found, self.starts)

    def _tensors(self, groups: list[dict[str, Any]]) -> bool:
        """Whether a group holds its value as a tensor; with many groups it looks once for each list of them."""
        if len(groups) <= _FEW or groups is not self._groups:
            self._groups = groups
            self._has_tensors = False
            for group in groups:
                if isinstance(group[self.field], Tensor):
                    self._has_tensors = True
        return self._has_tensors


def factors_at(tracks: Sequence[Track], step: int) -> list[Factors]:
    """Returns the factors of several fields at a step: all, before any is written, for one may be refused."""
    found: list[Factors] = []
    before = None
    for track in tracks:
        # A rate and a momentum may share one function.
        found.append(found[-1] if track.shapes is before else track.at(step))
        before = track.shapes
    return found


def _all_equal(values: list[float]) -> bool:
    # Comparing the first and the last value settles most lists that are not equal.
    return len(values) > 0 and values[0] == values[-1] and values.count(values[0]) == len(values)


_TUPLE_FIELD = re.compile(r"(\w+)\[(\d+)\]")


def place(field: str) -> tuple[str, int | None]:
    """Splits a field into its key and its place in a tuple, if it has one: ``betas[0]`` is ("betas", 0)."""
    found = _TUPLE_FIELD.fullmatch(field) if field[-1:] == "]" else None
    return (found[1], int(found[2])) if found else (field, None)


def get(group: dict[str, Any], field: str) -> Any:
    """Returns the value of a field, a number or a tensor."""
    key, index = place(field)
    return group[key] if index is None else group[key][index]


def put(group: dict[str, Any], field: str, value: float) -> None:
    """Sets a field; a tensor is filled in place, so that graphs and compiled steps see it."""
    _put_at(group, *place(field), value)


def _put_at(group: dict[str, Any], key: str, index: int | None, value: float) -> None:
    held = group[key]
    current = held if index is None else held[index]
    if isinstance(current, Tensor):
        current.fill_(value)
    else:
        group[key] = value if index is None else (*held[:index], value, *held[index + 1 :])


def put_all(groups: list[dict[str, Any]], field: str, values: Sequence[Any]) -> None:
    """Sets a field of all groups to numbers, which may be tensors."""
    for group, value in zip(groups, values, strict=True):
        put(group, field, float(value))


def held_rates(groups: list[dict[str, Any]]) -> list[float | Tensor]:
    """Returns the learning rates that groups hold; tensors are copied."""
    lrs = [group["lr"] for group in groups]
    return [lr.clone() if isinstance(lr, Tensor) else lr for lr in lrs]


def number(value: Any, step: float) -> float:
    """Returns what a function of the step has returned as a float.

    Raises:
        TypeError: It is not a number.
    """
    if type(value) is float:
        return value
    if not isinstance(value, Real):
        raise TypeError(f"lr_scheduler: a factor must be a number, got {told(value)} at step {step}")
    return float(value)


def initial_rates(groups: list[dict[str, Any]], known: int = 0) -> list[float]:
    """Returns the initial rates of the groups from number `known` on, and keeps them in the groups as torch does.

    If several groups hold the same tensor, each but the first gets a copy, because their rates may differ from now
    on.
    """
    rates = []
    for i, group in enumerate(groups[known:], known):
        own_tensor(groups, i, "lr")
        lr = group["lr"]
        rates.append(float(group.setdefault("initial_lr", lr.clone() if isinstance(lr, Tensor) else plain(lr))))
    return rates


def own_tensor(groups: list[dict[str, Any]], i: int, key: str) -> None:
    """Gives a group its own copy of a tensor that an earlier group holds, too."""
    value = groups[i][key]
    if isinstance(value, Tensor) and any(group.get(key) is value for group in groups[:i]):
        groups[i][key] = value.clone()
