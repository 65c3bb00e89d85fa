"""fuse with DistributedDataParallel and FSDP2, on two processes: the weights after steps are those without it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distributed_ranks import run_ranks
from fuse_models import Residual
from onepass.nn import fuse
from onepass.nn.fusion.chain import Chain
from tolerance import FLOAT32_STEPS

RELU, BOTH = "fused with ReLU", "fused with add, ReLU"


def trained(wrap: str, fused: bool) -> tuple[list[torch.Tensor], list[str], int]:
    """Trains on this rank's batches; returns weights and statistics, what was fused, and how many chains ran."""
    import torch.distributed as dist

    torch.manual_seed(0)
    model = nn.Sequential(Residual(shortcut=True), Residual(), nn.Flatten(), nn.Linear(8 * 36, 3))
    fusion = fuse(model) if fused else None
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
    chains = 0
    run = Chain.__call__

    def counted(self, *inputs):
        nonlocal chains
        chains += 1
        return run(self, *inputs)

    Chain.__call__ = counted
    for step in range(3):
        generator = torch.Generator().manual_seed(10 * step + dist.get_rank())
        wrapped(torch.randn(4, 8, 6, 6, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    Chain.__call__ = run
    values = [*model.parameters(), *model.buffers()]
    whole = [value.full_tensor() if hasattr(value, "full_tensor") else value for value in values]
    outcomes = [place.outcome for place in fusion.table] if fusion is not None else []
    return [value.detach().clone() for value in whole], outcomes, chains


@pytest.mark.parametrize("wrap", ["ddp", "fsdp"])
def test_wrapped(wrap):
    plain, fused = run_ranks(trained, 2, 60, wrap, False), run_ranks(trained, 2, 60, wrap, True)
    for (theirs, _, _), (ours, outcomes, chains) in zip(plain, fused, strict=True):
        print(wrap, outcomes, chains)
        assert outcomes == [RELU, "left", BOTH, RELU, BOTH]
        assert chains == 12  # four in each of three steps
        torch.testing.assert_close(ours, theirs, **FLOAT32_STEPS)
