"""Replacing torch's functions, by ours or by others, changes no result of ours that falls back to torch.

Liger's users, for instance, write ``torch.nn.functional.cross_entropy = ...``. Each replacement runs in its own
process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# Replaced before onepass is imported, which then must not hold these for torch's own.
FOREIGN = """
import torch

def foreign(*args, **kwargs):
    raise AssertionError("somebody else's function was called")

for place, names in (
    (torch.nn.functional, ("cross_entropy", "batch_norm", "dropout", "alpha_dropout")),
    (torch.nn.utils, ("clip_grad_norm_", "clip_grad_value_")),
):
    for name in names:
        setattr(place, name, foreign)
"""
SECONDS = 300


def results(path: Path, first: str, patched: bool) -> dict[str, object]:
    """Returns what the cases give. An endless recursion in the autograd engine hangs, hence the alarm."""
    code = f"import signal\nsignal.alarm({SECONDS})\n{first}\nimport patched_torch_cases as cases\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}cases.main({str(path)!r}, {patched})"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, object]:
    return results(tmp_path_factory.mktemp("plain") / "results.pt", "", False)


# torch has no norm and no clamp of such gradients.
UNSUPPORTED = ("clip-sparse", "value-sparse", "value-complex")


def test_the_cases_run(plain):
    """Otherwise equal errors would pass for equal results."""
    assert len(plain) > 300
    failed = {name: text for name, text in plain.items() if isinstance(text, str)}
    assert {name: text for name, text in failed.items() if not name.startswith(UNSUPPORTED)} == {}
    assert all(text.startswith("NotImplementedError") for text in failed.values())


@pytest.mark.parametrize("way", ["ours", "foreign-before"])
def test_replaced_functions_change_nothing(way, plain, tmp_path):
    found = results(tmp_path / "results.pt", FOREIGN if way == "foreign-before" else "", way == "ours")
    assert found.keys() == plain.keys()
    different = {name: (plain[name], found[name]) for name in plain if not same(plain[name], found[name])}
    assert different == {}


def same(one: object, other: object) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return len(one) == len(other) and all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and torch.equal(a.isnan(), b.isnan())
        and torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(one, other, strict=True)
    )
