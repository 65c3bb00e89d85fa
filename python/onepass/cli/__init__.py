"""The command `onepass`: one file for each subcommand, put together in `app`; here is what they share."""

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
    """Makes a parser for an argument that must be one of a few words.

    Args:
        argument: Name of the argument, for the message.
        choices: The words.

    Returns:
        A function that returns its word, or raises typer.BadParameter for another one.
    """
    known = list(choices)

    def parse(value: str) -> str:
        if value not in known:
            raise typer.BadParameter(f"{argument} must be one of {', '.join(known)}, got {value}")
        return value

    return parse


def finite(argument: str, value: float | None) -> None:
    """Checks that a number is neither infinite nor nan.

    Args:
        argument: Name of the argument, for the message.
        value: The number; None, an option that was not given, passes.

    Raises:
        typer.BadParameter: The number is infinite or nan.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{argument} must be finite, got {value}")


def lacks_cuda() -> list[str]:
    """Lists what the device cuda lacks here; an empty list means that it can be used."""
    lacks = []
    if not torch.cuda.is_available():
        lacks.append("torch sees no GPU")
    if _native.core.build_info()["cuda"] is None:
        lacks.append("onepass was built without CUDA")
    return lacks


def device_of(argument: str, name: str) -> torch.device:
    """Returns the device cpu or cuda.

    Args:
        argument: Name of the argument, for the message.
        name: The device.

    Raises:
        typer.BadParameter: The device is cuda, and there is no GPU or no CUDA in the build.
    """
    lacks = lacks_cuda() if name == "cuda" else []
    if lacks:
        raise typer.BadParameter(f"{argument} must be cpu where {' and '.join(lacks)}, got {name}")
    return torch.device(name)


def check_place(argument: str, path: Path) -> None:
    """Checks that a file or folder can be written or made: now, not after minutes of work.

    Args:
        argument: Name of the argument, for the message.
        path: The file or folder, which need not exist.

    Raises:
        typer.BadParameter: It cannot be written or made.
    """
    with _reporting(argument, path):
        there = next(place for place in (path, *path.parents) if place.exists())
        if there != path and not there.is_dir():
            raise NotADirectoryError(f"{there} is no folder")
        if not os.access(there, os.W_OK):
            raise PermissionError("no permission")


def check_picture(argument: str, path: Path) -> None:
    """Checks as `check_place` does, and that the suffix is one of a picture.

    Args:
        argument: Name of the argument, for the message.
        path: The file, which need not exist.

    Raises:
        typer.BadParameter: matplotlib draws no such picture, or the file cannot be written.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix[1:].lower() not in known:
        raise typer.BadParameter(f"{argument} must end in one of {', '.join(known)}, got {path}")
    check_place(argument, path)


@contextmanager
def writing(argument: str, path: Path) -> Iterator[None]:
    """Makes the folder of a file; reports an OSError in the block as a wrong argument.

    Args:
        argument: Name of the argument, for the message.
        path: The file that the block writes.

    Raises:
        typer.BadParameter: The folder cannot be made, or the block cannot write.
    """
    with _reporting(argument, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield


@contextmanager
def _reporting(argument: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise typer.BadParameter(f"{argument} must be a place that can be written, got {path} ({error})") from None


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Sets torch's number of threads, which onepass uses, too, for the time of the block.

    Args:
        count: How many threads; None leaves the number as it is.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
