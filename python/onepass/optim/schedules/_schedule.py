"""The schedule: what all share, and the constant, the sequence and the product that its operators make."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import MISSING, dataclass, fields
from functools import cached_property, reduce
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from onepass._arguments import told

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Numbers:
    """The functions that formulas use, for one step."""

    cos, sqrt, minimum, maximum, count = math.cos, math.sqrt, min, max, staticmethod(bisect_right)

    @staticmethod
    def pick(values: Any, i: Any) -> Any:
        """An entry of a list."""
        return values[i]

    @staticmethod
    def where(condition: Any, then: Any, otherwise: Any) -> Any:
        """One of the two."""
        return then if condition else otherwise


class Arrays:
    """The same functions for an array of steps."""

    cos, sqrt, minimum, maximum, where = np.cos, np.sqrt, np.minimum, np.maximum, np.where

    @staticmethod
    def count(bounds: Any, t: Any) -> Any:
        """How many of the sorted bounds are at most t."""
        return np.searchsorted(np.asarray(bounds, dtype=np.float64), t, side="right")

    @staticmethod
    def pick(values: Any, i: Any) -> Any:
        """An entry of a list for each index."""
        return np.asarray(values, dtype=np.float64)[i]


class Schedule:
    """Gives the factor of the learning rate at a step, f(t); steps count from 0.

    Schedules are immutable and compare by value. ``a >> b`` is a until its end and then b from its beginning,
    ``a * b`` is their product, ``0.5 * a`` a scaled one. Beyond its length a schedule keeps its last value.

    This is the base class: call one of this module's functions, or `parse`, to make a schedule.

    Example:
        >>> from onepass.optim.schedules import constant, linear, warmup
        >>> schedule = warmup(2) >> 0.5 * linear(2)
        >>> schedule
        warmup(2) >> constant(0.5) * linear(2)
        >>> [schedule(step) for step in range(6)]
        [0.0, 0.5, 0.5, 0.25, 0.0, 0.0]
        >>> schedule.length
        4
    """

    # How many arguments repr writes without their names.
    _positional: ClassVar[int] = 1

    @property
    def length(self) -> float | None:
        """Steps until the schedule has ended, or None if it has no end."""
        raise NotImplementedError

    def _at(self, t: Any, m: Any) -> Any:
        """The formula, written once for numbers and for arrays; m is `Numbers` or `Arrays`."""
        raise NotImplementedError

    def __call__(self, step: float) -> float:
        """Returns the factor at a step.

        Args:
            step: The number of updates that were taken before it: 0 for the first.

        Raises:
            ValueError: The step is negative.

        Example:
            >>> from onepass.optim.schedules import linear
            >>> linear(4)(1)
            0.75
        """
        if step < 0:
            raise ValueError(f"{type(self).__name__}: step must be at least 0, got {step}")
        return self._at(step, Numbers)  # type: ignore[no-any-return]

    def lr_at(self, step: float, lr: float = 1.0) -> float:
        """Returns the learning rate at a step, lr f(step).

        Args:
            step: As for a call.
            lr: The learning rate at factor 1.

        Raises:
            ValueError: The step is negative.

        Example:
            >>> from onepass.optim.schedules import linear
            >>> linear(4).lr_at(2, lr=0.1)
            0.05
        """
        return lr * self(step)

    def preview(self, steps: int | None = None, lr: float = 1.0) -> NDArray[np.float64]:
        """Computes the learning rates of the steps 0 to steps - 1 as one array.

        They may differ from the rates of single calls in the last bit, because numpy's cosine and power do.

        Args:
            steps: How many; by default up to the end and including it.
            lr: The learning rate at factor 1.

        Returns:
            float64 of shape (steps,).

        Raises:
            ValueError: The schedule has no end and `steps` is not given, or `steps` is negative.

        Example:
            >>> from onepass.optim.schedules import linear
            >>> linear(4).preview(lr=0.5).tolist()
            [0.5, 0.375, 0.25, 0.125, 0.0]
        """
        if steps is None:
            if self.length is None:
                raise ValueError(
                    f"preview: steps must be given for a schedule without an end, got None for {told(self)}"
                )
            steps = math.ceil(self.length) + 1
        if steps < 0:
            raise ValueError(f"preview: steps must be at least 0, got {steps}")
        values = np.asarray(self._at(np.arange(steps), Arrays), dtype=np.float64)
        return lr * np.broadcast_to(values, (steps,))

    def __rshift__(self, other: Schedule) -> sequence:
        """Follows this schedule with another, which begins at its end: `sequence`."""
        return sequence(self, other) if isinstance(other, Schedule) else NotImplemented

    def __mul__(self, other: Schedule | float) -> product:
        """Multiplies the factors of this schedule by those of another, or by a number: `product`."""
        if isinstance(other, Real):
            return product(self, constant(float(other)))
        if not isinstance(other, Schedule):
            return NotImplemented
        return product(self, other)

    def __rmul__(self, other: float) -> product:
        """Scales this schedule; in its text the number stands first, as it was written."""
        if not isinstance(other, Real):
            return NotImplemented
        return product(constant(float(other)), self)

    def __repr__(self) -> str:
        """Writes the text that `parse` reads; arguments that have their defaults are left out."""
        shown = []
        for place, field in enumerate(fields(self)):  # type: ignore[arg-type]  # all schedules are dataclasses
            value = getattr(self, field.name)
            if field.default is MISSING or value != field.default:
                named = place >= self._positional
                shown.append(f"{field.name}={value!r}" if named else repr(value))
        return f"{type(self).__name__}({', '.join(shown)})"


def check_real(
    schedule: object, name: str, value: Any, low: float = -math.inf, *, above: bool = False, high: float = math.inf
) -> None:
    """Raises TypeError unless a value is a number, ValueError unless it is finite and within its limits.

    If the value is the field `name` of a schedule, the field holds it as Python's own number afterwards.

    Args:
        schedule: The schedule whose argument the value is; its class is named in the error.
        name: The argument.
        value: What was given.
        low: The smallest value.
        above: `low` itself is not allowed.
        high: The largest value.
    """
    function = type(schedule).__name__
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{function}: {name} must be a number, got {told(value)}")
    size = float(value)
    if not ((size > low if above else size >= low) and size <= high and math.isfinite(size)):
        wanted = "finite"
        if low != -math.inf:
            wanted += f" and {'above' if above else 'at least'} {low:g}"
        if high != math.inf:
            wanted += f" and at most {high:g}"
        raise ValueError(f"{function}: {name} must be {wanted}, got {told(value)}")
    kind: type[Any] = type(value)
    if kind not in (int, float) and getattr(schedule, name, None) is value:
        # A float32 of numpy would compute the factors in float32.
        object.__setattr__(schedule, name, int(value) if isinstance(value, Integral) else size)


def check_parts(schedule: object, parts: tuple[Any, ...]) -> None:
    """Raises ValueError if there is no part, TypeError if one is not a schedule."""
    name = type(schedule).__name__
    if not parts:
        raise ValueError(f"{name}: parts must be at least one schedule, got none")
    for i, part in enumerate(parts):
        if not isinstance(part, Schedule):
            raise TypeError(f"{name}: parts[{i}] must be a schedule, got {told(part)}")


# Lower case like the functions that they stand for: who uses one calls it.
@dataclass(frozen=True, repr=False)
class constant(Schedule):
    """Keeps the factor: f = factor.

    Args:
        factor: The factor, at least 0.
        steps: The length, at least 0, if another schedule is to follow; None for no end.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument is not a number.

    Example:
        >>> from onepass.optim.schedules import constant
        >>> schedule = constant(0.1, steps=2) >> constant()
        >>> [schedule(step) for step in range(4)]
        [0.1, 0.1, 1.0, 1.0]
    """

    factor: float = 1.0
    steps: float | None = None

    def __post_init__(self) -> None:
        check_real(self, "factor", self.factor, 0)
        if self.steps is not None:
            check_real(self, "steps", self.steps, 0)

    @property
    def length(self) -> float | None:
        """`steps`."""
        return self.steps

    def _at(self, t: Any, m: Any) -> Any:
        return self.factor


@dataclass(frozen=True, repr=False, init=False)
class sequence(Schedule):
    """Puts one schedule after the other; ``a >> b`` makes one, too.

    f(t) = f_i(t - b_i), where part i is the last one that has begun at step t, and b_i, its beginning, is the sum
    of the lengths before.

    Args:
        parts: Schedules, at least one; all but the last must have an end. At its end a part gives way to the next.

    Raises:
        ValueError: There is no part, or a part that is not the last has no end.
        TypeError: A part is not a schedule.

    Example:
        >>> from onepass.optim.schedules import linear, sequence, warmup
        >>> schedule = sequence(warmup(2), linear(4))
        >>> [schedule(step) for step in range(7)]
        [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    parts: tuple[Schedule, ...]

    def __init__(self, *parts: Schedule) -> None:
        check_parts(self, parts)
        flat = [p for part in parts for p in (part.parts if isinstance(part, sequence) else (part,))]
        for i, part in enumerate(flat[:-1]):
            if part.length is None:
                raise ValueError(
                    f"sequence: parts[{i}] must have an end to be followed by another, got {told(part)}; "
                    f"take({told(part)}, steps) gives it one"
                )
        object.__setattr__(self, "parts", tuple(flat))

    @cached_property
    def bounds(self) -> list[float]:
        """The steps at which a part gives way to the next."""
        lengths = [part.length or 0 for part in self.parts[:-1]]
        return [sum(lengths[: i + 1]) for i in range(len(lengths))]

    @cached_property
    def length(self) -> float | None:
        """The sum of the lengths, or None if the last part has no end."""
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
    """Multiplies schedules that count from the same step: f = f_1 f_2 ...; ``a * b`` makes one, too.

    Args:
        parts: Schedules, at least one. The product ends when the last of them does. It has no end if one of them
            has none; constants without an end do not count.

    Raises:
        ValueError: There is no part.
        TypeError: A part is not a schedule.

    Example:
        >>> from onepass.optim.schedules import linear, product, step
        >>> schedule = product(linear(4), step(2, gamma=0.5))
        >>> [schedule(t) for t in range(5)]
        [1.0, 0.75, 0.25, 0.125, 0.0]
    """

    parts: tuple[Schedule, ...]

    def __init__(self, *parts: Schedule) -> None:
        check_parts(self, parts)
        flat = [p for part in parts for p in (part.parts if isinstance(part, product) else (part,))]
        object.__setattr__(self, "parts", tuple(flat))

    @property
    def length(self) -> float | None:
        """The largest of the lengths, or None if a part that counts has none."""
        plain = [p for p in self.parts if not (isinstance(p, constant) and p.steps is None)]
        lengths = [part.length for part in plain or self.parts]
        known = [length for length in lengths if length is not None]
        return max(known) if len(known) == len(lengths) else None

    def _at(self, t: Any, m: Any) -> Any:
        return reduce(lambda value, part: value * part._at(t, m), self.parts[1:], self.parts[0]._at(t, m))

    def __repr__(self) -> str:
        return " * ".join(f"({part!r})" if isinstance(part, sequence) else repr(part) for part in self.parts)
