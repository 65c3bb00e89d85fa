"""Batch normalisation composed of torch's operations: what torch.func and second derivatives are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from onepass.nn.batch_norm._kernels import Options, Running

__all__ = ["empty", "forward", "gradients", "momentum_of", "passes_relu"]

# What torch.nn.functional.batch_norm calls. That function itself may be ours by now: users put ours in its place.
_batch_norm: Callable[..., Tensor] = torch.batch_norm


def momentum_of(running: Running, options: Options) -> float:
    """How far the running statistics move, as a number: the count of batches is read back from its device."""
    return 1 / float(cast(Tensor, running.batches)) if options.momentum is None else options.momentum


def forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running,
    options: Options,
) -> Tensor:
    """Returns the output, without dropout."""
    output = _batch_norm(
        input,
        weight,
        bias,
        running.mean,
        running.var,
        options.training,
        momentum_of(running, options),
        options.eps,
        torch.backends.cudnn.enabled,
    )
    if residual is not None:
        output = output + residual
    return output if options.activation is None else output.relu()


def empty(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, residual: Tensor | None, activation: str | None
) -> Tensor:
    """The output for an input without elements, through which gradients (zeros) flow to all that is given."""
    output = input.clone()
    for vector, combine in ((weight, torch.mul), (bias, torch.add)):
        if vector is not None:
            # A scalar, which leaves the dtype to the input.
            output = combine(output, vector.sum())
    if residual is not None:
        output = output + residual
    return output if activation is None else output.relu()


def passes_relu(input: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor) -> Tensor:
    """Where ReLU lets the gradient through: by the kernel's operations one by one, hence with its rounding."""
    channels = _channels(input)
    scale = invstd if weight is None else invstd * weight.to(invstd.dtype)
    argument = (input.to(mean.dtype) - mean.view(channels)) * scale.view(channels)
    if bias is not None:
        argument = argument + bias.to(mean.dtype).view(channels)
    return argument.le(0).logical_not()


def _channels(input: Tensor) -> list[int]:
    """Returns the shape in which a vector of C goes along the channels."""
    return [-1 if dim == 1 else 1 for dim in range(input.dim())]


def gradients(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    gate: Tensor,
    training: bool,
    eps: float,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]:
    r"""Returns the gradients as functions that autograd can differentiate again, as often as wanted.

    With dz = gate * dy, and sums over all dimensions but C:

    .. math::
        db = \sum dz \qquad dw = \sum dz \hat x \qquad
        dx = \frac{w}{\sigma} \left(dz - \overline{dz} - \hat x\,\overline{dz\,\hat x}\right)

    where the last two terms exist only in training.

    Args:
        grad: dy, of the output's shape.
        input: x, of shape (N, C, ...).
        weight: w, of shape (C), or None.
        mean: Of shape (C): what was subtracted. In training it is computed again, since x moves it.
        invstd: Of shape (C): 1 / sigma, as mean.
        gate: What activation and dropout multiply by, of x's shape; its own derivative is 0.
        training: Whether the statistics are the batch's.
        eps: What was added to the variance.
        wanted: Whether dx, dw and db are wanted.

    Returns:
        dx, dw and db, each or None, and dz; all in the arithmetic's dtype.
    """
    wide = mean.dtype
    dims = [d for d in range(input.dim()) if d != 1]
    channels = _channels(input)
    dz = grad.to(wide) * gate
    db = dz.sum(dims) if wanted[2] else None
    if not (wanted[0] or wanted[1]):
        return None, None, db, dz
    x = input.to(wide)
    mean, invstd = mean.view(channels), invstd.view(channels)
    if training:
        mean = x.mean(dims, keepdim=True)
        invstd = (x.var(dims, correction=0, keepdim=True) + eps).rsqrt()
    normalised = (x - mean) * invstd
    product = dz * normalised
    dw = product.sum(dims) if wanted[1] else None
    dx = None
    if wanted[0]:
        scale = invstd if weight is None else invstd * weight.to(wide).view(channels)
        centred = dz
        if training:
            centred = dz - dz.mean(dims, keepdim=True) - normalised * product.mean(dims, keepdim=True)
        dx = scale * centred
    return dx, dw, db, dz
