"""The shapes that go up and down.

T is `steps`, t the step and f the factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from onepass._arguments import told
from onepass.optim.schedules._schedule import Numbers, check_real
from onepass.optim.schedules._shapes import Endless, Finite


# Lower case like the functions that they stand for: who uses one calls it.
@dataclass(frozen=True, repr=False)
class one_cycle(Finite):
    """Rises from 1 / div_factor to 1 and falls to 1 / (div_factor final_div_factor), at step T - 1.

    Within a phase that goes from factor a to factor b, with the share s of its steps:
    f = b + (a - b) (1 + cos(pi s)) / 2, or f = a + (b - a) s.

    Args:
        steps: T, above 0.
        pct_start: Share of the steps until the top, from 0 to 1.
        div_factor: 1 / (the factor at step 0), above 0; may be infinite.
        final_div_factor: The factor at step 0 / the last one, above 0.
        anneal: "cos" or "linear": which of the two formulas.
        three_phase: Come down to the first factor in as many steps as it went up, then to the last.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument is not a number.

    Example:
        >>> from onepass.optim.schedules import one_cycle
        >>> schedule = one_cycle(6, pct_start=0.5, div_factor=5, final_div_factor=2, anneal="linear")
        >>> [round(schedule(step), 3) for step in range(7)]
        [0.2, 0.6, 1.0, 0.7, 0.4, 0.1, 0.1]

    Source: Smith and Topin 2019; torch.optim.lr_scheduler.OneCycleLR.
    """

    steps: float
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    anneal: str = "cos"
    three_phase: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real(self, "pct_start", self.pct_start, 0, high=1)
        if not (isinstance(self.div_factor, float) and self.div_factor == math.inf):
            check_real(self, "div_factor", self.div_factor, 0, above=True)
        check_real(self, "final_div_factor", self.final_div_factor, 0, above=True)
        if self.anneal not in ("cos", "linear"):
            raise ValueError(f"one_cycle: anneal must be cos or linear, got {told(self.anneal)}")

    @cached_property
    def phases(self) -> list[tuple[float, float, float, float]]:
        """The first and the last step of each phase, and its first and last factor."""
        low = 1.0 / self.div_factor
        last = low / self.final_div_factor
        top, end = self.pct_start * self.steps - 1, self.steps - 1
        if not self.three_phase:
            return [(0.0, top, low, 1.0), (top, end, 1.0, last)]
        down = 2 * self.pct_start * self.steps - 2
        return [(0.0, top, low, 1.0), (top, down, 1.0, low), (down, end, low, last)]

    def _at(self, t: Any, m: Any) -> Any:
        phases = self.phases
        if m is Numbers:
            if t > self.steps - 1:
                t = max(self.steps - 1, 0)
            for begin, end, first, last in phases:
                if t <= end:
                    return self._between(t, m, begin, end, first, last)
            return self._between(t, m, *phases[-1])
        t = m.minimum(t, max(self.steps - 1, 0))
        value = self._between(t, m, *phases[-1])
        for phase in phases[-2::-1]:
            value = m.where(t <= phase[1], self._between(t, m, *phase), value)
        return value

    def _between(self, t: Any, m: Any, begin: float, end: float, first: float, last: float) -> Any:
        share = (t - begin) / (end - begin) if end != begin else 1.0
        if self.anneal == "linear":
            return first + (last - first) * share
        return last + (first - last) / 2.0 * (m.cos(math.pi * share) + 1.0)


@dataclass(frozen=True, repr=False)
class cyclic(Endless):
    """Rises and falls again, without an end: f = low + (1 - low) x s.

    x goes along a straight line from 0 at the bottom to 1 at the top and back; s is the scale of the mode.

    Args:
        up: Steps from the bottom to the top, above 0.
        down: Steps back, above 0; None for as many.
        low: The factor at the bottom, at least 0.
        mode: "triangular": s = 1; "triangular2": s is halved in each cycle; "exp_range": s = gamma^t.
        gamma: The base of "exp_range", at least 0.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument is not a number.

    Example:
        >>> from onepass.optim.schedules import cyclic
        >>> [cyclic(2, mode="triangular2")(step) for step in range(8)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5, 0.25]

    Source: Smith 2017; torch.optim.lr_scheduler.CyclicLR.
    """

    up: float
    down: float | None = None
    low: float = 0.0
    mode: str = "triangular"
    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_real(self, "up", self.up, 0, above=True)
        if self.down is not None:
            check_real(self, "down", self.down, 0, above=True)
        check_real(self, "low", self.low, 0)
        check_real(self, "gamma", self.gamma, 0)
        if self.mode not in ("triangular", "triangular2", "exp_range"):
            raise ValueError(f"cyclic: mode must be triangular, triangular2 or exp_range, got {told(self.mode)}")

    def _at(self, t: Any, m: Any) -> Any:
        down = self.up if self.down is None else self.down
        cycle, place = t // (self.up + down), t % (self.up + down)
        height = m.where(place <= self.up, place / self.up, (self.up + down - place) / down)
        if self.mode == "triangular2":
            height = height * 0.5**cycle
        elif self.mode == "exp_range":
            height = height * float(self.gamma) ** t
        return self.low + (1.0 - self.low) * height


@dataclass(frozen=True, repr=False)
class warm_restarts(Endless):
    """Falls along a cosine again and again, in cycles of T, T mult, T mult^2 ... steps; without an end.

    f = floor + (1 - floor) (1 + cos(pi u / n)) / 2, where u is the step within the cycle, and n the steps of the
    cycle.

    Args:
        steps: T, an integer above 0.
        mult: How many times as long each cycle is as the one before, an integer of at least 1.
        floor: The factor that each cycle falls towards, at least 0.

    Raises:
        ValueError: An argument is out of range, or not an integer.
        TypeError: An argument is not a number.

    Example:
        >>> from onepass.optim.schedules import warm_restarts
        >>> [round(warm_restarts(2, mult=2)(step), 3) for step in range(7)]
        [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]

    Source: Loshchilov and Hutter 2017, equation 5.
    """

    steps: int
    mult: int = 1
    floor: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("mult", self.mult)):
            check_real(self, name, value, 1)
            if value != int(value):
                raise ValueError(f"warm_restarts: {name} must be an integer, got {told(value)}")
        check_real(self, "floor", self.floor, 0)

    @cached_property
    def _cycles(self) -> tuple[list[int], list[int]]:
        """The first steps and the sizes of the cycles up to 2^53: exact, where a logarithm of the step is not."""
        begins, sizes = [0], [int(self.steps)]
        while begins[-1] < 2**53:
            begins.append(begins[-1] + sizes[-1])
            sizes.append(sizes[-1] * int(self.mult))
        return begins, sizes

    def _at(self, t: Any, m: Any) -> Any:
        step, size = t % self.steps, self.steps
        if self.mult != 1:
            begins, sizes = self._cycles
            cycle = m.count(begins, t) - 1
            step, size = t - m.pick(begins, cycle), m.pick(sizes, cycle)
        return self.floor + (1.0 - self.floor) * (1.0 + m.cos(math.pi * step / size)) / 2.0
