"""Programs of docs/distributed.md, and what ranks run of them; test_distributed_recipes.py calls it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import os
import re
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.tensor import Shard, distribute_tensor

import onepass.optim
from distributed_optim import meshes
from distributed_training import batch, distance, network, sharded, whole

PAGE = Path(__file__).parents[1] / "docs" / "distributed.md"


def program(command: str) -> str:
    """The Python block of the page whose docstring ends with a command."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if block.split("\n", 1)[0].endswith(f'{command}`."""')]
    return found


def train(folder: str, killed_at: int | None = None) -> str:
    """Runs the page's training on these ranks and returns what it prints.

    Args:
        folder: Its checkpoints.
        killed_at: The save, counted from 1, in the middle of which SIGKILL ends rank 1.
    """
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(program("train.py"), str(PAGE), "exec"), names)
    saves = 0
    write = FileSystemWriter.write_data

    def write_half(self: Any, *arguments: Any) -> Any:
        nonlocal saves
        saves += 1
        result = write(self, *arguments)
        if saves == killed_at and dist.get_rank() == 1:
            result.wait()
            (written,) = Path(self.path).glob("__1_*")
            os.truncate(written, written.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    printed = io.StringIO()
    # The ranks are in a group already.
    with (
        mock.patch.object(FileSystemWriter, "write_data", write_half),
        mock.patch.object(dist, "init_process_group"),
        mock.patch.object(dist, "destroy_process_group"),
        contextlib.redirect_stdout(printed),
    ):
        names["main"](Path(folder))
    return printed.getvalue()


def in_backward(how: str) -> tuple[float, float]:
    """Optimizers that step in the backward pass: how far from one optimizer after it, and from clipping as one."""
    clipped = {"max_grad_norm": 0.05}
    options = {"lr": 0.01, **(clipped if how == "clipped" else {})}
    make = network if how == "torch's" else sharded
    model, after, together = make(), make(), make()
    if how == "torch's":
        # Its module scripts functions, which torch itself warns about.
        from torch.distributed.optim import _apply_optimizer_in_backward

        _apply_optimizer_in_backward(onepass.optim.AdamW, model.parameters(), options)
    else:
        optimizers = {param: onepass.optim.AdamW([param], **options) for param in model.parameters()}

        def step_now(param: Any) -> None:
            optimizers[param].step()
            param.grad = None

        for param in model.parameters():
            param.register_post_accumulate_grad_hook(step_now)
    separate = [onepass.optim.AdamW([param], **options) for param in after.parameters()]
    one = onepass.optim.AdamW(together.parameters(), lr=0.01, **clipped)
    for step in range(4):
        model(batch(step)).square().mean().backward()
        after(batch(step)).square().mean().backward()
        for optimizer in separate:
            optimizer.step(zero_grad=True)
        together(batch(step)).square().mean().backward()
        one.step(zero_grad=True)
    return distance(whole(model), whole(after)), distance(whole(model), whole(together))


def _memory(line: str) -> int:
    (found,) = re.findall(rf"^{line}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found)


class _Many(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        mesh = meshes((dist.get_world_size(),))
        ones = (distribute_tensor(torch.ones(1 << 20), mesh, [Shard(0)], src_data_rank=None) for _ in range(32))
        self.all = nn.ParameterList(map(nn.Parameter, ones))


def memory_of_loading(folder: str, fresh: bool, copied: bool) -> float:
    """By how much memory grows at most while states are loaded, as a share of their size.

    Args:
        folder: Where they are saved.
        fresh: Load into an optimizer that has taken no step.
        copied: Copy the states on the way, as a check of the measurement.
    """
    for turn in range(2 if fresh else 1):
        model = _Many()
        optimizer = onepass.optim.AdamW(model.parameters(), lr=0.1)
        if turn == 0:
            for param in model.parameters():
                param.grad = torch.ones_like(param)
            optimizer.step(zero_grad=True)
            optimizer.zero_grad()
            dcp.save({"optimizer": get_state_dict(model, optimizer)[1]}, checkpoint_id=folder)
    weights, states = get_state_dict(model, optimizer)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again
    dcp.load({"optimizer": states}, checkpoint_id=folder)
    if copied:
        states = torch.utils._pytree.tree_map_only(Tensor, lambda one: one.clone(), states)
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=states)
    grown = _memory("VmHWM") - before
    tensors = [value for own in optimizer.state.values() for value in own.values() if value.dim()]
    assert all(bool((value.to_local() != 0).all()) for value in tensors), "not loaded"
    return grown / sum(value.to_local().nbytes for value in tensors)
