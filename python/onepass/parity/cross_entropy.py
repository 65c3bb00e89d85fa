"""Cross-entropy next to torch's function, both against torch in float64: the loss of each row, and the gradient.

Each step is another batch. The rules with a spread have confident rows, in which torch's gradient of the label is
the difference of two numbers near 1. With half precision logits our losses are float32; they are rounded to
torch's dtype for the comparison.
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


@dataclass(frozen=True)
class Rule:
    """Describes what is computed."""

    name: str
    smoothing: float = 0.0
    weighted: bool = False
    probabilities: bool = False
    spread: float = 1.0
    offset: float = 0.0


RULES = (
    Rule("plain"),
    Rule("smoothed", smoothing=0.1),
    Rule("smoothed, weighted", smoothing=0.1, weighted=True),
    Rule("probabilities", probabilities=True),
    Rule("confident", spread=8.0),
    Rule("far from 0", smoothing=0.1, offset=200.0),
)
_SHAPES = ((256, 10), (64, 1000), (8, 20000), (4, 19, 16, 16))


def rows(dtypes: Sequence[torch.dtype], steps: int, device: torch.device) -> Iterator[Row]:
    """Measures every rule on every shape in every dtype.

    Args:
        dtypes: Dtypes of the logits, from `DTYPES`.
        steps: How many batches, at least 1.
        device: Where ours and torch's functions run; float64 runs on the CPU.

    Yields:
        A row for the losses and for the gradient.
    """
    for rule in RULES:
        for dtype in dtypes:
            for shape in _SHAPES:
                yield from _measure(rule, dtype, shape, steps, device)


def _measure(
    rule: Rule, dtype: torch.dtype, shape: tuple[int, ...], steps: int, device: torch.device
) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for step in range(1, steps + 1):
        x = (torch.randn(shape, generator=generator) * rule.spread + rule.offset).to(dtype)
        target = torch.randint(0, shape[1], shape[:1] + shape[2:], generator=generator)
        if rule.probabilities:
            target = torch.randn(shape, generator=generator).softmax(1).to(dtype)
        weight = (torch.rand(shape[1], generator=generator) + 0.5).to(dtype) if rule.weighted else None
        exact = _outputs(F.cross_entropy, x, target, weight, rule, torch.float64)
        there = (x.to(device), target.to(device), None if weight is None else weight.to(device))
        ours = _outputs(onepass.nn.functional.cross_entropy, *there, rule, dtype)
        theirs = _outputs(F.cross_entropy, *there, rule, dtype)
        for name, value in ours.items():
            tallies[name].add(step, value.to(theirs[name].dtype), theirs[name], exact[name])
    for name, tally in tallies.items():
        yield tally.row(rule.name, str(dtype).removeprefix("torch."), "x".join(map(str, shape)), name)


def _outputs(
    function: Any, x: Tensor, target: Tensor, weight: Tensor | None, rule: Rule, dtype: torch.dtype
) -> dict[str, Tensor]:
    x = x.detach().to(dtype, copy=True).requires_grad_()
    target = target.to(dtype) if target.is_floating_point() else target
    weight = None if weight is None else weight.to(dtype)
    losses = function(x, target, weight, reduction="none", label_smoothing=rule.smoothing)
    (grad,) = torch.autograd.grad(losses, x, torch.ones_like(losses))
    return {"loss": losses.detach(), "dx": grad}
