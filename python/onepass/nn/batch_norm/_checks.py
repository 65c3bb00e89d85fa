"""What batch normalisation refuses before it computes anything: torch's rules, and what is no tensor's."""

from __future__ import annotations

import torch
from torch import Tensor

from onepass._arguments import told
from onepass.nn._call.checks import (
    OPTIONAL,
    check_dense,
    check_number,
    check_optional,
    check_probability,
    check_tensor,
)

__all__ = ["check", "check_channels", "check_vectors"]


def check(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    dropout: float,
    alone: bool = True,
) -> int:
    """Raises for what the core does not check; returns the input's number of elements.

    `alone`: no other ranks have further values of the channels.
    """
    # Types first, here and below: a call on a small tensor would notice each further function.
    if type(weight) not in OPTIONAL or type(bias) not in OPTIONAL or type(residual) not in OPTIONAL:
        check_optional("batch_norm", weight=weight, bias=bias, residual=residual)
    if type(input) is not Tensor:
        check_tensor("batch_norm", "input", input)
    if input.is_nested:
        check_dense("batch_norm", input=input)
    size, shape = input.numel(), input.shape
    if len(shape) < 2 and size:
        raise ValueError(f"batch_norm: input must have at least 2 dimensions, got {len(shape)}")
    if type(eps) is not float:
        check_number("batch_norm", "eps", eps)
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm: running_mean and running_var must both be given or both be None, got one")
    if type(running_mean) not in OPTIONAL or type(running_var) not in OPTIONAL:
        check_optional("batch_norm", running_mean=running_mean, running_var=running_var)
    # Without a loop, which a call on a small tensor would notice.
    if (
        running_mean is not None
        and running_var is not None
        and (running_mean.requires_grad or running_var.requires_grad)
        and torch.is_grad_enabled()
    ):
        raise ValueError("batch_norm: running_mean and running_var must not require a gradient, got one that does")
    if training:
        if not eps > 0:
            raise ValueError(f"batch_norm: eps must be positive in training, got {eps}")
        if alone and len(shape) > 1 and size == shape[1] and shape[1]:
            raise ValueError(
                f"batch_norm: input must have more than 1 value per channel in training, got shape {tuple(shape)}"
            )
    else:
        if not eps >= 0:
            raise ValueError(f"batch_norm: eps must be at least 0, got {eps}")
        if running_mean is None:
            raise ValueError("batch_norm: running_mean and running_var must be given when not training, got None")
    if activation is not None and activation != "relu":
        raise ValueError(f"batch_norm: activation must be None or 'relu', got {told(activation)}")
    if type(dropout) is not float or not 0 <= dropout <= 1:
        check_probability("batch_norm", "dropout", dropout)
    if size == 0:
        check_channels(input, running_mean, running_var, weight, bias)
    return size


def check_channels(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
) -> None:
    """Raises ValueError if all that has an entry for each channel agrees on another number than the input's.

    The core compares one after the other, and cannot say that it is the input which differs.
    """
    given = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    found = {name: tuple(vector.shape) for name, vector in given.items() if vector is not None}
    if input.dim() < 2 or len(set(found.values())) != 1:
        return
    (shape,), channels = set(found.values()), input.shape[1]
    if len(shape) == 1 and shape[0] != channels:
        raise ValueError(
            f"batch_norm: {next(iter(found))} must have {channels} elements, got {shape[0]}: input has {channels} "
            f"channels in shape {tuple(input.shape)}, {', '.join(found)} {shape[0]}"
        )


def check_vectors(input: Tensor, residual: Tensor | None, **vectors: Tensor | None) -> None:
    """Raises for what the core would refuse, where it must be known before the core is called.

    Args:
        input: Of shape (N, C, ...).
        residual: Must have its shape and dtype.
        vectors: Must be of shape (C) and of one dtype that goes with the input's.
    """
    if input.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise TypeError(
            "batch_norm: input must be torch.float32, torch.float64, torch.bfloat16 or torch.float16, got "
            f"{input.dtype}"
        )
    if residual is not None and (residual.dtype, residual.shape) != (input.dtype, input.shape):
        raise ValueError(
            f"batch_norm: residual must have input's dtype and shape {input.dtype} {list(input.shape)}, got "
            f"{residual.dtype} {list(residual.shape)}"
        )
    given = {name: vector for name, vector in vectors.items() if vector is not None}
    wanted = next((vector.dtype for vector in given.values()), input.dtype)
    if wanted != input.dtype and not (input.dtype.itemsize == 2 and wanted == torch.float32):
        raise TypeError(
            f"batch_norm: {next(iter(given))} must be {input.dtype}{' or torch.float32' * (input.itemsize == 2)}, "
            f"got {wanted}"
        )
    for name, vector in given.items():
        if vector.dtype != wanted:
            raise TypeError(f"batch_norm: {name} must be {wanted} like {next(iter(given))}, got {vector.dtype}")
        if vector.shape != (input.shape[1],):
            raise ValueError(
                f"batch_norm: {name} must have {input.shape[1]} elements, got shape {tuple(vector.shape)}"
            )
        if vector.device != input.device:
            raise ValueError(f"batch_norm: {name} must be on {input.device} like input, got {vector.device}")
