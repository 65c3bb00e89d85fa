"""One layer or RMS norm computed three ways: ours, torch's functions in the same dtype, torch's in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from onepass.nn import functional as ours

EPS = 1e-3
SEED = 11
FUNCTIONS = ("layer_norm", "rms_norm")

# (dtype of the input, dtype of the parameters)
DTYPES = (
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float32),
    (torch.float16, torch.float16),
)
DTYPE_IDS = [f"{str(x)[6:]}-{str(p)[6:]}" for x, p in DTYPES]


@dataclass(frozen=True)
class Options:
    """What is done before the norm."""

    residual: bool = False
    dropout: float = 0.0

    def __str__(self) -> str:
        return "plain" if not self.residual else f"residual-{self.dropout}"


OPTIONS = (Options(), Options(residual=True), Options(residual=True, dropout=0.3))


@dataclass
class Inputs:
    """What goes in: values that the dtypes can hold, on the CPU, contiguous."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    residual: Tensor
    dy: Tensor
    dh: Tensor


def inputs(shape: tuple[int, ...], rows: int, dtype: torch.dtype, param: torch.dtype, mean: float = 0.0) -> Inputs:
    """Draws inputs; rows: how many of the last dimensions a row has."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    last = shape[len(shape) - rows :]
    return Inputs(
        x=(normal(*shape) * 1.5 + mean).to(dtype),
        weight=normal(*last).to(param),
        bias=normal(*last).to(param),
        residual=normal(*shape).to(dtype),
        dy=normal(*shape).to(dtype),
        dh=normal(*shape).to(dtype),
    )


def kept_scaled(given: Inputs, options: Options) -> Tensor:
    """What dropout multiplies x by, in float64: the mask of onepass.nn.functional.dropout."""
    ones = torch.ones(given.x.shape, dtype=torch.float64)
    return ours.dropout(ones, options.dropout, True, seed=SEED) if options.dropout else ones


def run(
    function: str, given: Inputs, options: Options, side: str, device: torch.device | None = None
) -> dict[str, Tensor]:
    """Outputs and gradients by name; side: ours, torch, or exact (torch in float64)."""

    def leaf(value: Tensor) -> Tensor:
        wide = value.double() if side == "exact" else value
        return wide.to(device or wide.device, copy=True).requires_grad_()

    x, weight, bias, residual = (leaf(one) for one in (given.x, given.weight, given.bias, given.residual))
    centred = function == "layer_norm"
    shape = list(weight.shape)
    h = x
    if side == "ours":
        affine = (weight, bias) if centred else (weight,)
        more = {"residual": residual, "dropout": options.dropout} if options.residual else {}
        more |= {"seed": SEED} if options.dropout else {}
        found = getattr(ours, function)(x, shape, *affine, EPS, **more)
        y, h = found if options.residual else (found, None)
    else:
        if options.residual:
            h = x * kept_scaled(given, options).to(x.dtype) + residual if options.dropout else x + residual
        y = F.layer_norm(h, shape, weight, bias, EPS) if centred else F.rms_norm(h, shape, weight, EPS)
        y = y.to(x.dtype)
        h = h if options.residual else None
    leaves = {"dx": x, "dweight": weight}
    leaves |= {"dbias": bias} if centred else {}
    leaves |= {"dresidual": residual} if options.residual else {}
    outputs = [y] if h is None else [y, h]
    grads = torch.autograd.grad(
        outputs, list(leaves.values()), [one.to(y) for one in (given.dy, given.dh)][: len(outputs)]
    )
    results = {"y": y.detach(), **dict(zip(leaves, grads, strict=True))}
    return results if h is None else {**results, "h": h.detach()}
