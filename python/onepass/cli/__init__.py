"""The command `onepass`: one file a subcommand, put together in `app`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import typer

from onepass import _native


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


def lacks_cuda() -> list[str]:
    """What is missing for the device cuda; nothing if it can be used."""
    lacks = []
    if not torch.cuda.is_available():
        lacks.append("torch sees no GPU")
    if _native.core.build_info()["cuda"] is None:
        lacks.append("onepass was built without CUDA")
    return lacks


def device_of(argument: str, name: str) -> torch.device:
    """The device cpu or cuda, which is refused where it is not there."""
    lacks = lacks_cuda() if name == "cuda" else []
    if lacks:
        raise typer.BadParameter(f"{argument} must be cpu where {' and '.join(lacks)}, got {name}")
    return torch.device(name)


def check_place(argument: str, path: Path) -> None:
    """Refuses a file or folder that cannot be written or made: now, not after minutes of work."""
    with _telling(argument, path):
        there = next(place for place in (path, *path.parents) if place.exists())
        if there != path and not there.is_dir():
            raise NotADirectoryError(f"{there} is no folder")
        if not os.access(there, os.W_OK):
            raise PermissionError("no permission")


def check_picture(argument: str, path: Path) -> None:
    """As `check_place`, and refuses a suffix that no picture has."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix[1:].lower() not in known:
        raise typer.BadParameter(f"{argument} must end in one of {', '.join(known)}, got {path}")
    check_place(argument, path)


@contextmanager
def writing(argument: str, path: Path) -> Iterator[None]:
    """Makes the folder that `path` is in, and tells of what cannot be written as of a wrong argument."""
    with _telling(argument, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield


@contextmanager
def _telling(argument: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
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
