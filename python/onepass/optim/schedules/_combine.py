"""Schedules made of others: one after the other, their product, cut to a length, kept within limits."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np

from onepass.optim.schedules._schedule import Numbers, Schedule, check_real


def _check_parts(schedule: object, parts: tuple[Any, ...]) -> None:
    name = type(schedule).__name__
    if not parts:
        raise ValueError(f"{name}: parts must be at least one schedule, got none")
    for i, part in enumerate(parts):
        if not isinstance(part, Schedule):
            raise TypeError(f"{name}: parts[{i}] must be a schedule, got {part!r}")


# Lower case like the functions that they stand for: who uses one calls it.
@dataclass(frozen=True, repr=False, init=False)
class sequence(Schedule):
    """One schedule after the other: f_i(t - (length of those before)).

    Args:
        parts: Schedules; all but the last must have an end. At its end a part gives way to the next.

    Raises:
        ValueError: A part that is not the last has no end.
    """

    parts: tuple[Schedule, ...]

    def __init__(self, *parts: Schedule) -> None:
        _check_parts(self, parts)
        flat = [p for part in parts for p in (part.parts if isinstance(part, sequence) else (part,))]
        for i, part in enumerate(flat[:-1]):
            if part.length is None:
                raise ValueError(
                    f"sequence: parts[{i}] must have an end to be followed by another, got {part!r}; "
                    f"take({part!r}, steps) gives it one"
                )
        object.__setattr__(self, "parts", tuple(flat))

    @cached_property
    def bounds(self) -> list[float]:
        """Where each part gives way to the next."""
        lengths = [part.length or 0 for part in self.parts[:-1]]
        return [sum(lengths[: i + 1]) for i in range(len(lengths))]

    @cached_property
    def length(self) -> float | None:
        """The sum of all lengths."""
        lengths = [part.length for part in self.parts]
        return None if lengths[-1] is None else sum(length or 0 for length in lengths)

    def _at(self, t: Any, m: Any) -> Any:
        bounds = self.bounds
        if m is Numbers:
            i = bisect_right(bounds, t)
            return self.parts[i]._at(t - bounds[i - 1] if i else t, m)
        which = m.count(bounds, t)
        values = np.empty(t.shape, dtype=np.float64)
        for i, part in enumerate(self.parts):
            here = which == i
            values[here] = part._at(t[here] - (bounds[i - 1] if i else 0), m)
        return values

    def __repr__(self) -> str:
        return " >> ".join(map(repr, self.parts))


@dataclass(frozen=True, repr=False, init=False)
class product(Schedule):
    """The product of schedules that all count from the same step.

    Args:
        parts: Schedules. The product ends when the last of them does; one without an end has none, but a constant
            does not count.
    """

    parts: tuple[Schedule, ...]

    def __init__(self, *parts: Schedule) -> None:
        _check_parts(self, parts)
        flat = [p for part in parts for p in (part.parts if isinstance(part, product) else (part,))]
        object.__setattr__(self, "parts", tuple(flat))

    @property
    def length(self) -> float | None:
        """The largest of the lengths."""
        from onepass.optim.schedules._shapes import constant

        plain = [p for p in self.parts if not (isinstance(p, constant) and p.steps is None)]
        lengths = [part.length for part in plain or self.parts]
        known = [length for length in lengths if length is not None]
        return max(known) if len(known) == len(lengths) else None

    def _at(self, t: Any, m: Any) -> Any:
        return reduce(lambda value, part: value * part._at(t, m), self.parts[1:], self.parts[0]._at(t, m))

    def __repr__(self) -> str:
        return " * ".join(f"({part!r})" if isinstance(part, sequence) else repr(part) for part in self.parts)


@dataclass(frozen=True, repr=False)
class take(Schedule):
    """The first steps of a schedule, so that another can follow.

    Args:
        schedule: What is cut, or held if it is shorter.
        steps: The length, at least 0.
    """

    schedule: Schedule
    steps: float
    _positional = 2

    def __post_init__(self) -> None:
        _check_parts(self, (self.schedule,))
        check_real(self, "steps", self.steps, 0)

    @property
    def length(self) -> float:
        """`steps`."""
        return self.steps

    def _at(self, t: Any, m: Any) -> Any:
        return self.schedule._at(m.minimum(t, self.steps), m)


@dataclass(frozen=True, repr=False)
class clamp(Schedule):
    """min(max(f(t), low), high).

    Args:
        schedule: The schedule.
        low: Smallest factor.
        high: Largest factor, at least `low`; None for no limit.
    """

    schedule: Schedule
    low: float = 0.0
    high: float | None = None

    def __post_init__(self) -> None:
        _check_parts(self, (self.schedule,))
        check_real(self, "low", self.low)
        if self.high is not None:
            check_real(self, "high", self.high, self.low)

    @property
    def length(self) -> float | None:
        """That of the schedule."""
        return self.schedule.length

    def _at(self, t: Any, m: Any) -> Any:
        high = math.inf if self.high is None else self.high
        return m.minimum(m.maximum(self.schedule._at(t, m), self.low), high)
