"""The shapes that rise or fall, one formula each.

T is `steps`, t the step and f the factor. Where a docstring says nothing else, f(t) = f(T) for t > T.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from onepass._arguments import listed, renamed, told
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


class Endless(Schedule):
    """A shape without an end."""

    @property
    def length(self) -> None:
        """None."""
        return None


# Lower case like the functions that they stand for: who uses one calls it.
@dataclass(frozen=True, repr=False)
class linear(Finite):
    """Moves the factor along a straight line: f = start + (end - start) t / T.

    Args:
        steps: T, above 0.
        start: The factor at step 0, at least 0.
        end: The factor at step T, at least 0.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument is not a number.

    Example:
        >>> from onepass.optim.schedules import linear
        >>> [linear(4)(step) for step in range(6)]
        [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
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
    """Raises the factor to 1 along a straight line: f = start + (1 - start) t / T.

    It stands in front of any other schedule: ``warmup(500) >> cosine(10_000)``.

    Args:
        steps: T, at least 0; 0 means no warm-up.
        start: The factor of the first step, from 0 to 1. With 0, as in the schedules of transformers, the first
            update changes the moments of the optimizer and no weight.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument is not a number.

    Example:
        >>> from onepass.optim.schedules import warmup
        >>> [warmup(4)(step) for step in range(6)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]

    Source: Goyal et al. 2017, section 2.2.
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
    """Lowers the factor along half a cosine: f = floor + (1 - floor) (1 + cos(pi t / T)) / 2.

    Args:
        steps: T, above 0.
        floor: The factor at step T, at least 0.
        periodic: Rise again beyond T, as torch's CosineAnnealingLR does, instead of staying at the floor.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument is not a number.

    Example:
        >>> from onepass.optim.schedules import cosine
        >>> [round(cosine(4, floor=0.1)(step), 3) for step in range(6)]
        [1.0, 0.868, 0.55, 0.232, 0.1, 0.1]

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
    """Lowers the factor by a power of the remaining share: f = floor + (1 - floor) (1 - t / T)^power.

    Args:
        steps: T, above 0.
        power: The exponent, at least 0.
        floor: The factor at step T, at least 0.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument is not a number.

    Example:
        >>> from onepass.optim.schedules import polynomial
        >>> [polynomial(4, power=2)(step) for step in range(6)]
        [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
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
    """Lowers the factor by a square root: f = 1 - (1 - floor) sqrt(t / T).

    Hägele et al. found it the best decay after a constant rate.

    Args:
        steps: T, above 0.
        floor: The factor at step T, at least 0.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument is not a number.

    Example:
        >>> from onepass.optim.schedules import sqrt_decay
        >>> [round(sqrt_decay(4)(step), 3) for step in range(6)]
        [1.0, 0.5, 0.293, 0.134, 0.0, 0.0]

    Source: Hägele et al. 2024 (the 1-sqrt cooldown).
    """

    steps: float
    floor: float = 0.0

    def _at(self, t: Any, m: Any) -> Any:
        return 1.0 - (1.0 - self.floor) * m.sqrt(m.minimum(t, self.steps) / self.steps)


@dataclass(frozen=True, repr=False)
class exponential(Endless):
    """Multiplies the factor by gamma at each step, without an end: f = gamma^t.

    Args:
        gamma: The factor of each step, at least 0.

    Raises:
        ValueError: gamma is negative or not finite.
        TypeError: gamma is not a number.

    Example:
        >>> from onepass.optim.schedules import exponential
        >>> [exponential(0.5)(step) for step in range(4)]
        [1.0, 0.5, 0.25, 0.125]
    """

    gamma: float

    def __post_init__(self) -> None:
        check_real(self, "gamma", self.gamma, 0)

    def _at(self, t: Any, m: Any) -> Any:
        return float(self.gamma) ** t


@dataclass(frozen=True, repr=False)
class step(Endless):
    """Multiplies the factor by gamma every few steps, without an end: f = gamma^floor(t / size).

    Args:
        size: Steps between two decays, above 0.
        gamma: The factor of each decay, at least 0.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument is not a number.

    Example:
        >>> from onepass.optim.schedules import step
        >>> [step(2, gamma=0.5)(t) for t in range(6)]
        [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    """

    size: float
    gamma: float = 0.1

    def __post_init__(self) -> None:
        check_real(self, "size", self.size, 0, above=True)
        check_real(self, "gamma", self.gamma, 0)

    def _at(self, t: Any, m: Any) -> Any:
        return float(self.gamma) ** (t // self.size)


@dataclass(frozen=True, repr=False)
class multistep(Schedule):
    """Multiplies the factor by gamma at each milestone: f = gamma^(number of milestones that are at most t).

    It ends with the last milestone.

    Args:
        milestones: Steps, each at least 0, in any order; one that is listed twice counts twice.
        gamma: The factor of each decay, at least 0.

    Raises:
        ValueError: An argument is out of range.
        TypeError: A milestone or gamma is not a number.

    Example:
        >>> from onepass.optim.schedules import multistep
        >>> [multistep((1, 3), gamma=0.5)(step) for step in range(5)]
        [1.0, 0.5, 0.5, 0.25, 0.25]
    """

    milestones: tuple[float, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        milestones = tuple(listed("multistep", "milestones", self.milestones, "numbers"))
        object.__setattr__(self, "milestones", milestones)
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
class inverse_sqrt(Endless):
    """Lowers the factor by the root of the step, without an end: f = sqrt(T / (T + t)), T = timescale.

    Args:
        timescale: T, above 0: after 3 T steps the factor is a half. After ``warmup(T)`` it is the schedule of the
            Transformer.

    Raises:
        ValueError: timescale is not above 0, or not finite.
        TypeError: timescale is not a number.

    Example:
        >>> from onepass.optim.schedules import inverse_sqrt
        >>> [round(inverse_sqrt(2)(step), 3) for step in (0, 1, 2, 6)]
        [1.0, 0.816, 0.707, 0.5]

    Source: Vaswani et al. 2017, section 5.3.
    """

    timescale: float

    def __post_init__(self) -> None:
        check_real(self, "timescale", self.timescale, 0, above=True)

    def _at(self, t: Any, m: Any) -> Any:
        return m.sqrt(self.timescale / (self.timescale + t))


# The arguments of wsd by those of its parts.
_WSD = {
    "warmup: steps": "warmup_steps",
    "constant: steps": "stable_steps",
    "linear: steps": "decay_steps",
    "linear: end": "floor",
}


def wsd(
    warmup_steps: float, stable_steps: float, decay_steps: float, floor: float = 0.0, shape: str = "linear"
) -> Schedule:
    """Builds warm-up, stable, decay: up to 1, constant, down to the floor.

    Args:
        warmup_steps: Steps of the warm-up, at least 0.
        stable_steps: Steps at factor 1, at least 0.
        decay_steps: Steps of the decay, above 0.
        floor: The last factor, at least 0.
        shape: The shape of the decay: "linear", "cosine" or "sqrt" (`sqrt_decay`).

    Returns:
        The sequence of the three, whose repr names them.

    Raises:
        ValueError: An argument is out of range.
        TypeError: A number of steps, or the floor, is not a number.

    Example:
        >>> from onepass.optim.schedules import wsd
        >>> wsd(2, 3, 2)
        warmup(2) >> constant(steps=3) >> linear(2)
        >>> [wsd(2, 3, 2)(step) for step in range(8)]
        [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]

    Source: Hu et al. 2024 (MiniCPM), section 4.
    """
    if shape not in ("linear", "cosine", "sqrt"):
        raise ValueError(f"wsd: shape must be one of linear, cosine, sqrt, got {told(shape)}")
    if stable_steps is None:
        raise TypeError("wsd: stable_steps must be a number, got None")
    with renamed("wsd", _WSD):
        decay: Schedule = linear(decay_steps, 1.0, floor)
        if shape != "linear":
            decay = cosine(decay_steps, floor) if shape == "cosine" else sqrt_decay(decay_steps, floor)
        return sequence(warmup(warmup_steps), constant(1.0, stable_steps), decay)
