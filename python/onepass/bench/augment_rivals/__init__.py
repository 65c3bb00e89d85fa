"""The rivals of `onepass bench augment`: the same chains by other packages, each in the best form that we found.

Each module has ``NAME``, the package's name in a registry, and ``step(work, images)``, which makes the call of one
batch, or returns None where the package lacks the work. All draw their parameters in the call. Those that do an
image at a time write it into a batch that is kept.
"""

from __future__ import annotations

from importlib import import_module, metadata
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from onepass.bench.augment_rivals.work import Work
from onepass.bench.probe import Step

__all__ = ["Work", "left_out", "rivals", "versions"]

# The names of the competitors, and their modules here.
_MODULES = {
    "torch": "eager",
    "torchvision": "vision",
    "opencv": "opencv",
    "albumentations": "albums",
    "kornia": "kornia",
}


def _module(name: str) -> ModuleType:
    return import_module(f"{__name__}.{_MODULES[name]}")


def rivals(work: Work, images: NDArray[np.uint8]) -> dict[str, Step]:
    """Makes the rivals' calls.

    Args:
        work: What is done.
        images: uint8, (n, height, width, 3).

    Returns:
        The calls by name, of those packages that are installed and can do the work.
    """
    made = {name: _module(name).step(work, images) for name in _MODULES if _missing(name) is None}
    return {name: step for name, step in made.items() if step is not None}


def versions() -> str:
    """Names the installed rivals with their versions."""
    found = [f"{name} {_version(name)}" for name in _MODULES if _missing(name) is None]
    return f"rivals: {', '.join(found)}"


def left_out() -> list[str]:
    """Writes a line for each rival that cannot be imported."""
    missing = {name: _missing(name) for name in _MODULES}
    return [f"left out: {name} ({reason})" for name, reason in missing.items() if reason is not None]


def _version(name: str) -> str:
    return metadata.version(_module(name).NAME)


def _missing(name: str) -> str | None:
    """Says why a rival cannot be imported; None where it can."""
    module = _module(name)
    try:
        metadata.version(module.NAME)
    except metadata.PackageNotFoundError:
        return f"{module.NAME} is not installed"
    try:
        module.load()
    except Exception as error:  # whatever another package raises, the others are still worth timing
        return f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
    return None
