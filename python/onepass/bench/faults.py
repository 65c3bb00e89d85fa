"""What is wrong with a competitor that is not timed, and where an error of it was raised."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import onepass

__all__ = ["RAISED", "WRONG", "Fault", "place_of", "raised"]

WRONG = "wrong"
RAISED = "raised"

# Code in which an error is seldom made: its caller's line says more.
_PACKAGES = tuple(f"{Path(file).parent}{os.sep}" for file in (onepass.__file__, torch.__file__))
_STANDARD = f"{sysconfig.get_path('stdlib')}{os.sep}"


@dataclass(frozen=True)
class Fault:
    """Says why a competitor is not timed."""

    how: str
    """`WRONG` or `RAISED`."""
    text: str

    def to_json(self) -> dict[str, str]:
        """Returns the fault as JSON can hold it."""
        return asdict(self)


def raised(error: Exception) -> Fault:
    """Makes the fault of a competitor that raised.

    Args:
        error: What it raised.
    """
    return Fault(RAISED, place_of(error))


def place_of(error: Exception) -> str:
    """Writes an error with its place: the innermost line outside of Python's, torch's and this package's code.

    Args:
        error: The error, which has been raised.
    """
    told = f"{type(error).__name__}: {error}".strip().splitlines()
    text = told[0] if told else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}, line {error.lineno}: {text}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if _is_own(frame.filename)] or frames
    if not own:
        return text
    return f"{_short(own[-1].filename)}, line {own[-1].lineno}, in {own[-1].name}: {text}"


def _is_own(path: str) -> bool:
    # Other packages are installed below the standard library's folder.
    standard = path.startswith(_STANDARD) and not re.search(r"[/\\](site|dist)-packages[/\\]", path)
    return not standard and not path.startswith(_PACKAGES)


def _short(path: str) -> str:
    """A path below the current folder or a folder of packages, from there; any other as it is."""
    for folder in sorted((os.getcwd(), *filter(None, sys.path)), key=len, reverse=True):
        if path.startswith(os.path.join(folder, "")):
            return os.path.relpath(path, folder)
    return path
