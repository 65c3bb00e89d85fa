"""Dropout next to torch's operations with the same mask, both against float64.

torch draws other masks than we do, so its side here is the arithmetic of its kernels with our mask: the input
times a scaled mask, then the sum with the residual. Each step is another batch and another seed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

import onepass.nn
from onepass.parity.harness import Row, Tally

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_SHAPES = ((64, 300), (8, 12, 9, 7))
_SELU_LIMIT = 1.7580993408473766
_RULES = (("dropout", False), ("dropout", True), ("dropout2d", True), ("alpha_dropout", False))


def rows(dtypes: Sequence[torch.dtype], steps: int, device: torch.device) -> Iterator[Row]:
    """Measures every function with several p in every dtype.

    Args:
        dtypes: Dtypes of the inputs, from `DTYPES`.
        steps: How many batches, at least 1.
        device: Where ours and torch's functions run; float64 runs on the CPU.

    Yields:
        A row for the output and each gradient.
    """
    for function, residual in _RULES:
        for dtype in dtypes:
            for shape in _SHAPES:
                if function == "dropout2d" and len(shape) != 4:
                    continue
                for p in (0.1, 0.5):
                    yield from _measure(function, residual, dtype, shape, p, steps, device)


def _measure(
    function: str,
    with_residual: bool,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    p: float,
    steps: int,
    device: torch.device,
) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for step in range(1, steps + 1):
        x, residual, dy = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(3))
        more = {"residual": residual} if with_residual else {}
        call = getattr(onepass.nn.functional, function)
        leaf = x.clone().requires_grad_()
        y = call(leaf, p, True, seed=step, **more)
        (dx,) = torch.autograd.grad(y, leaf, dy)
        ones = torch.ones(shape, dtype=torch.float64, device=device, requires_grad=True)
        # The gradient shows the mask: in every function it is 0 where an element is dropped.
        (slope,) = torch.autograd.grad(call(ones, p, True, seed=step), ones, torch.ones_like(ones))
        kept = slope != 0
        addend = residual if with_residual else torch.zeros_like(residual)
        exact = _forward(function, x.double(), kept, p, addend.double()), _slope(function, p) * kept * dy.double()
        theirs = _forward(function, x, kept, p, addend), (kept * _slope(function, p)).to(dtype) * dy
        for name, mine, other, wide in zip(("y", "dx"), (y, dx), theirs, exact, strict=True):
            tallies[name].add(step, mine.detach(), other, wide)
    options = f"{'x'.join(map(str, shape))} p {p}{' residual' if with_residual else ''}"
    for name, tally in tallies.items():
        yield tally.row(function, str(dtype).removeprefix("torch."), options, name)


def _slope(function: str, p: float) -> float:
    if function != "alpha_dropout":
        return 1 / (1 - p)
    return float(((1 - p) * (1 + p * _SELU_LIMIT**2)) ** -0.5)


def _forward(function: str, x: Tensor, kept: Tensor, p: float, residual: Tensor) -> Tensor:
    """Computes the output as torch does, each operation in x's dtype."""
    a = _slope(function, p)
    noise = (kept * a).to(x.dtype)
    if function != "alpha_dropout":
        return x * noise + residual
    shift = (kept.to(x.dtype) - 1) * (_SELU_LIMIT * a) + _SELU_LIMIT * a * p
    return x * noise + shift
