"""Trainings that ranks run, with FSDP2, DDP and ZeRO; test_distributed_training.py calls them."""

from __future__ import annotations

import copy
import os
import resource
import signal
import time
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import onepass.optim
from distributed_optim import meshes

FORMATS: dict[str, tuple[str, dict[str, Any], torch.dtype]] = {
    "float32": ("AdamW", {}, torch.float32),
    "tail": ("AdamW", {"max_grad_norm": 0.1, "ema_decay": 0.9}, torch.float32),
    "momentum": ("SGD", {"momentum": 0.9}, torch.float32),
    "lion": ("Lion", {}, torch.float32),
    "kahan": ("AdamW", {"rounding": "kahan"}, torch.bfloat16),
    "master": ("AdamW", {"master_weights": True}, torch.bfloat16),
    "stochastic": ("AdamW", {"rounding": "stochastic", "seed": 3}, torch.bfloat16),
}


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Has a layer whose one row leaves ranks without a shard, and rows that cannot be shared evenly."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 1)).to(dtype)


def sharded(dtype: torch.dtype = torch.float32) -> nn.Module:
    model = network(dtype)
    fully_shard(model, mesh=meshes((dist.get_world_size(),)))
    return model


def batch(step: int, rows: int = 8) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(step))


def train(model: nn.Module, optimizer: Any, steps: range, scaler: Any = None) -> list[float]:
    losses = []
    for step in steps:
        optimizer.zero_grad()
        x = batch(step).to(next(model.parameters()).dtype)
        loss = model(x).float().square().mean()
        losses.append(loss.item())
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    return losses


def whole(model: nn.Module) -> list[Tensor]:
    with torch.no_grad():
        return [
            p.full_tensor().float() if isinstance(p, DTensor) else p.float().clone() for p in model.parameters()
        ]


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))


def save(folder: str) -> None:
    """Trains three steps, saves, and notes where three more lead; for each format, nested and flat."""
    for name, (rule, options, dtype) in FORMATS.items():
        for flat in (False, True):
            model = sharded(dtype)
            optimizer = getattr(onepass.optim, rule)(model.parameters(), lr=0.01, **options)
            train(model, optimizer, range(3))
            states = get_state_dict(model, optimizer, options=StateDictOptions(flatten_optimizer_state_dict=flat))
            dcp.save({"model": states[0], "optimizer": states[1]}, checkpoint_id=f"{folder}/{name}-{flat}")
            train(model, optimizer, range(3, 6))
            end = whole(model)
            if dist.get_rank() == 0:
                torch.save(end, f"{folder}/{name}-{flat}.pt")
    dist.barrier()


def resume(folder: str, shards: bool) -> dict[str, float]:
    """Resumes each checkpoint, saves it, resumes that, and tells how far the end is from the run that went on."""
    found = {}
    for name, (rule, options, dtype) in FORMATS.items():
        for flat in (False, True):
            source = f"{folder}/{name}-{flat}"
            for turn in range(2):
                model = sharded(dtype) if shards else network(dtype)
                optimizer = getattr(onepass.optim, rule)(model.parameters(), lr=0.01, **options)
                form = StateDictOptions(flatten_optimizer_state_dict=flat)
                states = get_state_dict(model, optimizer, options=form)
                holder = {"model": states[0], "optimizer": states[1]}
                dcp.load(holder, checkpoint_id=source)
                set_state_dict(
                    model,
                    optimizer,
                    model_state_dict=holder["model"],
                    optim_state_dict=holder["optimizer"],
                    options=form,
                )
                if turn == 0:
                    source = f"{source}-again-{dist.get_world_size()}-{shards}"
                    states = get_state_dict(model, optimizer, options=form)
                    dcp.save({"model": states[0], "optimizer": states[1]}, checkpoint_id=source)
            train(model, optimizer, range(3, 6))
            found[f"{name}-{flat}"] = distance(whole(model), torch.load(f"{folder}/{name}-{flat}.pt"))
    dist.barrier()
    return found


def exchange(folder: str) -> dict[str, float]:
    """A checkpoint of torch's AdamW continues in ours, and one of ours in torch's."""
    found = {}
    kinds = (torch.optim.AdamW, onepass.optim.AdamW)
    for first, second in (kinds, kinds[::-1]):
        model = sharded()
        optimizer = first(model.parameters(), lr=0.01)
        train(model, optimizer, range(3))
        path = f"{folder}/{first.__module__}"
        states = get_state_dict(model, optimizer)
        dcp.save({"model": states[0], "optimizer": states[1]}, checkpoint_id=path)
        train(model, optimizer, range(3, 6))
        other = sharded()
        resumed = second(other.parameters(), lr=0.01)
        states = get_state_dict(other, resumed)
        holder = {"model": states[0], "optimizer": states[1]}
        dcp.load(holder, checkpoint_id=path)
        set_state_dict(other, resumed, model_state_dict=holder["model"], optim_state_dict=holder["optimizer"])
        train(other, resumed, range(3, 6))
        found[first.__module__] = distance(whole(model), whole(other))
    return found


