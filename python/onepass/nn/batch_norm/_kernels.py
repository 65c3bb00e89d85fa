"""Calls of the batch norm kernels on plain dense tensors: what they write into is allocated here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from onepass import _native
from onepass._versions import bump_versions
from onepass.nn._call.buffers import new_workspace, statistics_dtype
from onepass.nn._call.seeds import Seed

__all__ = [
    "Options",
    "Running",
    "Saved",
    "backward",
    "checked_options",
    "count_writes",
    "forward",
    "inference",
    "invstd_of",
    "new_gradients",
    "new_mask",
    "new_statistic",
    "options_of",
]


class Options(NamedTuple):
    """What a call does, tensors aside."""

    training: bool
    """Whether the statistics are the batch's."""
    momentum: float | None
    """How far the running statistics move towards the batch's; None: by 1 / `Running.batches`."""
    eps: float
    """Added to the variance."""
    activation: str | None
    """None or ``"relu"``."""
    dropout: float
    """Probability of an element to become 0; 0 in evaluation."""


def checked_options(
    training: bool, momentum: float | None, eps: float, activation: str | None, dropout: float
) -> Options:
    """Makes the options of a call; raises ValueError if momentum is not finite: statistics would become nan."""
    if isinstance(momentum, Real) and not -math.inf < momentum < math.inf:
        raise ValueError(f"batch_norm: momentum must be finite, got {momentum}")
    return Options(training, momentum, eps, activation, dropout)


# The same object for the same options: a call on a small tensor would notice that one is made.
options_of = lru_cache(maxsize=256)(checked_options)


class Running(NamedTuple):
    """Running statistics: both given, or none."""

    mean: Tensor | None
    var: Tensor | None
    batches: Tensor | None
    """How many batches they stand for, this one included: an int64 tensor of one element; None with momentum."""


class Saved(NamedTuple):
    """What backward needs besides input, weight and bias."""

    mean: Tensor
    """Of shape (C)."""
    spread: Tensor
    """Of shape (C): 1 / standard deviation in training, else the variance (`invstd_of`)."""
    mask: Tensor | None
    """The bits of ReLU behind a residual, which cannot be computed again; else None."""
    seed: Tensor | None
    """The seed of dropout."""


def new_statistic(input: Tensor) -> Tensor:
    """Allocates memory for one number each channel, as mean and spread are."""
    return torch.empty(input.shape[1], dtype=statistics_dtype(input), device=input.device)


def new_mask(input: Tensor, activation: str | None) -> Tensor | None:
    """Allocates memory for the bits of ReLU behind a residual, without which they are computed again."""
    if activation is None:
        return None
    return torch.empty((input.numel() + 7) // 8, dtype=torch.uint8, device=input.device)


def forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running,
    seed: Seed,
    options: Options,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Runs the kernel on plain dense tensors; training changes the running statistics in place.

    Returns:
        Output, and the fields of `Saved`: a call on a small tensor would notice that one is made.
    """
    if not options.training:
        output, mask, drawn = inference(input, weight, bias, residual, running, seed, options)
        # Copies: a training step before the backward pass must not move what this output was computed with.
        # `to` with copy=True takes twice as long as `clone`.
        mean, var, wide = running.mean, running.var, statistics_dtype(input)
        assert mean is not None
        assert var is not None
        mean = mean.clone() if mean.dtype == wide else mean.to(wide)
        var = var.clone() if var.dtype == wide else var.to(wide)
        return output, mean, var, mask, drawn
    core = _native.core
    output = torch.empty_like(input)
    mask = None if residual is None else new_mask(input, options.activation)
    mean = new_statistic(input)
    invstd = torch.empty_like(mean)
    drawn = core.batch_norm_forward(
        x=input,
        threads=torch.get_num_threads(),
        y=output,
        residual=residual,
        weight=weight,
        bias=bias,
        running_mean=running.mean,
        running_var=running.var,
        mean=mean,
        invstd=invstd,
        momentum=options.momentum,
        batches=running.batches,
        eps=options.eps,
        activation=options.activation,
        dropout=options.dropout,
        mask=mask,
        workspace=None if input.is_cpu else new_workspace(input, core.batch_norm_workspace(x=input)),
        seed=seed,
    )
    if running.mean is not None and running.var is not None:
        count_writes(running.mean, running.var)
    return output, mean, invstd, mask, drawn


def inference(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running,
    seed: Seed,
    options: Options,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Runs the kernel with the running statistics.

    Returns:
        Output, and mask and seed as in `Saved`.
    """
    output = torch.empty_like(input)
    mask = None if residual is None else new_mask(input, options.activation)
    drawn = _native.core.batch_norm_inference(
        x=input,
        threads=torch.get_num_threads(),
        y=output,
        residual=residual,
        weight=weight,
        bias=bias,
        running_mean=running.mean,
        running_var=running.var,
        eps=options.eps,
        activation=options.activation,
        dropout=options.dropout,
        mask=mask,
        seed=seed,
    )
    return output, mask, drawn


def count_writes(mean: Tensor, var: Tensor) -> None:
    """Counts the running statistics' versions up."""
    written = [mean, var]
    if mean.is_inference() or var.is_inference():
        # Those have no counter, and older torch raises.
        written = [one for one in written if not one.is_inference()]
    bump_versions(written)


def new_gradients(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, wanted: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Allocates memory for the gradients of input, weight, bias and residual that are wanted."""
    return (
        torch.empty_like(input) if wanted[0] else None,
        torch.empty_like(weight) if wanted[1] and weight is not None else None,
        torch.empty_like(bias) if wanted[2] and bias is not None else None,
        torch.empty_like(input) if wanted[3] else None,
    )


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Saved,
    options: Options,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """Runs the kernel on plain tensors: the gradients of input, weight, bias and residual that are wanted."""
    core = _native.core
    dx, dweight, dbias, dresidual = new_gradients(input, weight, bias, wanted)
    core.batch_norm_backward(
        x=input,
        threads=torch.get_num_threads(),
        dy=grad,
        dx=dx,
        dresidual=dresidual,
        weight=weight,
        bias=bias,
        dweight=dweight,
        dbias=dbias,
        mean=saved.mean,
        invstd=saved.spread if options.training else invstd_of(saved.spread, options.eps),
        training=options.training,
        activation=options.activation,
        dropout=options.dropout,
        mask=saved.mask,
        workspace=None if input.is_cpu else new_workspace(input, core.batch_norm_workspace(x=input)),
        seed=0 if saved.seed is None else saved.seed,
    )
    return dx, dweight, dbias, dresidual


def invstd_of(var: Tensor, eps: float) -> Tensor:
    """1 / standard deviation, as the kernel computes it, operation by operation: ReLU's sign depends on it."""
    return (var.double() + eps).sqrt().reciprocal().to(var.dtype)
