"""What dropout draws has the right rate and is uncorrelated, within four standard deviations."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import onepass.nn.functional as ours

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "dropout_statistics.py"

if not SCRIPT.exists():
    pytest.skip("needs the source tree", allow_module_level=True)

specification = importlib.util.spec_from_file_location("dropout_statistics", SCRIPT)
statistics = importlib.util.module_from_spec(specification)
specification.loader.exec_module(statistics)


@pytest.mark.parametrize("p", statistics.P)
def test_rates_and_correlations(p):
    """The short form of what benchmarks/results/dropout-statistics.json holds; seeds are fixed."""
    assert statistics.worst([statistics.measure(p, 2**22, 2**20)]) < statistics.LIMIT


@pytest.mark.large
@pytest.mark.parametrize("p", statistics.P)
def test_a_billion_draws(p):
    assert statistics.worst([statistics.measure(p, 10**9)]) < statistics.LIMIT


@pytest.mark.parametrize("p", [1e-4, 2**-20, 1 - 2**-12])
def test_rates_that_8_bits_cannot_tell(p):
    n = 2**24
    kept = int(ours.dropout(torch.ones(n), p, seed=3).count_nonzero())
    assert abs(kept - n * (1 - p)) < 4 * (n * p * (1 - p)) ** 0.5


def test_channels_are_independent_of_each_other():
    y = ours.dropout2d(torch.ones(1000, 512, 2, 2), 0.5, seed=1)[:, :, 0, 0].ne(0).double().sub(0.5).mul(2)
    between = (y[:, 1:] * y[:, :-1]).sum() / y[:, 1:].numel() ** 0.5
    examples = (y[1:] * y[:-1]).sum() / y[1:].numel() ** 0.5
    assert abs(between) < 4
    assert abs(examples) < 4


def test_the_figures_notice_a_fault(monkeypatch):
    """Pairs of elements that share a draw, and a rate that is a thousandth off."""

    def paired(x, p, **options):
        return ours.dropout(x[::2], p, **options).repeat_interleave(2)

    monkeypatch.setattr(statistics, "dropout", paired)
    assert statistics.worst([statistics.measure(0.5, 2**20, 2**20)]) > 100
    monkeypatch.setattr(statistics, "dropout", lambda x, p, **options: ours.dropout(x, p * 1.01, **options))
    assert statistics.worst([statistics.measure(0.5, 2**22, 2**20)]) > statistics.LIMIT
