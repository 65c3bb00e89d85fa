"""Schedules made of another: cut to a length, or with factors that stay between two bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from onepass.optim.schedules._schedule import Schedule, check_parts, check_real

# Pickles of 0.1 name these two here.
from onepass.optim.schedules._schedule import product as product
from onepass.optim.schedules._schedule import sequence as sequence


# Lower case like the functions that they stand for: who uses one calls it.
@dataclass(frozen=True, repr=False)
class take(Schedule):
    """Cuts a schedule to a length, so that another can follow: f(t) = g(min(t, steps)).

    Args:
        schedule: g; one that is shorter keeps its last value.
        steps: The length, at least 0.

    Raises:
        ValueError: `steps` is negative or not finite.
        TypeError: `schedule` is not a schedule, or `steps` is not a number.

    Example:
        >>> from onepass.optim.schedules import constant, exponential, take
        >>> schedule = take(exponential(0.5), 2) >> constant(0.1)
        >>> [schedule(step) for step in range(4)]
        [1.0, 0.5, 0.1, 0.1]
    """

    schedule: Schedule
    steps: float
    _positional = 2

    def __post_init__(self) -> None:
        check_parts(self, (self.schedule,))
        check_real(self, "steps", self.steps, 0)

    @property
    def length(self) -> float:
        """`steps`."""
        return self.steps

    def _at(self, t: Any, m: Any) -> Any:
        return self.schedule._at(m.minimum(t, self.steps), m)


@dataclass(frozen=True, repr=False)
class clamp(Schedule):
    """Keeps the factors of a schedule within limits: f(t) = min(max(g(t), low), high).

    Args:
        schedule: g.
        low: The smallest factor.
        high: The largest factor, at least `low`; None for no limit.

    Raises:
        ValueError: A limit is out of range.
        TypeError: `schedule` is not a schedule, or a limit is not a number.

    Example:
        >>> from onepass.optim.schedules import clamp, linear
        >>> [clamp(linear(4), low=0.3, high=0.8)(step) for step in range(5)]
        [0.8, 0.75, 0.5, 0.3, 0.3]
    """

    schedule: Schedule
    low: float = 0.0
    high: float | None = None

    def __post_init__(self) -> None:
        check_parts(self, (self.schedule,))
        check_real(self, "low", self.low)
        if self.high is not None:
            check_real(self, "high", self.high, self.low)

    @property
    def length(self) -> float | None:
        """The length of the schedule that is kept within limits."""
        return self.schedule.length

    def _at(self, t: Any, m: Any) -> Any:
        high = math.inf if self.high is None else self.high
        return m.minimum(m.maximum(self.schedule._at(t, m), self.low), high)
