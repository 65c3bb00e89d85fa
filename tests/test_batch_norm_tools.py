"""What `onepass bench batch_norm` and `onepass parity batch_norm` measure."""

from __future__ import annotations

import pytest
import torch

from onepass.bench import batch_norm as bench
from onepass.bench import harness
from onepass.bench.caches import IN_TURN
from onepass.bench.memory import kept_bytes
from onepass.parity import batch_norm as parity
from tolerance import LONG_HALF_RESULTS

CPU = torch.device("cpu")


@pytest.mark.parametrize("work", bench.WORKS, ids=lambda work: work.name)
def test_competitors_compute_the_same(work):
    """All but dropout's choice."""
    small = bench.Work(**{**vars(work), "shape": (3, 5, 4, 4)[: len(work.shape)], "dropout": False})
    competitors = bench._Competitors(small, CPU)
    for mine, theirs in zip(*(competitors.step(f)() for f in (competitors.ours, competitors.torchs)), strict=True):
        torch.testing.assert_close(mine, theirs, **LONG_HALF_RESULTS)


def test_a_case_is_timed_with_its_bytes_kept():
    work = bench.Work("small", (4, 3, 8, 8), relu=True, residual=True)
    result = harness.measure(bench._case(work, CPU), 2, CPU)
    assert result.bytes_moved == 7 * 4 * 3 * 64 * 4
    assert result.times.keys() == {"ours", "torch", "stream", *(f"{one} ({IN_TURN})" for one in ("ours", "torch"))}
    (note,) = result.notes
    assert note.startswith("kept for backward, bytes per element: ours 4.")


def test_bytes_kept_for_backward():
    x = torch.randn(100, requires_grad=True)
    assert kept_bytes(lambda: x.exp()) == 400
    assert kept_bytes(lambda: x + 1) == 0
    assert kept_bytes(lambda: x * x) == 400


def test_overhead_is_of_the_modules():
    cases = {case.name: case for case in bench.cases(CPU)}
    for name in ("overhead-train", "overhead-eval"):
        assert cases[name].bytes_moved is None
        for step in cases[name].setup().values():
            step()


def test_parity_rows():
    """The rule holds; compared with torch's channels_last ours is far better."""
    rows = list(parity.rows([torch.float32], 1, CPU))
    assert all(row.ok for row in rows)
    assert {row.rule for row in rows} == {rule.name for rule in parity.RULES}
    beside = [row for row in rows if row.rule.endswith("channels_last") and row.tensor == "running_var"]
    assert max(row.torch_abs / row.ours_abs for row in beside) > 10
