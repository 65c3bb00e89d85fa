"""`onepass bench distributed`: competitors that run on two processes at once, and that compute the same."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from distributed_ranks import run_ranks
from onepass.bench import Case, distributed, measure
from onepass.bench.ranks import RANKS, on_ranks
from onepass.nn import SyncBatchNorm
from test_cli import read, run
from tolerance import AVERAGE_ATOL, RUNNING_STATISTICS

CPU = torch.device("cpu")


def faulty() -> dict[str, object]:
    def add() -> None:
        total = torch.ones(())
        dist.all_reduce(total)
        assert total == RANKS

    def fail() -> None:
        raise ValueError(f"rank {dist.get_rank()} has a fault")

    return {"ours": add, "broken": fail, "other": add}


def test_a_competitor_that_raises_leaves_the_others():
    result = measure(Case("faulty", None, 3, lambda: on_ranks(faulty)), 3, CPU)
    assert {name: len(times.seconds) for name, times in result.times.items()} == {"ours": 3, "other": 3}
    assert "rank 0 has a fault" in result.faults["broken"].text
    assert not dist.is_initialized()


def test_command(tmp_path):
    threads = torch.get_num_threads()
    options = ("--quick", "--rounds", 2, "--case", "sync-8x64x8x8", "--output", tmp_path / "a.json")
    status, _ = run("bench", "distributed", *options)
    assert status == 0
    (result,) = read(tmp_path / "a.json")["results"]
    assert result["faults"] == {}
    assert set(result["competitors"]) == {"ours", "local", "by hand"}
    assert torch.get_num_threads() == threads
    assert not dist.is_initialized()


def test_another_device_is_refused():
    with pytest.raises(ValueError, match="device must be cpu, as two ranks need two GPUs, got cuda"):
        distributed.cases(torch.device("cuda"))


def test_a_process_group_is_refused():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(RuntimeError, match="must be in no process group, got an initialised one"):
            on_ranks(faulty)
    finally:
        dist.destroy_process_group()


def both_layers() -> list[tuple[torch.Tensor, ...]]:
    found = []
    for kind in (SyncBatchNorm, distributed._ByHand):
        torch.manual_seed(dist.get_rank())
        x = torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
        layer = kind(3).double()
        y = layer(x)
        y.backward(torch.randn_like(y))
        found.append((y.detach(), x.grad, layer.weight.grad, layer.bias.grad, layer.running_var))
    return found


def test_what_is_written_by_hand_computes_the_same():
    for ours, by_hand in run_ranks(both_layers, 2, 60):
        for one, other in zip(ours, by_hand, strict=True):
            torch.testing.assert_close(one, other, **RUNNING_STATISTICS)


def both_optimizers() -> float:
    steps = distributed._optimizers("vectors", 1.0)
    optimizers = steps["ours"].__self__, steps["fused"].args[0]
    before = optimizers[0].param_groups[0]["params"][0].to_local().clone()
    for name in ("ours", "fused"):
        steps[name]()
    ours, fused = ([p.to_local() for p in one.param_groups[0]["params"]] for one in optimizers)
    assert not torch.equal(ours[0], before)
    return max(float((a - b).abs().max()) for a, b in zip(ours, fused, strict=True))


def test_both_optimizers_compute_the_same():
    assert max(run_ranks(both_optimizers, 2, 60)) < AVERAGE_ATOL
