"""Where the rows of a monitor go: history, file and callbacks. No error of theirs gets through."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onepass._arguments import told
from onepass.monitor._file import RunFile
from onepass.monitor.history import History

__all__ = ["Outlet"]


class Outlet:
    """Hands on rows; turns each error into a warning that names the part, once.

    Args:
        callbacks: Objects with methods on_run, on_step, on_layers, on_epoch, on_event, on_end, or some of these.
    """

    def __init__(self, callbacks: list[Any]) -> None:
        self.history = History()
        self.step = 0
        """The step that events are of."""
        self._callbacks = callbacks
        self._file: RunFile | None = None
        self._warned: set[str] = set()

    def open(self, path: Path) -> None:
        """Writes rows to a new file, too."""
        self._file = RunFile(path)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self.guarded("the file", self._file.close)

    def emit(self, rows: list[dict[str, Any]]) -> None:
        """Hands rows to the history, the file and the callbacks."""
        self.history._add(rows)
        if self._file is not None:
            try:
                self._file.write(rows)
            except Exception as error:  # a full disk
                broken, self._file = self._file, None
                with contextlib.suppress(Exception):
                    broken.close()
                self.failed("the file", error)
        for callback in self._callbacks:
            for row in rows:
                self._call(callback, row)

    def _call(self, callback: Any, row: dict[str, Any]) -> None:
        method = getattr(callback, f"on_{row['kind']}", None)
        if method is None:
            return
        try:
            method(row)
        except Exception as error:  # the user's; the training goes on
            name = type(callback).__name__
            text = f"{name}.on_{row['kind']} raised {type(error).__name__}: {error}"
            if self.warn(name, f"Monitor: callback {text}") and row.get("name") != "callback_failed":
                self.event("callback_failed", text)

    def event(self, name: str, text: str) -> None:
        self.emit([{"kind": "event", "step": self.step, "name": name, "text": text}])

    def guarded(self, part: str, do: Callable[[], object]) -> None:
        try:
            do()
        except Exception as error:  # whatever goes wrong here, the training goes on
            self.failed(part, error)

    def failed(self, part: str, error: Exception) -> None:
        """Warns, once for each part, that it failed; the history has it as an event."""
        text = f"{part} raised {type(error).__name__}: {error}"
        if self.warn(part, f"Monitor: {text}"):
            self.event("monitor_failed", text)

    def refused(self, function: str, name: str, wanted: str, got: Any) -> None:
        self.warn(f"{function} {name}", f"Monitor.{function}: {name} must be {wanted}, got {told(got)}; left out")

    def warn(self, key: str, text: str) -> bool:
        """Warns once for each key; returns whether it was the first time."""
        if key in self._warned:
            return False
        self._warned.add(key)
        # Where warnings are errors, this one must not stop the training either.
        with contextlib.suppress(Warning):
            warnings.warn(text, RuntimeWarning, stacklevel=4)
        return True
