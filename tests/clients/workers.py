"""Trainings on two processes over gloo; each function is run on both and returns what the tests compare."""

from __future__ import annotations

import os
import traceback
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import onepass
from clients.programs import (
    PACKAGES,
    RULES,
    image_model,
    images,
    loader,
    model,
    optimizer,
    scheduler,
    watched,
    weights,
)

RANKS = 2
EPOCHS = 3
STEPS = 9  # 48 samples, 8 at once on each of 2
CLIP = 0.5


def run(rank: int, folder: str, programs: dict[str, tuple[str, dict[str, Any]]]) -> None:
    """Runs all programs in one process, in turn; an error of one is its result."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(RANKS), MASTER_ADDR="127.0.0.1")
    store = dist.FileStore(str(Path(folder) / "store"), RANKS)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, store=store, timeout=timedelta(seconds=120))
    try:
        for name, (program, arguments) in programs.items():
            try:
                result = globals()[program](**arguments)
            except Exception:
                result = traceback.format_exc()
            torch.save(result, Path(folder) / f"{name}-{rank}.pt")
    finally:
        dist.destroy_process_group()


def together(folder: Path, programs: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, list[Any]]:
    """Runs programs, each a function of this file and its arguments; returns what each gave in each process."""
    torch.multiprocessing.spawn(run, (str(folder), programs), nprocs=RANKS)
    files = {name: [folder / f"{name}-{rank}.pt" for rank in range(RANKS)] for name in programs}
    return {name: [torch.load(file, weights_only=False) for file in files[name]] for name in programs}


def batches() -> Any:
    """Yields this process's share of the data."""
    whole = loader()
    sampler = torch.utils.data.DistributedSampler(whole.dataset, shuffle=False)
    return loader(sampler=sampler)


def each(one: Any) -> dict[str, Any]:
    """Runs a program with each package and rule; returns the results and the native steps of each."""
    results = {}
    for rule in RULES:
        for package in PACKAGES:
            with watched() as watch:
                results[rule, package] = one(package, rule)
                results[rule, package]["quick"] = watch.quick
    return results


def epochs(net: nn.Module, opt: Any, lrs: Any = None, clip: Any = None, count: int = EPOCHS) -> list[float]:
    """Trains; returns the rates."""
    rates = []
    for _ in range(count):
        for inputs, labels in batches():
            opt.zero_grad()
            cross_entropy(net(inputs), labels).backward()
            if clip is not None:
                clip(net)
            rates.append(opt.param_groups[0]["lr"])
            opt.step()
            if lrs:
                lrs.step()
    return rates


def ddp(**options: Any) -> dict[str, Any]:
    def one(package: str, rule: str) -> dict[str, Any]:
        net = DistributedDataParallel(model(), **options)
        opt = optimizer(package, rule, net.parameters())
        lrs = scheduler(package, "exponential", opt)
        rates = epochs(net, opt, lrs, lambda net: nn.utils.clip_grad_norm_(net.parameters(), CLIP))
        return {"weights": weights(net), "rates": rates}

    return each(one)


def ddp_accumulating() -> dict[str, Any]:
    """Accumulates two batches, the first without communication; gradients travel in bfloat16."""

    def one(package: str, rule: str) -> dict[str, Any]:
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

        net = DistributedDataParallel(model())
        net.register_comm_hook(None, default_hooks.fp16_compress_hook)
        opt = optimizer(package, rule, net.parameters())
        for _ in range(STEPS):
            opt.zero_grad()
            (inputs, labels), second = list(batches())[:2]
            with net.no_sync():
                cross_entropy(net(inputs), labels).backward()
            cross_entropy(net(second[0]), second[1]).backward()
            opt.step()
        return {"weights": weights(net)}

    return each(one)


def ddp_layers() -> dict[str, Any]:
    """Trains a converted model: running statistics are broadcast, and gradients averaged."""
    results = {}
    for package in PACKAGES:
        net = image_model()
        if package == "onepass":
            onepass.nn.convert(net, fuse_relu=True)
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        net = DistributedDataParallel(net)
        opt = optimizer(package, "sgd", net.parameters())
        with watched() as watch:
            for _ in range(STEPS):
                opt.zero_grad()
                own = images()[dist.get_rank() :: RANKS]
                cross_entropy(net(own), torch.arange(4) % 3).backward()
                opt.step()
        buffers = [b.clone() for b in net.buffers() if b.is_floating_point()]
        results[package] = {"weights": weights(net), "buffers": buffers, "calls": dict(watch.calls)}
    return results


