"""The bar that shows how far a benchmark is."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["Rounds"]

# Seconds between two pictures of the bar.
_PAUSE = 0.5


class Rounds:
    """Shows a bar on a terminal, and nothing elsewhere.

    rich would draw it from a thread of its own, in the middle of a timed call. Here it is drawn only when the
    harness says that a round is over.

    Args:
        console: Where it is shown.
        total: Rounds of all cases together.
    """

    def __init__(self, console: Console, total: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(
            *columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
        )
        self._task = self._progress.add_task("", total=total)
        self._drawn = 0.0

    def __enter__(self) -> Rounds:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, name: str) -> None:
        """Shows the name of the case that begins.

        Args:
            name: The name.
        """
        self._progress.update(self._task, description=name, refresh=True)

    def advance(self) -> None:
        """Counts a round, and draws the bar if the last picture is old enough."""
        now = time.monotonic()
        old = now - self._drawn > _PAUSE
        self._progress.update(self._task, advance=1, refresh=old)
        if old:
            self._drawn = now
