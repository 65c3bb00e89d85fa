"""Cases of a user's own, from a file that is given by its path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

from onepass.bench.case import Case
from onepass.bench.faults import place_of

__all__ = ["CasesError", "cases_of", "is_file"]

_MODULE = "onepass_bench_cases"


class CasesError(ValueError):
    """Says why a file gives no cases."""


def is_file(op: str) -> bool:
    """Says whether what is to be run is a file of cases, not the name of an operation.

    Args:
        op: The argument of `onepass bench`.
    """
    return op.endswith(".py")


def cases_of(path: Path, device: torch.device) -> list[Case]:
    """Runs a file and calls its ``cases(device)``. Modules next to the file can be imported, as from a script.

    Args:
        path: The file.
        device: Where the tensors of its cases are to be.

    Raises:
        CasesError: There is no such file, it has no function ``cases``, that function returns no list of `Case`
            with different names, or the code raises, in which case the message has the line.
    """
    if not path.is_file():
        raise CasesError(f"{path} must be a file, got a path where none is")
    spec = importlib.util.spec_from_file_location(_MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
        make = getattr(module, "cases", None)
        if not callable(make):
            raise CasesError(f"{path} must define a function cases(device), got none")
        cases = make(device)
    except CasesError:
        raise
    except Exception as error:  # whatever the user's code raises, its line says more than ours
        raise CasesError(f"{path} must give cases, got an error in {place_of(error)}") from error
    if not isinstance(cases, list):
        raise CasesError(f"{path}: cases must return a list, got {type(cases).__name__}")
    if not cases:
        raise CasesError(f"{path}: cases must return at least one Case, got none")
    for index, case in enumerate(cases):
        if not isinstance(case, Case):
            raise CasesError(
                f"{path}: cases must return a list of onepass.bench.Case, got {type(case).__name__} at {index}"
            )
    names = [case.name for case in cases]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise CasesError(f"{path}: cases must have different names, got {twice} twice")
    return cases
