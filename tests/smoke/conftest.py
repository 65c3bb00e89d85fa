"""The smoke suite: two minutes at most, with any supported torch, and without the source tree.

`pytest tests/smoke` runs it in the tree. For an installed wheel copy this folder to any place and run pytest
there: it imports nothing but onepass, torch, numpy and pytest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch

import onepass

HERE = Path(__file__).parent


def pytest_report_header() -> str:
    """Says which versions the suite runs with, and from where onepass is imported."""
    where = Path(onepass.__file__).parent
    return f"onepass {onepass.__version__} ({where}), torch {torch.__version__}, numpy {numpy.__version__}"


def pytest_configure(config: pytest.Config) -> None:
    """Stops where ONEPASS_INSTALLED=1 asks for the installed package and another one is imported."""
    if os.environ.get("ONEPASS_INSTALLED") == "1" and "site-packages" not in Path(onepass.__file__).parts:
        raise pytest.UsageError(
            f"ONEPASS_INSTALLED=1: onepass must be imported from site-packages, got {onepass.__file__}"
        )


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Gives each test the same random numbers and puts the number of threads back."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
