"""The progress bar of the harnesses: on the standard error, and only where that is a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

T = TypeVar("T")


class Bar:
    """Shows how many pieces of work are done."""

    def __init__(self, name: str, total: int | None) -> None:
        """Makes a bar that is not shown yet.

        Args:
            name: What is done.
            total: How many pieces there are, if that is known.
        """
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            # Otherwise what is printed would go to the standard error, too.
            redirect_stdout=False,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(name, total=total)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def over(self, work: Iterable[T]) -> Iterator[T]:
        """Counts the pieces that go through.

        Args:
            work: The pieces.
        """
        for piece in work:
            yield piece
            self._progress.advance(self._task)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Takes the bar away for the time of the block, which may print."""
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()
