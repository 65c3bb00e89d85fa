"""History: what a monitor has recorded of a run, as columns."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onepass._arguments import listed, told
from onepass.monitor._file import FORMAT, read_rows
from onepass.monitor._table import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["History"]

_TABLES = ("steps", "layers", "epochs")


class History:
    """Holds what was recorded of a run: columns of its steps, its layers and its epochs.

    A `Monitor` fills it, and `History.read` makes it from a file. A column is a read-only numpy array: float64 of
    shape (rows,), numbers of rows int64, names objects. What is measured for each param group has the shape
    (rows, groups). What a row does not have is nan.

    Args:
        rows: The rows of a run file in their order, the first of kind "run". The default is a run without a row.

    Raises:
        TypeError: The rows cannot be iterated, or a row is no dict.
        ValueError: The first row is not of kind "run", or another one is.

    Example:
        >>> from onepass.monitor import History
        >>> run = {"kind": "run", "format": 1}
        >>> history = History([run, {"kind": "step", "step": 1, "epoch": 0, "loss": 2.5, "lr": [0.1]}])
        >>> history.steps["loss"]
        array([2.5])
        >>> history.steps["lr"].shape
        (1, 1)
    """

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        self.run: dict[str, Any] = {"kind": "run", "format": FORMAT}
        """The first line of the file: versions, model, optimizer, scheduler."""
        self.events: list[dict[str, Any]] = []
        """What happened, with the step, a name and a text."""
        self.end: dict[str, Any] | None = None
        """The last line: steps and seconds. None while the run goes on, and if it was killed."""
        self.truncated: int | None = None
        """The number of the line in whose middle the file ends, from 1; None if it ends with a line."""
        self._tables = {
            "steps": Table(("step", "epoch")),
            "layers": Table(("step",)),
            "epochs": Table(("epoch", "step")),
        }
        listed_rows = listed("History", "rows", rows, "dicts")
        for number, row in enumerate(listed_rows):
            if not isinstance(row, dict):
                raise TypeError(f"History: rows[{number}] must be a dict, got {told(row)}")
            if (row.get("kind") == "run") != (number == 0):
                raise ValueError(
                    f"History: rows[{number}] must {'' if number == 0 else 'not '}be of kind 'run', got "
                    f"{told(row.get('kind'))}"
                )
        self._add(listed_rows)

    def _add(self, rows: list[dict[str, Any]]) -> None:
        """Takes rows of the run file."""
        for kind, found in itertools.groupby(rows, lambda row: row.get("kind")):
            if kind == "step":
                self._tables["steps"].extend(found)
            else:
                for row in found:
                    self._add_other(kind, row)

    def _add_other(self, kind: Any, row: dict[str, Any]) -> None:
        if kind == "layers":
            for name, values in row["layers"].items():
                self._tables["layers"].extend([{"step": row["step"], "layer": name, **values}])
        elif kind == "epoch":
            self._tables["epochs"].extend([row])
        elif kind == "event":
            self.events.append(row)
        elif kind == "run":
            self.run = row
        elif kind == "end":
            self.end = row
        else:
            raise ValueError(f"History: kind must be that of a row of a run file, got {told(kind)}")

    @property
    def steps(self) -> dict[str, NDArray[Any]]:
        """The columns of the steps: step, epoch, loss, lr, grad_norm and so on."""
        return self._tables["steps"].columns()

    @property
    def layers(self) -> dict[str, NDArray[Any]]:
        """The columns of the layers, a row for each layer at each step at which they were looked at."""
        return self._tables["layers"].columns()

    @property
    def epochs(self) -> dict[str, NDArray[Any]]:
        """The columns of the epochs: epoch, step, train_loss, val_loss and so on."""
        return self._tables["epochs"].columns()

    def __len__(self) -> int:
        """Returns the number of recorded steps."""
        return self._tables["steps"].rows

    def __repr__(self) -> str:
        steps, epochs = len(self), self._tables["epochs"].rows
        return f"History({steps} steps, {epochs} epochs{'' if self.truncated is None else ', truncated'})"

    def to_pandas(self, table: str = "steps") -> Any:
        """Returns a table as a pandas DataFrame.

        A column of several param groups becomes one for each: ``lr.0``, ``lr.1``. With one group it keeps its
        name.

        Args:
            table: "steps", "layers" or "epochs".

        Returns:
            The pandas.DataFrame.

        Raises:
            ValueError: The table is none of these.
            ImportError: pandas is not installed.
        """
        if table not in _TABLES:
            raise ValueError(f"History.to_pandas: table must be one of {', '.join(_TABLES)}, got {told(table)}")
        try:
            import pandas  # type: ignore[import-untyped]
        except ImportError as error:
            raise ImportError("History.to_pandas: needs pandas: pip install pandas") from error
        columns: dict[str, NDArray[Any]] = {}
        for name, values in self._tables[table].columns().items():
            if values.ndim == 1:
                columns[name] = values
            elif values.shape[1] == 1:
                columns[name] = values[:, 0]
            else:
                columns.update({f"{name}.{group}": values[:, group] for group in range(values.shape[1])})
        return pandas.DataFrame({name: np.array(values) for name, values in columns.items()})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> History:
        """Reads a run file; one that breaks off is read up to its last whole line, and `truncated` says where.

        Args:
            path: A file that a `Monitor` has written.

        Raises:
            TypeError: The path is no path.
            OSError: The file cannot be read.
            ValueError: The file is empty, or is no run file; the message has the line.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"History.read: path must be a path, got {told(path)}")
        rows, cut = read_rows(Path(path))
        history = cls(rows)
        history.truncated = cut
        return history
