"""One batch norm computed three ways: ours, torch's eager functions in the same dtype, numpy in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import Backend
from onepass.nn.functional import batch_norm
from reference import batch_norm as reference

EPS = 1e-3
MOMENTUM = 0.3
# Gradients are 0 where the sign of ReLU's argument could be another one in another arithmetic.
_CLEAR = 0.05

# (dtype of the input, dtype of parameters and running statistics)
DTYPES = (
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float32),
    (torch.float16, torch.float16),
)
DTYPE_IDS = [f"{str(x)[6:]}-{str(p)[6:]}" for x, p in DTYPES]

SHAPES = (
    (9, 1),
    (3, 5),
    (37, 8),
    (4, 3, 7),
    (2, 17, 4),
    (2, 3, 5, 7),
    (5, 33, 3, 3),
    (2, 32, 4, 6),
    (1, 2, 16, 17),
    (2, 3, 2, 3, 5),
)
SHAPE_IDS = ["x".join(map(str, shape)) for shape in SHAPES]


@dataclass
class Inputs:
    """What goes in: values that the dtypes can hold, on the CPU, contiguous."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    residual: Tensor
    dy: Tensor
    running_mean: Tensor
    running_var: Tensor


@dataclass
class Outputs:
    """What comes out, by name."""

    y: Tensor
    dx: Tensor
    dweight: Tensor
    dbias: Tensor
    dresidual: Tensor
    running_mean: Tensor
    running_var: Tensor


@dataclass(frozen=True)
class Options:
    training: bool = True
    relu: bool = False
    residual: bool = False

    def __str__(self) -> str:
        parts = ["train" if self.training else "eval"]
        return "-".join(parts + ["residual"] * self.residual + ["relu"] * self.relu)


OPTIONS = [Options(t, a, r) for t in (True, False) for a in (False, True) for r in (False, True)]


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype, param: torch.dtype, mean: float = 0.0, seed: int = 0
) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    channels = shape[1]
    return Inputs(
        x=(normal(*shape) * 1.5 + mean).to(dtype),
        weight=normal(channels).to(param),
        bias=normal(channels).to(param),
        residual=normal(*shape).to(dtype),
        dy=normal(*shape).to(dtype),
        running_mean=(normal(channels) * 0.5 + mean).to(param),
        running_var=(normal(channels).abs() + 0.5).to(param),
    )


def exactly(given: Inputs, options: Options, kept: Tensor | None = None) -> tuple[Inputs, Outputs]:
    """Returns the float64 result, and the inputs with a dy that is 0 where ReLU's argument is near 0."""
    # Wider than float64 where the machine has it, for float64's own sake.
    x, weight, bias, residual, dy, mean, var = (
        value.double().numpy().astype(np.longdouble) for value in vars(given).values()
    )
    residual = residual if options.residual else 0 * x
    kept = 1.0 + 0 * x if kept is None else kept.numpy()
    rest = ((mean, var), options.training, MOMENTUM, EPS)
    linear = reference.forward(x, weight, bias, residual, *rest, relu=False, kept=1 + 0 * x).output
    gate = kept
    if options.relu:
        dy = dy * (abs(linear) > _CLEAR)
        gate = gate * (linear > 0)
    out = reference.forward(x, weight, bias, residual, *rest, relu=options.relu, kept=kept)
    grads = reference.backward(dy, x, weight, out.mean, out.var, options.training, EPS, gate)
    found = (out.output, grads.input, grads.weight, grads.bias, grads.residual, out.running_mean, out.running_var)
    judged = replace(given, dy=torch.from_numpy(dy.astype(np.float64)).to(given.dy.dtype))
    return judged, Outputs(*(torch.from_numpy(value.astype(np.float64)) for value in found))


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """A copy of the tensor in a layout: contiguous, channels_last (of any dimension), strided."""
    if layout == "contiguous" or tensor.dim() == 2:
        return tensor.clone() if layout != "strided" else tensor.t().contiguous().t()
    if layout == "channels_last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), float("nan"), dtype=tensor.dtype)
    wide = wide.to(tensor.device)
    part = wide[..., 1::2]
    part.copy_(tensor)
    return part


def ours(given: Inputs, options: Options, backend: Backend, layout: str = "contiguous", **more) -> Outputs:
    x, residual, dy = (laid_out(value.to(backend.device), layout) for value in (given.x, given.residual, given.dy))
    weight, bias, mean, var = (
        value.to(backend.device, copy=True)
        for value in (given.weight, given.bias, given.running_mean, given.running_var)
    )
    leaves = [value.requires_grad_() for value in (x, weight, bias, residual)]
    y = batch_norm(
        x,
        mean,
        var,
        weight,
        bias,
        options.training,
        MOMENTUM,
        EPS,
        activation="relu" if options.relu else None,
        residual=residual if options.residual else None,
        **more,
    )
    return _finished(y, leaves, dy, mean, var)


def torchs(given: Inputs, options: Options) -> Outputs:
    """torch's functions in a row, on contiguous tensors: its accurate path."""
    leaves = [v.clone().requires_grad_() for v in (given.x, given.weight, given.bias, given.residual)]
    x, weight, bias, residual = leaves
    mean, var = given.running_mean.clone(), given.running_var.clone()
    y = F.batch_norm(x, mean, var, weight, bias, options.training, MOMENTUM, EPS)
    if options.residual:
        y = y + residual
    if options.relu:
        y = y.relu()
    return _finished(y, leaves, given.dy, mean, var)


@cache
def expected(
    shape: tuple[int, ...], dtype: torch.dtype, param: torch.dtype, options: Options
) -> tuple[Inputs, Outputs, Outputs]:
    """Inputs, torch's result and the float64 one: the same for all layouts and backends."""
    given, exact = exactly(inputs(shape, dtype, param), options)
    return given, torchs(given, options), exact


def _finished(y: Tensor, leaves: list[Tensor], dy: Tensor, mean: Tensor, var: Tensor) -> Outputs:
    grads = torch.autograd.grad(y, leaves, dy, allow_unused=True)
    dx, dweight, dbias, dresidual = (
        torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads, strict=True)
    )
    dresidual = dresidual if grads[3] is not None else dy
    return Outputs(y.detach(), dx, dweight, dbias, dresidual, mean, var)


# Sets of options, for tests of how the function goes with the rest of torch.
FUSED = [
    {},
    {"activation": "relu"},
    {"residual": True},
    {"activation": "relu", "residual": True},
    {"activation": "relu", "residual": True, "dropout": 0.3, "seed": 5},
]
FUSED_IDS = ["plain", "relu", "residual", "residual-relu", "all"]


def leaves(shape=(4, 3, 5), dtype=torch.float64, device="cpu", seed=0) -> list[torch.Tensor]:
    """Input, weight, bias, residual that require gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (shape, (shape[1],), (shape[1],), shape)
    return [torch.randn(s, generator=generator, dtype=dtype).to(device).requires_grad_() for s in shapes]


def call(x, weight, bias, residual, training=True, options=FUSED[0], function=batch_norm) -> torch.Tensor:
    more = {**options, "residual": residual} if options.get("residual") else options
    mean = torch.full((x.shape[1],), 0.2, dtype=weight.dtype, device=x.device)
    return function(x, mean, mean + 0.5, weight, bias, training, 0.1, 1e-3, **more)