def with_scaler() -> tuple[float, int, int]:
    """FSDP2 with a GradScaler, an overflow on one rank in the third step."""
    ends, skipped = [], []
    for model in (sharded(), network()):
        optimizer = onepass.optim.AdamW(model.parameters(), lr=0.01, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        train(model, optimizer, range(2), scaler)
        loss = model(batch(2)).square().mean()
        scaler.scale(loss).backward()
        first = next(model.parameters())
        grad = first.grad.to_local() if isinstance(first, DTensor) else first.grad
        if not isinstance(first, DTensor) or dist.get_rank() == 1:
            grad.view(-1)[0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        train(model, optimizer, range(3, 5), scaler)
        ends.append(whole(model))
        skipped.append(optimizer.skipped_steps)
    return distance(*ends), *skipped


def averages() -> tuple[float, float, bool]:
    """The moving averages of FSDP2's shards, in the parameters and alone; and whether all is put back."""
    runs = []
    for model in (sharded(), network()):
        optimizer = onepass.optim.SGD(model.parameters(), lr=0.1, ema_decay=0.5)
        train(model, optimizer, range(3))
        runs.append((model, optimizer))
    before = whole(runs[0][0])
    with runs[0][1].ema_parameters(), runs[1][1].ema_parameters():
        inside = distance(whole(runs[0][0]), whole(runs[1][0]))
    alone = [runs[0][1].state[p]["ema"].full_tensor() for p in runs[0][0].parameters()]
    apart = distance(alone, [runs[1][1].state[p]["ema"] for p in runs[1][0].parameters()])
    return inside, apart, distance(before, whole(runs[0][0])) == 0


def with_ddp() -> float:
    """DDP whose gradients are views of its buckets, two micro-batches, and gradients zeroed by the step."""
    rank, size = dist.get_rank(), dist.get_world_size()
    model, single = network(), network()
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    ours = onepass.optim.AdamW(model.parameters(), lr=0.01, max_grad_norm=0.05)
    other = onepass.optim.AdamW(single.parameters(), lr=0.01, max_grad_norm=0.05)
    for step in range(4):
        x = batch(step, 4 * size)
        own = x.chunk(size)[rank]
        with wrapped.no_sync():
            (wrapped(own[:2]).square().mean() / 2).backward()
        (wrapped(own[2:]).square().mean() / 2).backward()
        ours.step(zero_grad=True)
        single(x).square().mean().backward()
        other.step(zero_grad=True)
    return distance(whole(model), whole(single))


def with_zero(rule: str, options: dict[str, Any], dtype: torch.dtype) -> float:
    """ZeroRedundancyOptimizer of ours against ours alone."""
    # Its module scripts functions, which torch itself warns about.
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model, single = network(dtype), network(dtype)
    kind = getattr(onepass.optim, rule)
    ours = ZeroRedundancyOptimizer(model.parameters(), kind, lr=0.01, **options)
    other = kind(single.parameters(), lr=0.01, **options)
    train(model, ours, range(3))
    train(single, other, range(3))
    return distance(whole(model), whole(single))


def lifecycle() -> list[str]:
    """Groups added later, states loaded, copies: what fails, by name."""
    failed = []
    model, single = sharded(), network()
    optimizers = []
    for one in (model, single):
        params = list(one.parameters())
        optimizer = onepass.optim.AdamW(params[:2], lr=0.01, telemetry=True)
        train(one, optimizer, range(2))
        optimizer.add_param_group({"params": params[2:], "lr": 0.1})
        train(one, optimizer, range(2, 4))
        optimizers.append(optimizer)
    if distance(whole(model), whole(single)) != 0:
        failed.append("a group added later")
    saved = [copy.deepcopy(one.state_dict()) for one in optimizers]
    for one, optimizer, state in zip((model, single), optimizers, saved, strict=True):
        train(one, optimizer, range(4, 6))
        optimizer.load_state_dict(state)
        for group in optimizer.param_groups:
            group["lr"] *= 0.5
        train(one, optimizer, range(6, 8))
    if distance(whole(model), whole(single)) != 0:
        failed.append("a loaded state")
    if [float(s.param_norm) for s in optimizers[0].statistics()] == []:
        failed.append("statistics")
    optimizers[0].state.clear()
    optimizers[1].state.clear()
    for one, optimizer in zip((model, single), optimizers, strict=True):
        train(one, optimizer, range(8, 10))
    if distance(whole(model), whole(single)) != 0:
        failed.append("states cleared by hand")
    return failed


def refused() -> list[str]:
    """The errors of parameters and gradients that cannot be updated in parts; each leaves all as it was."""
    mesh = meshes((dist.get_world_size(),))
    told = []
    partial = nn.Parameter(DTensor.from_local(torch.ones(4), mesh, [Partial()]))
    cases = [(partial, torch.ones_like(partial))]
    shard = nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Shard(0)]))
    cases.append((shard, torch.ones(4)))
    for param, grad in cases:
        before = param.to_local().clone()
        param.grad = grad
        try:
            onepass.optim.SGD([param], lr=0.1).step()
        except (TypeError, ValueError) as error:
            told.append(f"{type(error).__name__}: {error}")
        assert torch.equal(param.to_local(), before)
    partial.grad = DTensor.from_local(torch.ones(4), mesh, [Partial()])
    try:
        onepass.optim.clip_grad_norm_([partial], 1.0)
    except ValueError as error:
        told.append(f"{type(error).__name__}: {error}")
    return told


def memory_of_steps(steps: int) -> int:
    """By how many KiB this process has grown over that many steps, after as many to begin with."""
    mesh = meshes((dist.get_world_size(),))
    params = [nn.Parameter(distribute_tensor(torch.ones(8, 2), mesh, [kind])) for kind in (Shard(0), Replicate())]
    optimizer = onepass.optim.AdamW(params, lr=1e-4)
    for param in params:
        param.grad = torch.ones_like(param)
    for _ in range(steps // 10):
        optimizer.step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(steps):
        optimizer.step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def broken(how: str) -> None:
    """A step before which one rank raises, is killed or is late, while the others wait for it."""
    model = sharded()
    optimizer = onepass.optim.AdamW(model.parameters(), lr=0.01, max_grad_norm=0.1)
    train(model, optimizer, range(2))
    if dist.get_rank() == 1:
        if how == "raises":
            raise RuntimeError("this rank's own error")
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(3600)
    train(model, optimizer, range(2, 4))
