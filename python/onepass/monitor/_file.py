"""Run files: JSON Lines, one object a line, written as a training goes and read back afterwards."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from onepass._arguments import told
from onepass.monitor._table import as_json_number

__all__ = ["FORMAT", "KINDS", "RunFile", "read_rows", "strict"]

FORMAT = 1
KINDS = ("run", "step", "layers", "epoch", "event", "end")
_NAME = "History.read"


def strict(value: Any) -> Any:
    """Returns the value as strict JSON can hold it: numbers that are not finite become texts."""
    if isinstance(value, float):
        return value if math.isfinite(value) else as_json_number(value)
    if isinstance(value, Mapping):
        return {str(name): strict(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(one) for one in value]
    return value


_ENCODE = json.JSONEncoder(allow_nan=False).encode


def _text_of(row: dict[str, Any]) -> str:
    try:
        return _ENCODE(row)
    except ValueError:  # a number that is not finite
        return _ENCODE(strict(row))


class RunFile:
    """Writes rows to a new file; each call leaves whole lines on the disk.

    Args:
        path: The file, which must not hold anything yet: a run is never overwritten.

    Raises:
        FileExistsError: It does.
    """

    def __init__(self, path: Path) -> None:
        if path.exists() and path.stat().st_size:
            raise FileExistsError(
                f"Monitor: file must be a new or an empty file, got {told(str(path))}, which holds something"
            )
        self._file: TextIO | None = path.open("w", encoding="utf-8")

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Writes rows, and hands them to the operating system."""
        if self._file is not None and rows:
            self._file.write("".join([f"{_text_of(row)}\n" for row in rows]))
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_rows(path: Path) -> tuple[list[dict[str, Any]], int | None]:
    """Reads a run file up to its last whole line.

    Returns:
        The rows, and the number of the line in whose middle the file ends (from 1), or None.

    Raises:
        ValueError: The file is empty, holds no whole line, or is no run file.
    """
    data = path.read_bytes()
    if not data:
        raise ValueError(f"{_NAME}: path must be a run file of onepass.monitor, got an empty file: {path}")
    *whole, rest = data.split(b"\n")
    rows = [_row(line, number, path) for number, line in enumerate(whole, 1)]
    cut = None
    if rest:
        # A last line without its end may still be whole: an editor has taken the line end away.
        try:
            rows.append(_row(rest, len(whole) + 1, path))
        except ValueError:
            if not whole and not rest.startswith(b'{"kind": "run"'):
                raise
            cut = len(whole) + 1
    if not rows:
        raise ValueError(f"{_NAME}: path must hold at least one whole line, got none: {path}")
    if rows[0]["kind"] != "run":
        raise ValueError(
            f"{_NAME}: path must begin with a line of kind 'run', got {told(rows[0]['kind'])}: {path}"
        )
    if rows[0].get("format") != FORMAT:
        raise ValueError(
            f"{_NAME}: path must have format {FORMAT}, got {told(rows[0].get('format'))} (written by onepass "
            f"{rows[0].get('onepass')}): {path}"
        )
    return rows, cut


def _row(line: bytes, number: int, path: Path) -> dict[str, Any]:
    """Returns the object in a line."""
    try:
        row = json.loads(line)
    except ValueError:  # no JSON, or no UTF-8
        row = None
    if not isinstance(row, dict) or row.get("kind") not in KINDS:
        got = line[:60].decode("utf-8", "replace")
        raise ValueError(
            f"{_NAME}: path must be a run file of onepass.monitor, a JSON object of a kind ({', '.join(KINDS)}) a "
            f"line, got in line {number} {told(got)}: {path}"
        )
    return row
