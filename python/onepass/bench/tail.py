"""All that follows backward() in mixed precision training, and clipping by itself: shapes and setup.

The whole tail: gradients unscaled, their norm taken, clipped, the step skipped if one is not finite, AdamW, a
moving average of the parameters, gradients zeroed. Competitors: ``ours``, one call of ``step``; ``torch``, the
fastest way with what torch has: GradScaler.unscale_, clip_grad_norm_ (foreach), GradScaler.step of the fused
AdamW, AveragedModel with torch's foreach average, _foreach_zero_. Before each call the gradients are filled again,
which is not timed. ``stream`` is a plain loop that moves as many bytes as the tail has to (docs/numerics.md counts
them).

Telemetry: ``ours`` measures each step, ``off`` is the same step without measuring. Precision: ``ours`` is a
bfloat16 step that rounds to nearest, the others keep what rounding loses (docs/precision.md).

Clipping by itself: ``ours``, torch's ``foreach`` and ``loop``, with gradients that are scaled and with gradients
that are small enough already (which ours does not write on the CPU).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import onepass.optim
from onepass.bench.harness import OURS, STREAM, Case, Prepared, Step
from onepass.bench.optim import LARGE, Shape
from onepass.bench.probe import probe

_SMALL = Shape("1000x1024", 1000, 1024, rounds=60)
_SHAPES = (LARGE, _SMALL)
_DECAY = 0.999
_MAX_NORM = 1.0
_SCALE = 1024.0
# float32: pass one reads g; pass two reads p, g, m, v, ema and writes p, m, v, ema, and zeros to g.
_TAIL_BYTES = 44
# float32: reads p, g, m, v and writes p, m, v; half of it in bfloat16.
_ADAMW_BYTES = 28
# Differences of one percent need more rounds.
_MANY_ROUNDS = 41
# The norm reads g; scaling reads and writes it.
_CLIP_BYTES = {"small": 4, "scaled": 12}


def cases(device: torch.device) -> list[Case]:
    """Lists all cases.

    Args:
        device: Where their tensors are.
    """
    return list(_cases(device))


def _cases(device: torch.device) -> Iterator[Case]:
    for shape in _SHAPES:
        yield _tail_case(shape, device)
    for shape in _SHAPES:
        for kind in _CLIP_BYTES:
            yield _clip_case(shape, kind, device)
    yield _telemetry_case(LARGE, device)
    yield _precision_case(LARGE, device)


def _tail_case(shape: Shape, device: torch.device) -> Case:
    total = _TAIL_BYTES * shape.count * shape.numel

    def setup() -> dict[str, Step]:
        fresh = [_SCALE * torch.randn(shape.numel, device=device) for _ in range(shape.count)]
        return {
            OURS: _ours(fresh),
            "torch": _torchs(fresh, device),
            STREAM: probe(total, 4, device),
        }

    return Case(name=f"tail-adamw-{shape.name}", bytes_moved=total, rounds=shape.rounds, setup=setup)


def _params(grads: list[Tensor]) -> list[torch.nn.Parameter]:
    params = [torch.nn.Parameter(torch.randn_like(grad)) for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    return params


def _refill(params: list[torch.nn.Parameter], fresh: list[Tensor]) -> Callable[[], None]:
    grads = [param.grad for param in params]
    return lambda: torch._foreach_copy_(grads, fresh)  # type: ignore[arg-type]  # all of them have a gradient


def _ours(fresh: list[Tensor]) -> Prepared:
    params = _params(fresh)
    optimizer = onepass.optim.AdamW(params, max_grad_norm=_MAX_NORM, skip_nonfinite=True, ema_decay=_DECAY)
    optimizer.grad_scale = torch.tensor(_SCALE, device=fresh[0].device)
    return Prepared(_refill(params, fresh), lambda: optimizer.step(zero_grad=True))


def _torchs(fresh: list[Tensor], device: torch.device) -> Prepared:
    params = _params(fresh)
    model = torch.nn.ParameterList(params)
    # torch gives these functions no types.
    average: Any = get_ema_multi_avg_fn
    averaged = AveragedModel(model, multi_avg_fn=average(_DECAY))
    optimizer = torch.optim.AdamW(params, fused=True)
    scaler: Any = torch.amp.GradScaler(device.type, init_scale=_SCALE, growth_interval=1_000_000)
    scaler.scale(torch.ones((), device=device))
    grads = [param.grad for param in params]

    def step() -> None:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(params, _MAX_NORM, foreach=True)
        scaler.step(optimizer)
        scaler.update()
        averaged.update_parameters(model)
        torch._foreach_zero_(grads)  # type: ignore[arg-type]  # as above

    return Prepared(_refill(params, fresh), step)


def _plain(grads: list[Tensor], **options: Any) -> Step:
    params = _params(grads)
    optimizer = onepass.optim.AdamW(params, **options)
    return lambda: optimizer.step()


def _telemetry_case(shape: Shape, device: torch.device) -> Case:
    total = _ADAMW_BYTES * shape.count * shape.numel

    def setup() -> dict[str, Step]:
        grads = [torch.randn(shape.numel, device=device) for _ in range(shape.count)]
        return {
            OURS: _plain(grads, telemetry=True),
            "off": _plain(grads),
            STREAM: probe(total, 3, device),
        }

    return Case(f"telemetry-adamw-{shape.name}", total, _MANY_ROUNDS, setup)


def _precision_case(shape: Shape, device: torch.device) -> Case:
    total = _ADAMW_BYTES // 2 * shape.count * shape.numel

    def setup() -> dict[str, Step]:
        grads = [torch.randn(shape.numel, device=device).bfloat16() for _ in range(shape.count)]
        return {
            OURS: _plain(grads),
            "stochastic": _plain(grads, rounding="stochastic", seed=0),
            "kahan": _plain(grads, rounding="kahan"),
            "master": _plain(grads, master_weights=True),
            STREAM: probe(total, 3, device),
        }

    return Case(f"precision-adamw-{shape.name}", total, _MANY_ROUNDS, setup)


def _clip_case(shape: Shape, kind: str, device: torch.device) -> Case:
    max_norm = _MAX_NORM if kind == "scaled" else float(shape.count * shape.numel)
    total = _CLIP_BYTES[kind] * shape.count * shape.numel

    def setup() -> dict[str, Step]:
        fresh = [torch.randn(shape.numel, device=device) for _ in range(shape.count)]
        params = _params(fresh)
        refill = _refill(params, fresh)
        theirs = torch.nn.utils.clip_grad_norm_
        return {
            OURS: Prepared(refill, lambda: onepass.optim.clip_grad_norm_(params, max_norm)),
            "foreach": Prepared(refill, lambda: theirs(params, max_norm, foreach=True)),
            "loop": Prepared(refill, lambda: theirs(params, max_norm, foreach=False)),
            STREAM: probe(total, 1, device),
        }

    return Case(name=f"clip-{kind}-{shape.name}", bytes_moved=total, rounds=shape.rounds, setup=setup)
