"""The shapes, one formula each.

T is `steps`, t the step and f the factor; where nothing else is said f(t) = f(T) for t > T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from onepass.optim.schedules._schedule import Schedule, check_real, constant, sequence


class Finite(Schedule):
    """A shape with a number of steps."""

    steps: float

    def __post_init__(self) -> None:
        check_real(self, "steps", self.steps, 0, above=True)
        if hasattr(self, "floor"):
            check_real(self, "floor", self.floor, 0)

    @property
    def length(self) -> float | None:
        """`steps`."""
        return self.steps


# Lower case like the functions that they stand for: who uses one calls it.
@dataclass(frozen=True, repr=False)
class linear(Finite):
    """f = start + (end - start) t / T.

    Args:
        steps: T, above 0.
        start: The factor at step 0, at least 0.
        end: The factor at step T, at least 0.
    """

    steps: float
    start: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real(self, "start", self.start, 0)
        check_real(self, "end", self.end, 0)

    def _at(self, t: Any, m: Any) -> Any:
        return self.start + (self.end - self.start) * m.minimum(t, self.steps) / self.steps


@dataclass(frozen=True, repr=False)
class warmup(Schedule):
    """f = start + (1 - start) t / T: in front of anything, ``warmup(500) >> cosine(10_000)``.

    Args:
        steps: T, at least 0; with 0 there is no warm-up.
        start: The factor of the first step, from 0 to 1. With 0 the first update changes no weight (as in
            transformers' schedules), but the moments of the optimizer.
    """

    steps: float
    start: float = 0.0

    def __post_init__(self) -> None:
        check_real(self, "steps", self.steps, 0)
        check_real(self, "start", self.start, 0, high=1)

    @property
    def length(self) -> float:
        """`steps`."""
        return self.steps

    def _at(self, t: Any, m: Any) -> Any:
        if self.steps == 0:
            return 1.0
        return self.start + (1.0 - self.start) * m.minimum(t, self.steps) / self.steps


@dataclass(frozen=True, repr=False)
class cosine(Finite):
    """f = floor + (1 - floor) (1 + cos(pi t / T)) / 2.

    Args:
        steps: T, above 0.
        floor: The factor at step T, at least 0.
        periodic: Beyond T go up again, as torch's CosineAnnealingLR does, instead of staying at the floor.

    Source: Loshchilov and Hutter 2017, equation 5.
    """

    steps: float
    floor: float = 0.0
    periodic: bool = False

    def _at(self, t: Any, m: Any) -> Any:
        if not self.periodic:
            t = m.minimum(t, self.steps)
        return self.floor + (1.0 - self.floor) * (1.0 + m.cos(math.pi * t / self.steps)) / 2.0


@dataclass(frozen=True, repr=False)
class polynomial(Finite):
    """f = floor + (1 - floor) (1 - t / T)^power.

    Args:
        steps: T, above 0.
        power: The exponent, at least 0.
        floor: The factor at step T, at least 0.
    """

    steps: float
    power: float = 1.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_real(self, "power", self.power, 0)

    def _at(self, t: Any, m: Any) -> Any:
        return self.floor + (1.0 - self.floor) * (1.0 - m.minimum(t, self.steps) / self.steps) ** self.power


@dataclass(frozen=True, repr=False)
class sqrt_decay(Finite):
    """f = 1 - (1 - floor) sqrt(t / T), the decay that Hägele et al. 2024 found best after a constant rate.

    Args:
        steps: T, above 0.
        floor: The factor at step T, at least 0.
    """

    steps: float
    floor: float = 0.0

    def _at(self, t: Any, m: Any) -> Any:
        return 1.0 - (1.0 - self.floor) * m.sqrt(m.minimum(t, self.steps) / self.steps)


@dataclass(frozen=True, repr=False)
class exponential(Schedule):
    """f = gamma^t, without an end.

    Args:
        gamma: The factor of each step, at least 0.
    """

    gamma: float

    def __post_init__(self) -> None:
        check_real(self, "gamma", self.gamma, 0)

    @property
    def length(self) -> None:
        """None."""
        return None

    def _at(self, t: Any, m: Any) -> Any:
        return float(self.gamma) ** t


@dataclass(frozen=True, repr=False)
class step(Schedule):
    """f = gamma^floor(t / size), without an end.

    Args:
        size: Steps between two decays, above 0.
        gamma: The factor of each decay, at least 0.
    """

    size: float
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_real(self, "size", self.size, 0, above=True)
        check_real(self, "gamma", self.gamma, 0)

    @property
    def length(self) -> None:
        """None."""
        return None

    def _at(self, t: Any, m: Any) -> Any:
        return float(self.gamma) ** (t // self.size)


@dataclass(frozen=True, repr=False)
class multistep(Schedule):
    """f = gamma^(number of milestones that are at most t); it ends with the last milestone.

    Args:
        milestones: Steps, in any order; one that is there twice counts twice.
        gamma: The factor of each decay, at least 0.
    """

    milestones: tuple[float, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        for i, milestone in enumerate(self.milestones):
            check_real(self, f"milestones[{i}]", milestone, 0)
        check_real(self, "gamma", self.gamma, 0)
        object.__setattr__(self, "milestones", tuple(sorted(self.milestones)))

    @property
    def length(self) -> float:
        """The last milestone."""
        return self.milestones[-1] if self.milestones else 0

    def _at(self, t: Any, m: Any) -> Any:
        return float(self.gamma) ** m.count(self.milestones, t)


@dataclass(frozen=True, repr=False)
class inverse_sqrt(Schedule):
    """f = sqrt(T / (T + t)), without an end.

    Args:
        timescale: T, above 0: after 3 T steps the factor is a half. Behind ``warmup(T)`` it is the schedule of
            Vaswani et al. 2017.
    """

    timescale: float

    def __post_init__(self) -> None:
        check_real(self, "timescale", self.timescale, 0, above=True)

    @property
    def length(self) -> None:
        """None."""
        return None

    def _at(self, t: Any, m: Any) -> Any:
        return m.sqrt(self.timescale / (self.timescale + t))


def wsd(
    warmup_steps: float, stable_steps: float, decay_steps: float, floor: float = 0.0, shape: str = "linear"
) -> Schedule:
    """Warm-up, stable, decay: up to 1, constant, down to the floor.

    Args:
        warmup_steps: Steps of the warm-up, at least 0.
        stable_steps: Steps at factor 1, at least 0.
        decay_steps: Steps of the decay, above 0.
        floor: The last factor, at least 0.
        shape: Of the decay: "linear", "cosine" or "sqrt" (`sqrt_decay`).

    Returns:
        The sequence of the three; its repr names them.

    Source: Hu et al. 2024 (MiniCPM), section 4.
    """
    if shape not in ("linear", "cosine", "sqrt"):
        raise ValueError(f"wsd: shape must be one of linear, cosine, sqrt, got {shape!r}")
    decay: Schedule = linear(decay_steps, 1.0, floor)
    if shape != "linear":
        decay = cosine(decay_steps, floor) if shape == "cosine" else sqrt_decay(decay_steps, floor)
    return sequence(warmup(warmup_steps), constant(1.0, stable_steps), decay)
