"""The file of a landscape: a line for what was asked, and one for each evaluated point, so that it can go on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["Points"]

_NAME = "landscape"
_FORMAT = 1


class Points:
    """The evaluated points, in memory and in a file if there is one."""

    def __init__(self, path: Path | None, asked: dict[str, Any]) -> None:
        """Reads the points that the file has.

        Args:
            path: The file; None to keep points in memory only.
            asked: What determines the values of points; a file that was written for something else is refused.

        Raises:
            ValueError: The file is no file of a landscape, or of another one.
        """
        self.path, self.asked = path, asked
        self.values: dict[tuple[int, int], float] = {}
        self.read = 0
        self._whole = 0
        if path is not None and path.exists():
            self._read(path)
        self.read = len(self.values)

    def __enter__(self) -> Points:
        self._file = None
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # What follows the last whole line is the rest of a line that was cut off.
            self._file = self.path.open("r+b" if self.path.exists() else "w+b")
            self._file.truncate(self._whole)
            self._file.seek(self._whole)
            if not self._whole:
                self._write({"kind": "landscape", "format": _FORMAT, **self.asked})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, row: int, column: int, loss: float) -> None:
        """Keeps the loss of a point, in the file at once."""
        self.values[row, column] = loss
        self._write({"row": row, "column": column, "loss": loss if math.isfinite(loss) else str(loss)})

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self._file.flush()

    def _read(self, path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            del lines[-1]
        if not lines:
            if path.stat().st_size:
                raise ValueError(f"{_NAME}: file must be one that landscape wrote, got no whole line: {path}")
            return
        try:
            head, *points = (json.loads(line) for line in lines)
            if head.pop("kind") != "landscape" or head.pop("format") != _FORMAT:
                raise KeyError("kind")
            for point in points:
                self.values[int(point["row"]), int(point["column"])] = float(point["loss"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{_NAME}: file must be one that landscape wrote, got {path}") from None
        asked = json.loads(json.dumps(self.asked))
        other = [name for name in sorted({*head, *asked}) if head.get(name) != asked.get(name)]
        if other:
            raise ValueError(
                f"{_NAME}: file must belong to these arguments, got {path}, which differs in {', '.join(other)}; "
                "delete it or name another"
            )
        self._whole = sum(map(len, lines))
