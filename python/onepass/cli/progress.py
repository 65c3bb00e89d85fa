"""The progress bar of the harnesses, shown only where its console is a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T")

# Seconds between two pictures of a bar that is drawn in between.
_PAUSE = 0.5


class Bar:
    """Shows how many pieces of work are done."""

    def __init__(
        self, name: str, total: int | None, console: Console | None = None, *, in_between: bool = False
    ) -> None:
        """Makes a bar that is not shown yet.

        Args:
            name: What is done.
            total: How many pieces there are, if that is known.
            console: Where it is shown: by default the standard error.
            in_between: Whether it is drawn only when a piece is done. Otherwise rich draws it from a thread of its
                own, in the middle of what may be a timed call.
        """
        if console is None:
            console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            auto_refresh=not in_between,
            # Otherwise what is printed would go to the standard error, too.
            redirect_stdout=not console.stderr,
            disable=not console.is_terminal,
        )
        self._in_between = in_between
        self._drawn = 0.0
        self._task = self._progress.add_task(name, total=total)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, name: str) -> None:
        """Shows the name of the work that begins.

        Args:
            name: The name.
        """
        self._progress.update(self._task, description=name, refresh=True)

    def advance(self) -> None:
        """Counts a piece; a bar that is drawn in between is drawn if its last picture is old enough."""
        now = time.monotonic()
        old = self._in_between and now - self._drawn > _PAUSE
        self._progress.update(self._task, advance=1, refresh=old)
        if old:
            self._drawn = now

    def over(self, work: Iterable[T]) -> Iterator[T]:
        """Counts the pieces that go through.

        Args:
            work: The pieces.
        """
        for piece in work:
            yield piece
            self.advance()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Takes the bar away for the time of the block, which may print."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()
