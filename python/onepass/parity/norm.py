"""Layer and RMS norm next to torch's functions, both against torch in float64; each step is another batch.

The rules with dropout take the mask of `onepass.nn.functional.dropout` on all three sides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import onepass.nn
from onepass.parity.harness import Row, Tally

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_EPS, _P = 1e-5, 0.1


@dataclass(frozen=True)
class Rule:
    """Describes what is computed."""

    name: str
    centred: bool
    residual: bool = False
    dropout: bool = False


RULES = (
    Rule("RMSNorm", centred=False),
    Rule("residual, RMSNorm", centred=False, residual=True),
    Rule("LayerNorm", centred=True),
    Rule("dropout, residual, LayerNorm", centred=True, residual=True, dropout=True),
)
# (shape, mean of the input)
_INPUTS = (((64, 1024), 0.0), ((64, 1024), 1000.0), ((500, 33), 0.0), ((3, 9001), 0.0))


def rows(dtypes: Sequence[torch.dtype], steps: int, device: torch.device) -> Iterator[Row]:
    """Measures every rule on every input in every dtype.

    Args:
        dtypes: Dtypes of the inputs and parameters, from `DTYPES`.
        steps: How many batches, at least 1.
        device: Where ours and torch's functions run; float64 runs on the CPU.

    Yields:
        A row for each output and each gradient.
    """
    for rule in RULES:
        for dtype in dtypes:
            for shape, mean in _INPUTS:
                yield from _measure(rule, dtype, shape, mean, steps, device)


def _measure(
    rule: Rule, dtype: torch.dtype, shape: tuple[int, ...], mean: float, steps: int, device: torch.device
) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for step in range(1, steps + 1):
        x, residual, dy, dh = (torch.randn(shape, generator=generator) for _ in range(4))
        weight, bias = (torch.rand(shape[-1:], generator=generator) + 0.5 for _ in range(2))
        given = [one.to(dtype) for one in (x * 1.5 + mean, residual, dy, dh, weight, bias)]
        exact = _outputs(rule, [one.double() for one in given], step, ours=False)
        on_device = [one.to(device) for one in given]
        theirs = _outputs(rule, on_device, step, ours=False)
        for name, value in _outputs(rule, on_device, step, ours=True).items():
            tallies[name].add(step, value, theirs[name], exact[name])
    text = f"{'x'.join(map(str, shape))}{f' mean {mean:g}' if mean else ''}"
    for name, tally in tallies.items():
        yield tally.row(rule.name, str(dtype).removeprefix("torch."), text, name)


def _outputs(rule: Rule, given: Sequence[Tensor], seed: int, ours: bool) -> dict[str, Tensor]:
    x, residual, dy, dh, weight, bias = given
    x, residual, weight, bias = (one.clone().requires_grad_() for one in (x, residual, weight, bias))
    leaves = {"dx": x, "dweight": weight} | ({"dbias": bias} if rule.centred else {})
    leaves |= {"dresidual": residual} if rule.residual else {}
    found = (
        _ours(rule, x, residual, weight, bias, seed) if ours else _torchs(rule, x, residual, weight, bias, seed)
    )
    outputs = {"y": found[0]} | ({"h": found[1]} if rule.residual else {})
    grads = torch.autograd.grad(list(outputs.values()), list(leaves.values()), [dy, dh][: len(outputs)])
    return {name: one.detach() for name, one in outputs.items()} | dict(zip(leaves, grads, strict=True))


def _ours(rule: Rule, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, seed: int) -> Sequence[Tensor]:
    more: dict[str, Any] = {"residual": residual} if rule.residual else {}
    more |= {"dropout": _P, "seed": seed} if rule.dropout else {}
    functions = onepass.nn.functional
    shape = list(weight.shape)
    if rule.centred:
        y: Any = functions.layer_norm(x, shape, weight, bias, _EPS, **more)
    else:
        y = functions.rms_norm(x, shape, weight, _EPS, **more)
    return y if rule.residual else (y,)


def _torchs(rule: Rule, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, seed: int) -> Sequence[Tensor]:
    h, shape = x, list(weight.shape)
    if rule.dropout:
        ones = torch.ones(x.shape, dtype=torch.float64, device=x.device)
        h = h * onepass.nn.functional.dropout(ones, _P, True, seed=seed).to(x.dtype)
    if rule.residual:
        h = h + residual
    if rule.centred:
        return F.layer_norm(h, shape, weight, bias, _EPS), h
    return F.rms_norm(h, shape, weight, _EPS), h
