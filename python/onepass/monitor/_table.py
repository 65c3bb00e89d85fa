"""Columns that grow row by row: what a history keeps of a run, 8 bytes a number."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Table", "as_json_number", "as_number"]

_NAN = math.nan


def as_json_number(value: float) -> float | str:
    """Returns what strict JSON can hold: the number, or the text "nan", "inf" or "-inf"."""
    if math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"


def as_number(value: Any) -> float | None:
    """Returns the number that a value of a row stands for; None if it stands for none."""
    if isinstance(value, (int, float)):
        return float(value)
    return float(value) if value in ("nan", "inf", "-inf") else None


class _Column:
    """One column: a number or a text a row, or as many numbers as there are param groups."""

    def __init__(self, rows: int, like: Any) -> None:
        self.width = len(like) if isinstance(like, list) else 0
        self.is_text = not self.width and as_number(like) is None
        self.numbers = array("d")
        self.texts: list[Any] = []
        self.rows = 0
        self.fill(rows)

    def fill(self, rows: int) -> None:
        """Adds rows without a value until there are that many."""
        missing = rows - self.rows
        if missing > 0:
            if self.is_text:
                self.texts.extend([None] * missing)
            else:
                self.numbers.extend([_NAN] * (missing * max(self.width, 1)))
            self.rows = rows

    def append(self, value: Any) -> None:
        """Adds a row."""
        self.rows += 1
        if type(value) is float and not self.width and not self.is_text:  # most are
            self.numbers.append(value)
        elif self.is_text:
            self.texts.append(value)
        elif self.width:
            self.numbers.extend(self._several(value))
        else:
            number = as_number(value)
            self.numbers.append(_NAN if number is None else number)

    def _several(self, value: Any) -> array[float]:
        if not isinstance(value, list) or len(value) != self.width:
            return array("d", [_NAN] * self.width)
        try:
            return array("d", value)
        except TypeError:  # texts that stand for numbers
            numbers = [as_number(one) for one in value]
            return array("d", [_NAN if one is None else one for one in numbers])

    def values(self) -> NDArray[Any]:
        if self.is_text:
            made = np.empty(self.rows, dtype=object)
            made[:] = self.texts
            return made
        numbers = np.array(self.numbers, dtype=np.float64)
        return numbers.reshape(-1, self.width) if self.width else numbers


class Table:
    """Rows of one kind as columns; a column begins where its name first appears.

    Args:
        integers: Names of the columns that are int64.
    """

    def __init__(self, integers: tuple[str, ...]) -> None:
        self._integers = integers
        self._columns: dict[str, _Column] = {}
        self._made: dict[str, NDArray[Any]] | None = None
        self.rows = 0

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row. What it lacks is nan (in texts None)."""
        columns = self._columns
        for name, value in row.items():
            if name == "kind":
                continue
            column = columns.get(name)
            if column is None:
                column = columns[name] = _Column(self.rows, value)
            elif column.rows < self.rows:
                column.fill(self.rows)
            column.append(value)
        self.rows += 1
        self._made = None

    def columns(self) -> dict[str, NDArray[Any]]:
        """Returns the columns by name: (rows,), or (rows, param groups). They are made when they are asked for."""
        if self._made is None:
            self._made = dict(self._arrays())
        return dict(self._made)

    def _arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        for name, column in self._columns.items():
            column.fill(self.rows)
            values = column.values()
            if name in self._integers and not np.isnan(values).any():
                values = values.astype(np.int64)
            values.flags.writeable = False
            yield name, values
