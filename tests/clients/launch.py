"""Runs a program of docs/distributed.md on one of the ranks that torchrun starts: `launch.py PROGRAM KIND`."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from unittest import mock

import torch.distributed as dist

from clients.programs import prepare_torchvision


def shard_on_the_cpu() -> None:
    """Makes accelerate use its plugin on the CPU, where it decides for DDP and says nothing."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    begin = AcceleratorState.__init__

    def begin_sharded(
        self: AcceleratorState, *arguments: object, fsdp_plugin: object = None, **more: object
    ) -> None:
        begin(self, *arguments, fsdp_plugin=fsdp_plugin, **more)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    mock.patch.object(AcceleratorState, "__init__", begin_sharded).start()


def main(program: str, kind: str) -> None:
    """Runs the program; fails unless our optimizer stepped parameters of a kind on all ranks."""
    prepare_torchvision()
    if "accelerate" in program:
        shard_on_the_cpu()
    model, optimizer = runpy.run_path(program, run_name="program")["main"]()
    assert dist.get_world_size() == 2
    kinds = {type(param).__name__ for param in model.parameters()}
    steps = {float(own["step"]) for own in optimizer.state.values()}
    taken = type(optimizer).__module__, kinds, len(steps), min(steps) > 10
    assert taken == ("onepass.optim.adamw", {kind}, 1, True), taken
    assert {id(param) for group in optimizer.param_groups for param in group["params"]} == set(
        map(id, model.parameters())
    )
    # Together, because a rank that is left by the one with the store ends with an error.
    dist.barrier()
    # A file for each rank, because the ranks share one pipe and their lines can run into one another.
    Path(f"rank-{dist.get_rank()}.done").touch()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
