"""Schedules within limits: one that is cut to a length, one whose factors stay between two bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from onepass.optim.schedules._schedule import Schedule, check_parts, check_real


# Lower case like the functions that they stand for: who uses one calls it.
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
        check_parts(self, (self.schedule,))
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
