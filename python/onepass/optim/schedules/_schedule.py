"""What all schedules share: being called, a preview, and how they are put together and shown."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import MISSING, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onepass.optim.schedules._combine import product, sequence


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
        from onepass.optim.schedules._combine import sequence

        return sequence(self, other) if isinstance(other, Schedule) else NotImplemented

    def __mul__(self, other: Schedule | float) -> product:
        """The product of both factors."""
        from onepass.optim.schedules._combine import product
        from onepass.optim.schedules._shapes import constant

        if isinstance(other, Real):
            return product(self, constant(float(other)))
        if not isinstance(other, Schedule):
            return NotImplemented
        return product(self, other)

    def __rmul__(self, other: float) -> product:
        """This schedule scaled; the number stands first, as it was written."""
        from onepass.optim.schedules._combine import product
        from onepass.optim.schedules._shapes import constant

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
