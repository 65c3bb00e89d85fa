"""The harness of distributed tests: what a failure on one rank looks like, and that no call waits for ever."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from distributed_ranks import RanksFailed, run_ranks


def summed(value: int) -> tuple[int, float]:
    total = torch.tensor(float(value + dist.get_rank()))
    dist.all_reduce(total)
    return os.getpid(), total.item()


def faulty(fault: str) -> str:
    """One rank has a fault where the others wait for it."""
    if dist.get_rank() == 1:
        if fault == "raises":
            raise ValueError("rank 1 has a fault")
        if fault == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    dist.all_reduce(torch.ones(1))
    return "not reached"


def test_ranks_are_joined_and_stay():
    first, second = run_ranks(summed, 2, 60, 1), run_ranks(summed, 2, 60, 2)
    assert [value for _, value in first] == [3.0, 3.0]
    assert [value for _, value in second] == [5.0, 5.0]
    assert [pid for pid, _ in first] == [pid for pid, _ in second]
    assert len({os.getpid(), *(pid for pid, _ in first)}) == 3


@pytest.mark.parametrize(("fault", "kind"), [("raises", "raised"), ("is killed", "died")])
def test_others_end_when_one_has_ended(fault, kind):
    with pytest.raises(RanksFailed) as caught:
        run_ranks(faulty, 3, 30, fault, patience=15)
    outcomes = caught.value.outcomes
    assert [one.kind for one in outcomes] == ["raised", kind, "raised"]
    assert all(one.seconds < 15 for one in outcomes), outcomes
    if fault == "raises":
        assert "ValueError: rank 1 has a fault" in outcomes[1].text
    else:
        assert outcomes[1].text.startswith("exit code -9")


def test_others_end_when_one_is_late():
    with pytest.raises(RanksFailed) as caught:
        run_ranks(faulty, 2, 3, "is late", patience=1)
    waiting, late = caught.value.outcomes
    assert waiting.kind == "raised"
    assert waiting.seconds < 3
    assert late.kind == "hung"
    assert "in faulty" in late.text, "the stack does not show where it waits"
    assert "in faulty" in str(caught.value)
