"""What all schedules share: being called, a preview, and how they are put together and shown."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import MISSING, dataclass, fields
from functools import cached_property, reduce
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Numbers:
    """The functions of a formula, for one step."""

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
    """A factor as a function of the step, which counts from 0.

    Schedules are immutable and compare by value. ``a >> b`` is a until its end and then b from its beginning,
    ``a * b`` their product, ``0.5 * a`` a scaled one. Beyond its length a schedule keeps its last value.
    """

    # In repr these stand behind each other without names.
    _positional: ClassVar[int] = 1

    @property
    def length(self) -> float | None:
        """Steps until the schedule has ended, or None if it has no end."""
        raise NotImplementedError

    def _at(self, t: Any, m: Any) -> Any:
        """The formula: written once, for numbers and for arrays; m has the functions."""
        raise NotImplementedError

    def __call__(self, step: float) -> float:
        """The factor at a step.

        Args:
            step: Number of updates that were taken before: 0 for the first.

        Raises:
            ValueError: The step is negative.
        """
        if step < 0:
            raise ValueError(f"{type(self).__name__}: step must be at least 0, got {step}")
        return self._at(step, Numbers)  # type: ignore[no-any-return]

    def lr_at(self, step: float, lr: float = 1.0) -> float:
        """The learning rate at a step, if it is `lr` at factor 1."""
        return lr * self(step)

    def preview(self, steps: int | None = None, lr: float = 1.0) -> NDArray[np.float64]:
        """The learning rates of the first steps, computed as arrays.

        They may differ from those of single calls in the last bit, because numpy's cosine and power do.

        Args:
            steps: How many; without it those until the end, and the end.
            lr: The rate at factor 1.

        Returns:
            float64 of shape (steps,).

        Raises:
            ValueError: The schedule has no end and `steps` is not given, or steps is negative.
        """
        if steps is None:
            if self.length is None:
                raise ValueError(
                    f"preview: steps must be given for a schedule without an end, got None for {self!r}"
                )
            steps = math.ceil(self.length) + 1
        if steps < 0:
            raise ValueError(f"preview: steps must be at least 0, got {steps}")
        values = np.asarray(self._at(np.arange(steps), Arrays), dtype=np.float64)
        return lr * np.broadcast_to(values, (steps,))

    def __rshift__(self, other: Schedule) -> sequence:
        """This schedule until its end, then the other."""
        return sequence(self, other) if isinstance(other, Schedule) else NotImplemented

    def __mul__(self, other: Schedule | float) -> product:
        """The product of both factors."""
        if isinstance(other, Real):
            return product(self, constant(float(other)))
        if not isinstance(other, Schedule):
            return NotImplemented
        return product(self, other)

    def __rmul__(self, other: float) -> product:
        """This schedule scaled; the number stands first, as it was written."""
        if not isinstance(other, Real):
            return NotImplemented
        return product(constant(float(other)), self)

    def __repr__(self) -> str:
        """The text that `parse` reads, without what is the default."""
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
    """Raises TypeError unless the value is a number, ValueError unless it is from `low` (or above it) to `high`.

    Infinity is no number here. A field of this name then holds the number as Python's own.
    """
    function = type(schedule).__name__
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{function}: {name} must be a number, got {value!r}")
    size = float(value)
    if not ((size > low if above else size >= low) and size <= high and math.isfinite(size)):
        wanted = "finite"
        if low != -math.inf:
            wanted += f" and {'above' if above else 'at least'} {low:g}"
        if high != math.inf:
            wanted += f" and at most {high:g}"
        raise ValueError(f"{function}: {name} must be {wanted}, got {value!r}")
    kind: type[Any] = type(value)
    if kind not in (int, float) and getattr(schedule, name, None) is value:
        # float32 of numpy would compute the factors with its own few digits.
        object.__setattr__(schedule, name, int(value) if isinstance(value, Integral) else size)


def check_parts(schedule: object, parts: tuple[Any, ...]) -> None:
    name = type(schedule).__name__
    if not parts:
        raise ValueError(f"{name}: parts must be at least one schedule, got none")
    for i, part in enumerate(parts):
        if not isinstance(part, Schedule):
            raise TypeError(f"{name}: parts[{i}] must be a schedule, got {part!r}")


# Lower case like the functions that they stand for: who uses one calls it.
@dataclass(frozen=True, repr=False)
class constant(Schedule):
    """f = factor.

    Args:
        factor: The factor, at least 0.
        steps: The length if another schedule is to follow, else None.
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
    """One schedule after the other: f_i(t - (length of those before)).

    Args:
        parts: Schedules; all but the last must have an end. At its end a part gives way to the next.

    Raises:
        ValueError: A part that is not the last has no end.
    """

    parts: tuple[Schedule, ...]

    def __init__(self, *parts: Schedule) -> None:
        check_parts(self, parts)
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
        check_parts(self, parts)
        flat = [p for part in parts for p in (part.parts if isinstance(part, product) else (part,))]
        object.__setattr__(self, "parts", tuple(flat))

    @property
    def length(self) -> float | None:
        """The largest of the lengths."""
        plain = [p for p in self.parts if not (isinstance(p, constant) and p.steps is None)]
        lengths = [part.length for part in plain or self.parts]
        known = [length for length in lengths if length is not None]
        return max(known) if len(known) == len(lengths) else None

    def _at(self, t: Any, m: Any) -> Any:
        return reduce(lambda value, part: value * part._at(t, m), self.parts[1:], self.parts[0]._at(t, m))

    def __repr__(self) -> str:
        return " * ".join(f"({part!r})" if isinstance(part, sequence) else repr(part) for part in self.parts)
