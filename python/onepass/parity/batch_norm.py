"""Batch norm next to torch's eager functions on contiguous tensors, both against torch in float64.

Each step is another batch. Gradients are 0 where the argument of ReLU is so near 0 that rounding may change its
sign. The last rule compares with torch's own channels_last path instead, which sums in float32: torch's errors
show what that costs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import onepass.nn
from onepass.parity.harness import Row, Tally

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_EPS, _MOMENTUM, _CLEAR = 1e-5, 0.1, 0.05


@dataclass(frozen=True)
class Rule:
    """Describes what is computed."""

    name: str
    relu: bool = False
    residual: bool = False
    training: bool = True
    torch_channels_last: bool = False


RULES = (
    Rule("training"),
    Rule("training, ReLU", relu=True),
    Rule("training, residual, ReLU", relu=True, residual=True),
    Rule("evaluation, ReLU", relu=True, training=False),
    Rule("training beside torch's channels_last", torch_channels_last=True),
)
# (shape, mean of the input, channels last)
_INPUTS = (
    ((16, 24, 14, 14), 0.0, False),
    ((16, 24, 14, 14), 0.0, True),
    ((4, 3, 64, 64), 10.0, False),
    ((4, 3, 64, 64), 10.0, True),
    ((256, 40), 0.0, False),
)


def rows(dtypes: Sequence[torch.dtype], steps: int, device: torch.device) -> Iterator[Row]:
    """Measures every rule on every input in every dtype.

    Args:
        dtypes: Dtypes of the inputs, from `DTYPES`; parameters and running statistics are float32.
        steps: How many batches, at least 1.
        device: Where ours and torch's functions run; float64 runs on the CPU.

    Yields:
        A row for each output and each gradient.
    """
    for rule in RULES:
        for dtype in dtypes:
            for shape, mean, last in _INPUTS:
                if last or not rule.torch_channels_last:
                    yield from _measure(rule, dtype, shape, mean, last, steps, device)


def _measure(
    rule: Rule,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    mean: float,
    last: bool,
    steps: int,
    device: torch.device,
) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    channels = (shape[1],)
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for step in range(1, steps + 1):
        x, residual, dy = (torch.randn(shape, generator=generator) for _ in range(3))
        vectors = [torch.rand(channels, generator=generator) + 0.5 for _ in range(4)]
        large = [(x * 1.5 + mean).to(dtype), residual.to(dtype), dy.to(dtype)]
        vectors[2] += mean
        if rule.relu:
            argument = _forward(F.batch_norm, large, vectors, rule, torch.float64, relu=False)[0]
            large[2] = large[2] * (argument.abs() > _CLEAR)
        exact = _outputs(F.batch_norm, large, vectors, rule, torch.float64)
        on_device = [[tensor.to(device) for tensor in kind] for kind in (large, vectors)]
        format_ = torch.channels_last if last and len(shape) == 4 else torch.contiguous_format
        laid_out = [tensor.contiguous(memory_format=format_) for tensor in on_device[0]]
        ours = _outputs(onepass.nn.functional.batch_norm, laid_out, on_device[1], rule)
        theirs_on = laid_out if rule.torch_channels_last else on_device[0]
        theirs = _outputs(F.batch_norm, theirs_on, on_device[1], rule)
        for name, value in ours.items():
            tallies[name].add(step, value, theirs[name], exact[name])
    text = f"{'x'.join(map(str, shape))}{' channels_last' if last else ''}{f' mean {mean:g}' if mean else ''}"
    for name, tally in tallies.items():
        yield tally.row(rule.name, str(dtype).removeprefix("torch."), text, name)


def _forward(
    function: object,
    large: list[Tensor],
    vectors: list[Tensor],
    rule: Rule,
    dtype: torch.dtype | None,
    relu: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Output, leaves, running statistics; in `dtype` if one is given."""
    x, residual, _ = (tensor.detach().to(dtype or tensor.dtype, copy=True) for tensor in large)
    weight, bias, mean, var = (tensor.detach().to(dtype or tensor.dtype, copy=True) for tensor in vectors)
    leaves = [leaf.requires_grad_() for leaf in (x, weight, bias, *([residual] if rule.residual else []))]
    arguments = (x, mean, var, weight, bias, rule.training, _MOMENTUM, _EPS)
    if function is F.batch_norm:
        y = F.batch_norm(*arguments)
        y = y + residual if rule.residual else y
        y = y.relu() if relu else y
    else:
        y = onepass.nn.functional.batch_norm(
            *arguments, activation="relu" if relu else None, residual=residual if rule.residual else None
        )
    return y, leaves, [mean, var]


def _outputs(
    function: object, large: list[Tensor], vectors: list[Tensor], rule: Rule, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    y, leaves, statistics = _forward(function, large, vectors, rule, dtype, rule.relu)
    grads = torch.autograd.grad(y, leaves, large[2].to(y.dtype))
    found = dict(zip(("dx", "dweight", "dbias", "dresidual"), grads, strict=False))
    found["y"] = y.detach()
    if rule.training:
        found["running_mean"], found["running_var"] = statistics
    return found
