"""Steps of sharded optimizers and SyncBatchNorm on two processes, next to their parts and to torch's.

A timed call runs on both ranks at the same time, each with its share of the threads; the clock is rank 0's.

Optimizers: ``ours`` steps DTensors. ``local`` is the same optimizer on plain tensors of the shards' shapes, plus
one all-reduce of what the ranks add up; in a case without a norm ranks have nothing to add up, and there is no
all-reduce. ``fused`` and ``foreach`` are torch's AdamW on the same DTensors, with its `clip_grad_norm_`.

SyncBatchNorm, forward and backward: ``ours`` is the layer. ``local`` is our batch norm of the rank's own batch,
plus an all-reduce of as many numbers each way. ``by hand`` is composed of torch's functions and a differentiable
all-reduce of means and mean squares, as one writes it where torch's layer is not available: torch's SyncBatchNorm
takes no CPU tensors.

Messages: what docs/distributed.md reckons with for more ranks. ``all-reduce`` is that of a step, ``gather`` that
of a SyncBatchNorm of 256 channels; ``merge`` is what a rank does with the numbers that 1,024 ranks have sent it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim import Optimizer

import onepass.nn
import onepass.optim
from onepass import _native
from onepass.bench.case import OURS, Case
from onepass.bench.memory import touch_heap
from onepass.bench.probe import Step
from onepass.bench.ranks import RANKS, on_ranks
from onepass.nn.batch_norm._exchange import Peers, gather

# A difference of five percent needs many rounds where two processes share the memory.
_ROUNDS = 61
_MAX_NORM = 1.0
# Shapes of each rank's batch.
_BATCHES = ((32, 64, 56, 56), (64, 256, 14, 14), (32, 512, 7, 7), (8, 64, 8, 8))
# What SyncBatchNorm sends besides two numbers a channel (nn/batch_norm/_exchange.py).
_FIRST, _WIDTH = 4, 256
_MANY_RANKS = 1024


def cases(device: torch.device) -> list[Case]:
    """Lists all cases.

    Args:
        device: The CPU.

    Raises:
        ValueError: The device is another one.
    """
    if device.type != "cpu":
        raise ValueError(f"bench distributed: device must be cpu, as two ranks need two GPUs, got {device}")
    made: dict[str, Callable[[], dict[str, Step]]] = {
        "messages": _messages,
        "fsdp2-4x4M": partial(_optimizers, "layers", None),
        "fsdp2-4x4M-clip": partial(_optimizers, "layers", _MAX_NORM),
        "shards-500x4096": partial(_optimizers, "vectors", None),
        "shards-500x4096-clip": partial(_optimizers, "vectors", _MAX_NORM),
        **{f"sync-{'x'.join(map(str, shape))}": partial(_batch_norms, shape) for shape in _BATCHES},
    }
    return [Case(name, None, _ROUNDS, partial(on_ranks, make)) for name, make in made.items()]


def _layers() -> list[nn.Parameter]:
    """The parameters, of 4 M elements, of four layers that FSDP2 shards."""
    model = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(4)))
    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)))
    return list(model.parameters())


def _vectors() -> list[nn.Parameter]:
    mesh = init_device_mesh("cpu", (RANKS,))
    return [nn.Parameter(distribute_tensor(torch.randn(4096), mesh, [Shard(0)])) for _ in range(500)]


def _optimizers(kind: str, max_norm: float | None) -> dict[str, Step]:
    """Makes the steps of one case on this rank."""
    make = {"layers": _layers, "vectors": _vectors}[kind]
    sharded = []
    for _ in range(3):
        torch.manual_seed(0)
        sharded.append(_with_grads(make()))
    local = _with_grads([nn.Parameter(_local(param).detach().clone()) for param in sharded[0]])
    ours, plain = (onepass.optim.AdamW(params, max_grad_norm=max_norm) for params in (sharded[0], local))
    torchs = {
        name: torch.optim.AdamW(params, fused=name == "fused", foreach=name == "foreach")
        for name, params in zip(("fused", "foreach"), sharded[1:], strict=True)
    }
    sums = torch.zeros(2, dtype=torch.float64)

    def step_local() -> None:
        plain.step()
        if max_norm is not None:
            dist.all_reduce(sums)

    return {
        OURS: ours.step,
        "local": step_local,
        **{name: partial(_step_torch, optimizer, max_norm) for name, optimizer in torchs.items()},
    }


def _local(param: Tensor) -> Tensor:
    assert isinstance(param, DTensor)
    return param.to_local()


def _with_grads(params: list[nn.Parameter]) -> list[nn.Parameter]:
    for param in params:
        param.grad = torch.ones_like(param)
    return params


def _step_torch(optimizer: Optimizer, max_norm: float | None) -> None:
    if max_norm is not None:
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], max_norm)
    optimizer.step()


def _batch_norms(shape: tuple[int, ...]) -> dict[str, Step]:
    """Makes forward and backward of one shape on this rank."""
    torch.manual_seed(dist.get_rank())
    channels = shape[1]
    x = torch.randn(shape, requires_grad=True)
    dy = torch.randn(shape)
    touch_heap(dy, 6)
    exchange = partial(dist.all_reduce, _numbers(channels))
    return {
        OURS: partial(_forward_backward, onepass.nn.SyncBatchNorm(channels), x, dy),
        "local": partial(_forward_backward, onepass.nn.BatchNorm2d(channels), x, dy, exchange),
        "by hand": partial(_forward_backward, _ByHand(channels), x, dy),
    }


def _numbers(channels: int) -> Tensor:
    """What a SyncBatchNorm sends."""
    return torch.zeros(_FIRST + 2 * (-(-channels // _WIDTH) * _WIDTH), dtype=torch.float64)


def _messages() -> dict[str, Step]:
    sums, numbers = torch.zeros(2, dtype=torch.float64), _numbers(_WIDTH)
    # Its first numbers are the channels, the layer's tag and the count (csrc/math/merge_ranks.h).
    many = torch.ones(_MANY_RANKS, len(numbers), dtype=torch.float64)
    many[:, 0], many[:, 1] = _WIDTH, 0
    mean, invstd = torch.empty(2, _WIDTH).unbind()
    merge = partial(
        _native.core.batch_norm_merge_moments,
        x=many,
        threads=1,
        mean=mean,
        invstd=invstd,
        total=numbers.new_empty(1),
        running_mean=None,
        running_var=None,
        momentum=0.1,
        batches=None,
        eps=1e-5,
        tag=0,
        layer="SyncBatchNorm",
        rank=0,
    )
    return {
        "all-reduce": partial(dist.all_reduce, sums),
        "gather": partial(gather, numbers, Peers(dist.group.WORLD, "SyncBatchNorm", 0), _WIDTH),
        "merge": merge,
    }


def _forward_backward(layer: nn.Module, x: Tensor, dy: Tensor, exchange: Any = None) -> None:
    x.grad = None
    layer.zero_grad()
    y = layer(x)
    if exchange is not None:
        exchange()
    y.backward(dy)
    if exchange is not None:
        exchange()


class _Sum(torch.autograd.Function):
    """Adds up a tensor over the ranks, and its gradient, too."""

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        """Adds up the input."""
        total = input.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Adds up the gradient."""
        total = grad.clone()
        dist.all_reduce(total)
        return total


class _ByHand(nn.BatchNorm2d):
    """Statistics of all ranks by torch's differentiable all-reduce."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises by mean and mean square over all ranks, whose batches are of one size."""
        own = torch.cat([input.mean((0, 2, 3)), input.square().mean((0, 2, 3))])
        total: Tensor = _Sum.apply(own)  # type: ignore[no-untyped-call]  # torch gives it no types
        mean, square = (total / RANKS).chunk(2)
        var = square - mean * mean
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            count = input.numel() / input.shape[1] * RANKS
            self.running_mean.lerp_(mean, 0.1)
            self.running_var.lerp_(var * (count / (count - 1)), 0.1)
        scale = self.weight * torch.rsqrt(var + self.eps)
        bias = self.bias - mean * scale
        output: Tensor = input * scale.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)
        return output
