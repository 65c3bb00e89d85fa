"""Calls of the batch norm kernels on plain dense tensors: what they write into is allocated here."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from onepass import _native
from onepass._versions import bump_versions
from onepass.nn._call.buffers import statistics_dtype, workspace
from onepass.nn._call.seeds import Seed

__all__ = ["backward", "forward", "invstd_of", "new_gradients", "new_mask", "new_statistic"]


def new_statistic(input: Tensor) -> Tensor:
    """Memory for one number each channel, as mean and spread are."""
    return torch.empty(input.shape[1], dtype=statistics_dtype(input), device=input.device)


def new_mask(input: Tensor, activation: str | None) -> Tensor | None:
    """Memory for the bits of ReLU behind a residual, without which they are computed again."""
    if activation is None:
        return None
    return torch.empty((input.numel() + 7) // 8, dtype=torch.uint8, device=input.device)


def forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    seed: Seed | None,
    training: bool,
    momentum: float | None,
    eps: float,
    activation: str | None,
    dropout: float,
    for_backward: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Runs the kernel on plain dense tensors; the running statistics are changed in place.

    Returns:
        Output; mean and spread of shape (C) for the backward pass, where the spread is 1 / standard deviation in
        training and the variance else (`invstd_of`); the bits of ReLU if they cannot be computed again, else None;
        the seed.
    """
    core, threads = _native.core, torch.get_num_threads()
    output = torch.empty_like(input)
    mask = None if residual is None else new_mask(input, activation)
    if training:
        mean = new_statistic(input)
        invstd = torch.empty_like(mean)
        # By position, in the order of the stub: names cost 1.7 us.
        drawn = core.batch_norm_forward(
            input,
            output,
            weight,
            bias,
            residual,
            mean,
            invstd,
            running_mean,
            running_var,
            momentum,
            batches,
            eps,
            activation,
            dropout,
            0 if seed is None else seed,
            mask,
            workspace(input, lambda: core.batch_norm_workspace(input)),
            threads,
        )
        if running_mean is not None and running_var is not None:
            written = [running_mean, running_var]
            if running_mean.is_inference() or running_var.is_inference():
                written = [
                    one for one in written if not one.is_inference()
                ]  # those have no counter, and older torch raises
            bump_versions(written)
        return output, mean, invstd, mask, drawn
    drawn = core.batch_norm_inference(
        input,
        output,
        weight,
        bias,
        residual,
        running_mean,
        running_var,
        eps,
        activation,
        dropout,
        0 if seed is None else seed,
        mask,
        threads,
    )
    mean = cast(Tensor, running_mean)
    if not for_backward:
        return output, mean, mean, mask, drawn
    # Copies: a training step before the backward pass must not move what this output was computed with.
    wide = statistics_dtype(input)
    return output, _copy(mean, wide), _copy(cast(Tensor, running_var), wide), mask, drawn


def _copy(buffer: Tensor, dtype: torch.dtype) -> Tensor:
    # `to` with copy=True takes twice as long as `clone`.
    return buffer.clone() if buffer.dtype == dtype else buffer.to(dtype)


def new_gradients(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, wanted: list[bool]
) -> tuple[Tensor | None, ...]:
    """Memory for the gradients of input, weight, bias and residual that are wanted."""
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
    mean: Tensor,
    spread: Tensor,
    mask: Tensor | None,
    seed: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    dropout: float,
    wanted: list[bool],
) -> tuple[Tensor | None, ...]:
    """Runs the kernel on plain tensors: the gradients of input, weight, bias and residual that are wanted."""
    core, threads = _native.core, torch.get_num_threads()
    dx, dweight, dbias, dresidual = new_gradients(input, weight, bias, wanted)
    core.batch_norm_backward(
        grad,
        input,
        dx,
        dweight,
        dbias,
        dresidual,
        weight,
        bias,
        mean,
        spread if training else invstd_of(spread, eps),
        activation,
        dropout,
        0 if seed is None else seed,
        mask,
        training,
        workspace(input, lambda: core.batch_norm_workspace(input)),
        threads,
    )
    return dx, dweight, dbias, dresidual


def invstd_of(var: Tensor, eps: float) -> Tensor:
    """1 / standard deviation, as the kernel computes it, operation by operation: ReLU's sign depends on it."""
    return (var.double() + eps).sqrt().reciprocal().to(var.dtype)
