"""A step with its tail (unscale, clip, update, moving average) next to torch's calls in a row, against float64.

torch's calls are: gradients divided by the scale, torch.nn.utils.clip_grad_norm_, the plain loop's step, and the
average by lerp_. Its average is kept in float32 here, as ours is, though AveragedModel would keep it in bfloat16.
All average the parameters that ours stored, whose error has a row of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from onepass.optim._step.fused import FusedOptimizer
from onepass.optim._step.plain import fused_classes, plain_class
from onepass.optim._step.tailed import wide_copy
from onepass.parity.harness import Row, Tally
from onepass.parity.optim import DTYPES, SHAPES, follow, judge, make, params_of

__all__ = ["DTYPES", "rows"]

# Other rules are measured with their defaults.
_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{}, {"momentum": 0.9, "nesterov": True}],
    "Adam": [{"weight_decay": 0.1}],
    "AdamW": [{}, {"amsgrad": True, "maximize": True}],
}
_TAILS: list[dict[str, float]] = [
    {"grad_scale": 8.0},
    {"max_grad_norm": 0.5},
    {"max_grad_norm": 1e6},
    {"ema_decay": 0.99},
    {"grad_scale": 1024.0, "max_grad_norm": 0.5, "ema_decay": 0.99},
]


def rows(dtypes: Sequence[torch.dtype], steps: int, device: torch.device) -> Iterator[Row]:
    """Measures every rule with every tail in every dtype.

    Args:
        dtypes: Dtypes of parameters, gradients and states, from `DTYPES`.
        steps: How many steps each run takes, at least 1.
        device: Where ours and torch's loop run; float64 runs on the CPU.

    Yields:
        A row for the parameters and one for each state.
    """
    for kind in fused_classes():
        for dtype in dtypes:
            for options in _OPTIONS.get(kind.__name__, [{}]):
                for tail in _TAILS:
                    yield from _measure(kind, dtype, options, tail, steps, device)


def _measure(
    kind: type[FusedOptimizer],
    dtype: torch.dtype,
    options: dict[str, Any],
    tail: dict[str, float],
    steps: int,
    device: torch.device,
) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in SHAPES]
    scale = tail.get("grad_scale", 1.0)
    in_step = {name: value for name, value in tail.items() if name != "grad_scale"}
    ours: Any = make(kind, start, dtype, device, {**options, **in_step})
    plain = {"foreach": False, "fused": False, **options}
    loop = make(plain_class(kind), start, dtype, device, plain)
    exact = make(
        plain_class(kind), [tensor.to(dtype) for tensor in start], torch.float64, torch.device("cpu"), plain
    )
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for step in range(1, steps + 1):
        # Small enough that no dtype overflows.
        grads = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
        follow(loop, ours)
        follow(exact, ours)
        for optimizer in (ours, loop, exact):
            for param, grad in zip(params_of(optimizer), grads, strict=True):
                param.grad = grad.to(device=param.device, dtype=param.dtype)
        if scale != 1:
            ours.grad_scale = scale
        ours.step()
        _step_of_torch(loop, scale, tail, params_of(ours))
        _step_of_torch(exact, scale, tail, params_of(ours))
        judge(step, ours, loop, exact, tallies)
    text = ", ".join(f"{name}={value}" for name, value in {**options, **tail}.items())
    for tensor, tally in tallies.items():
        yield tally.row(kind.__name__, str(dtype).removeprefix("torch."), text, tensor)


@torch.no_grad()
def _step_of_torch(optimizer: Optimizer, scale: float, tail: dict[str, float], stored: list[Tensor]) -> None:
    params = params_of(optimizer)
    for param in params:
        assert param.grad is not None
        param.grad.div_(scale)
    if "max_grad_norm" in tail:
        torch.nn.utils.clip_grad_norm_(params, tail["max_grad_norm"], foreach=False)
    if "ema_decay" in tail:
        for param in params:
            own = optimizer.state[param]
            if "ema" not in own:
                own["ema"] = wide_copy(param.detach(), param)
    averages = [optimizer.state[param].get("ema") for param in params]
    # Adam would take a state with any entry for one that it has filled.
    for param in params:
        optimizer.state[param].pop("ema", None)
        if not optimizer.state[param]:
            del optimizer.state[param]
    optimizer.step()
    for param, average, value in zip(params, averages, stored, strict=True):
        if average is not None:
            value = value.detach().to(average)
            optimizer.state[param]["ema"] = average.lerp_(value, 1 - tail["ema_decay"])