def zero() -> dict[str, Any]:
    """Trains with ZeroRedundancyOptimizer; its consolidated state goes into the other package's plain class."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def one(package: str, rule: str) -> dict[str, Any]:
        name, options = RULES[rule]
        net = DistributedDataParallel(model())
        kind = getattr(PACKAGES[package], name)
        opt = ZeroRedundancyOptimizer(net.parameters(), optimizer_class=kind, **options)
        assert type(opt.optim) is kind
        lrs = scheduler(package, "exponential", opt)
        rates = epochs(net, opt, lrs)
        opt.consolidate_state_dict(0)
        dist.barrier()
        state = opt.state_dict() if dist.get_rank() == 0 else None
        return {"weights": weights(net), "rates": rates, "state": state}

    return each(one)


def fsdp(use_orig_params: bool, strategy: str) -> dict[str, Any]:
    """Trains with FSDP1 on the CPU, clipped by its own method; returns the full state of model and optimizer."""
    from torch.distributed.fsdp import FullyShardedDataParallel as Wrapped
    from torch.distributed.fsdp import ShardingStrategy, StateDictType

    def one(package: str, rule: str) -> dict[str, Any]:
        net = Wrapped(
            model(),
            use_orig_params=use_orig_params,
            sharding_strategy=ShardingStrategy[strategy],
            device_id=torch.device("cpu"),
        )
        opt = optimizer(package, rule, net.parameters())
        epochs(net, opt, scheduler(package, "exponential", opt), lambda net: net.clip_grad_norm_(CLIP))
        with Wrapped.state_dict_type(net, StateDictType.FULL_STATE_DICT):
            full = net.state_dict()
            state = Wrapped.optim_state_dict(net, opt)
        # Loaded into another optimizer, and trained on.
        again = optimizer(package, rule, net.parameters())
        again.load_state_dict(Wrapped.optim_state_dict_to_load(net, again, state))
        epochs(net, again, count=1)
        with Wrapped.state_dict_type(net, StateDictType.FULL_STATE_DICT):
            on = net.state_dict()
        return {"weights": list(full.values()), "on": list(on.values()), "state": state["state"]}

    return each(one)


def sharded(package: str) -> str:
    """Trains with FSDP2, whose parameters are DTensors; returns "" if a step works, else the error."""
    from torch.distributed.fsdp import fully_shard

    net = model()
    fully_shard(net)
    before = [p.to_local().clone() for p in net.parameters()]
    opt = optimizer(package, "adamw", net.parameters())
    try:
        epochs(net, opt, count=1)
    except (TypeError, ValueError, RuntimeError) as error:
        changed = not all(map(torch.equal, before, [p.to_local() for p in net.parameters()]))
        return f"{type(error).__name__}: {error}{' CHANGED' if changed else ''}"
    return ""


def post_local() -> dict[str, Any]:
    """Trains with PostLocalSGDOptimizer, a wrapper that averages now and then."""
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.optim import PostLocalSGDOptimizer

    def one(package: str, rule: str) -> dict[str, Any]:
        net = model()
        opt = PostLocalSGDOptimizer(
            optim=optimizer(package, rule, net.parameters()),
            averager=PeriodicModelAverager(period=3, warmup_steps=2),
        )
        rates = epochs(net, opt, scheduler(package, "exponential", opt))
        return {"weights": weights(net), "rates": rates}

    return each(one)


def deepspeed_zero(stage: int, precision: str) -> dict[str, Any]:
    """Trains with DeepSpeed's engine around an optimizer that is given to it."""
    import deepspeed

    def one(package: str, rule: str) -> dict[str, Any]:
        net = model()
        opt = optimizer(package, rule, net.parameters())
        lrs = scheduler(package, "exponential", opt)
        config = {
            "train_micro_batch_size_per_gpu": 8,
            "gradient_clipping": CLIP,
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": precision == "bf16"},
        }
        engine, wrapped, _, lrs = deepspeed.initialize(
            model=net, optimizer=opt, lr_scheduler=lrs, config=config, dist_init_required=False
        )
        rates = []
        for _ in range(EPOCHS):
            for inputs, labels in batches():
                inputs = inputs.bfloat16() if precision == "bf16" else inputs
                loss = cross_entropy(engine(inputs).float(), labels)
                engine.backward(loss)
                rates.append(wrapped.param_groups[0]["lr"])
                engine.step()
        ends = [p.detach().float().clone() for p in engine.module.parameters()]
        return {"weights": ends, "rates": rates}

    return each(one)
