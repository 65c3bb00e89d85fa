"""fuse with DistributedDataParallel and FSDP2, on two processes: the weights after steps are those without it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distributed_ranks import run_ranks
from fuse_models import Residual
from onepass.nn import fuse
from onepass.nn.batch_norm import FusedBatchNorm
from tolerance import FLOAT32_STEPS

RELU, ALL = "fused with ReLU", "fused with add, ReLU, dropout"


def trained(wrap: str, fused: bool) -> tuple[list[torch.Tensor], list[str], int]:
    """Trains on this rank's batches; returns weights and statistics, what was fused, and how many sums ran so."""
    import torch.distributed as dist

    torch.manual_seed(0)
    model = nn.Sequential(Residual(shortcut=True), Residual(), nn.Flatten(), nn.Linear(8 * 36, 3))
    outcomes = [place.outcome for place in fuse(model).table] if fused else []
    if wrap == "ddp":
        wrapped = nn.parallel.DistributedDataParallel(model)
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for block in (model[0], model[1]):
            fully_shard(block, mesh=mesh)
        wrapped = fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=1e-2, momentum=0.9)
    sums = 0
    run = FusedBatchNorm._run

    def counted(self, input, residual, *options):
        nonlocal sums
        sums += residual is not None
        return run(self, input, residual, *options)

    FusedBatchNorm._run = counted
    for step in range(3):
        generator = torch.Generator().manual_seed(10 * step + dist.get_rank())
        wrapped(torch.randn(4, 8, 6, 6, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    FusedBatchNorm._run = run
    values = [*model.parameters(), *model.buffers()]
    whole = [value.full_tensor() if hasattr(value, "full_tensor") else value for value in values]
    return [value.detach().clone() for value in whole], outcomes, sums


@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_wrapped(wrap):
    plain, fused = run_ranks(trained, 2, 60, wrap, False), run_ranks(trained, 2, 60, wrap, True)
    for (theirs, _, _), (ours, outcomes, sums) in zip(plain, fused, strict=True):
        assert outcomes == [RELU, ALL, "left", RELU, ALL]
        assert sums == 6  # two in each of three steps
        torch.testing.assert_close(ours, theirs, **FLOAT32_STEPS)
