"""The shapes that go up and down: T is `steps`, t the step and f the factor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from onepass.optim.schedules._schedule import Numbers, Schedule, check_real
from onepass.optim.schedules._shapes import Finite


@dataclass(frozen=True, repr=False)
class one_cycle(Finite):
    """Up from 1 / div_factor to 1 and down to 1 / (div_factor final_div_factor), at step T - 1.

    Args:
        steps: T, above 0.
        pct_start: Share of the steps until the top, from 0 to 1.
        div_factor: 1 / (the factor at step 0), above 0; may be infinite.
        final_div_factor: The factor at step 0 / the last one, above 0.
        anneal: "cos" or "linear".
        three_phase: Come down to where it began in as many steps as it went up, then to the end.

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
        if self.div_factor != math.inf:
            check_real(self, "div_factor", self.div_factor, 0, above=True)
        check_real(self, "final_div_factor", self.final_div_factor, 0, above=True)
        if self.anneal not in ("cos", "linear"):
            raise ValueError(f"one_cycle: anneal must be cos or linear, got {self.anneal!r}")

    @cached_property
    def phases(self) -> list[tuple[float, float, float, float]]:
        """Where each phase begins and ends, and its first and last factor."""
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
class cyclic(Schedule):
    """Up and down again, without an end: f = low + (1 - low) x s, x the place between bottom (0) and top (1).

    Args:
        up: Steps from the bottom to the top, above 0.
        down: Steps back, above 0; None for as many.
        low: The factor at the bottom, at least 0.
        mode: s: "triangular", 1; "triangular2", half as much in each cycle; "exp_range", gamma^t.
        gamma: For exp_range, at least 0.

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
            raise ValueError(f"cyclic: mode must be triangular, triangular2 or exp_range, got {self.mode!r}")

    @property
    def length(self) -> None:
        """None."""
        return None

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
class warm_restarts(Schedule):
    """A cosine that begins anew after T, then after T mult, T mult^2 ... steps; without an end.

    Args:
        steps: T, an integer above 0.
        mult: An integer, at least 1.
        floor: The factor at the end of each cycle, at least 0.

    Source: Loshchilov and Hutter 2017.
    """

    steps: int
    mult: int = 1
    floor: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("mult", self.mult)):
            check_real(self, name, value, 1)
            if value != int(value):
                raise ValueError(f"warm_restarts: {name} must be an integer, got {value!r}")
        check_real(self, "floor", self.floor, 0)

    @property
    def length(self) -> None:
        """None."""
        return None

    @cached_property
    def _cycles(self) -> tuple[list[int], list[int]]:
        """Begins and sizes of the cycles, as far as a float64 counts: exact, where a logarithm is not."""
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
