"""Columns that grow row by row: what a history keeps of a run, 8 bytes a number."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


def _number_or_nan(value: Any) -> float:
    number = as_number(value)
    return _NAN if number is None else number


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

    def extend(self, values: Sequence[Any]) -> None:
        """Adds rows."""
        self.rows += len(values)
        if self.is_text:
            self.texts.extend(values)
            return
        try:
            self.numbers.extend(array("d", self._flat(values) if self.width else values))
        except TypeError:  # texts that stand for numbers, and values that stand for none
            for value in values:
                self.numbers.extend(self._several(value) if self.width else [_number_or_nan(value)])

    def _flat(self, values: Sequence[Any]) -> list[Any]:
        """Returns the numbers of all rows; raises TypeError if a row has another width."""
        if any(type(value) is not list or len(value) != self.width for value in values):
            raise TypeError
        return [number for value in values for number in value]

    def _several(self, value: Any) -> list[float]:
        if not isinstance(value, list) or len(value) != self.width:
            return [_NAN] * self.width
        return [_number_or_nan(one) for one in value]

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

    def extend(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows. What one lacks is nan (in texts None)."""
        # Columns take the values of neighbouring rows with the same names at once.
        for names, alike in itertools.groupby(rows, tuple):
            several = list(alike)
            for name in names:
                if name != "kind":
                    self._column(name, several[0][name]).extend([row[name] for row in several])
            self.rows += len(several)
        self._made = None

    def _column(self, name: str, like: Any) -> _Column:
        """Returns the column of a name with as many rows as the table has."""
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = _Column(self.rows, like)
        column.fill(self.rows)
        return column

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
