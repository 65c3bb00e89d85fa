"""The command `onepass`: one file a subcommand, put together in `app`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import typer


def one_of(argument: str, choices: Iterable[str]) -> Callable[[str], str]:
    """A parser for an argument that must be one of a few words.

    Args:
        argument: Its name, for the message.
        choices: The words.
    """
    known = list(choices)

    def parse(value: str) -> str:
        if value not in known:
            raise typer.BadParameter(f"{argument} must be one of {', '.join(known)}, got {value}")
        return value

    return parse


def finite(argument: str, value: float | None) -> None:
    """Refuses infinity and what is no number; None is no value at all."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{argument} must be finite, got {value}")


@contextmanager
def writing(argument: str, path: Path) -> Iterator[None]:
    """Tells of a file or folder that cannot be written, or a picture's unknown suffix, as of a wrong argument."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{argument} must be a place that can be written, got {path} ({error})") from None


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Sets torch's number of threads, which is ours too, and sets it back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
