"""What `onepass bench cross_entropy` and `onepass parity cross_entropy` measure."""

from __future__ import annotations

import pytest
import torch

from onepass.bench import cross_entropy as bench
from onepass.bench import harness
from onepass.bench.caches import IN_TURN
from onepass.parity import cross_entropy as parity
from tolerance import HALF_RESULTS

CPU = torch.device("cpu")


@pytest.mark.parametrize("work", bench.WORKS, ids=lambda work: work.name)
def test_competitors_compute_the_same(work):
    small = bench.Work(**{**vars(work), "shape": (6, 5, 3, 4)[: len(work.shape)], "backward": True})
    competitors = bench._Competitors(small, CPU)
    for mine, theirs in zip(*(competitors.step(f)() for f in (competitors.ours, competitors.torchs)), strict=True):
        torch.testing.assert_close(mine, theirs, **HALF_RESULTS)
    torch.testing.assert_close(competitors.ours(), competitors.torchs().float(), **HALF_RESULTS)


def test_a_case_is_timed_with_its_bytes_kept():
    work = bench.Work("small", (4, 8, 6), 0.1)
    result = harness.measure(bench._case(work, CPU), 2, CPU)
    assert result.bytes_moved == 3 * 4 * 8 * 6 * 4
    assert result.times.keys() == {"ours", "torch", "stream", *(f"{one} ({IN_TURN})" for one in ("ours", "torch"))}
    (note,) = result.notes
    assert note.startswith("kept for backward beyond logits, bytes per logit: ours ")


def test_parity_rows():
    """The rule holds in all of them."""
    rows = list(parity.rows([torch.float32], 1, CPU))
    assert all(row.ok for row in rows)
    assert {row.rule for row in rows} == {rule.name for rule in parity.RULES}
