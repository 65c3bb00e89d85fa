"""Batch normalisation on the kernels: layouts, allocation, derivative.

Eager calls run the core from a torch.autograd.Function. Everything else (torch.compile, fake tensors, tensor
subclasses, dispatch modes) takes the operators of _ops.py, which do the same with the same functions:
the dispatcher's way through Python costs 43 us a call where torch's whole module takes 22 (docs/batch_norm.md).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from onepass.nn._call import exporting, seeds
from onepass.nn._call.checks import (
    OPTIONAL,
    check_dense,
    check_number,
    check_optional,
    check_probability,
    check_tensor,
)
from onepass.nn._call.dispatch import is_negative, is_plain, is_transformed
from onepass.nn._call.layout import dense, in_layout_of
from onepass.nn.batch_norm import _composed, _exported, _kernels, _ops
from onepass.nn.batch_norm._derivative import apply

__all__ = ["batch_norm"]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    activation: str | None,
    dropout: float,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
) -> Tensor:
    """What the function and the modules have in common: `functional.batch_norm`, where momentum may be None.

    The running statistics are then the mean over all batches: batches is their count with this one, an int64
    tensor of one element on the input's device.
    """
    # The types first: a call on a small tensor would notice the loop.
    if type(weight) not in OPTIONAL or type(bias) not in OPTIONAL or type(residual) not in OPTIONAL:
        check_optional("batch_norm", weight=weight, bias=bias, residual=residual)
    _check(input, running_mean, running_var, training, eps, activation, dropout)
    if input.numel() == 0:
        return _composed.empty(input, weight, bias, residual, activation)
    compiling = torch.compiler.is_compiling()
    if not compiling and is_transformed():
        if dropout:
            raise RuntimeError(f"batch_norm: dropout must be 0 under torch.func, got {dropout}")
        factor = 1 / float(cast(Tensor, batches)) if momentum is None else momentum
        return _composed.forward(
            input, running_mean, running_var, weight, bias, residual, training, factor, eps, activation
        )
    try:
        input = dense(input)
        if residual is not None:
            residual = in_layout_of(residual, input)
    except RuntimeError:
        # Asked only now: a call on a small tensor would notice.
        check_dense("batch_norm", input=input, residual=residual)
        raise
    operator = compiling or not is_plain(input, weight, bias) or is_negative(residual, running_mean, running_var)
    if operator and exporting.is_asked():
        if dropout:
            exporting.refuse_seed("batch_norm", generator, seed)
        factor = 1 / float(cast(Tensor, batches)) if momentum is None else momentum
        how = (training, factor, eps, activation, dropout, bool(dropout))
        return _exported.batch_norm(input, running_mean, running_var, weight, bias, residual, *how)
    drawn: seeds.Seed | None = None
    if dropout and seed is None and not operator:
        drawn = seeds.later("batch_norm", input, generator)
    elif dropout:
        drawn = seeds.seed_for("batch_norm", input, generator, seed)
    rest = (running_mean, running_var, batches, drawn, training, momentum, eps, activation, dropout)
    if operator:
        check_dense("batch_norm", weight=weight, bias=bias)
        return _ops.batch_norm(input, weight, bias, residual, *rest)
    if torch.is_grad_enabled() and (
        input.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    ):
        if (
            input.is_inference()
            or (weight is not None and weight.is_inference())
            or (bias is not None and bias.is_inference())
        ):
            _refuse_saved(input=input, weight=weight, bias=bias)
        return apply(input, weight, bias, residual, rest)
    return _kernels.forward(input, weight, bias, residual, *rest, for_backward=False)[0]


def _refuse_saved(**tensors: Tensor | None) -> None:
    """Raises what autograd would say, everything done, of the inference tensor that it is to keep."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.is_inference():
            raise RuntimeError(
                f"batch_norm: {name} must not be an inference tensor where a gradient is wanted, got one"
            )


def _check(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    dropout: float,
) -> None:
    """Raises for what the core does not check: it is torch's rules, or of no tensor."""
    check_tensor("batch_norm", "input", input)
    if input.is_nested:
        check_dense("batch_norm", input=input)
    if input.dim() < 2 and input.numel():
        raise ValueError(f"batch_norm: input must have at least 2 dimensions, got {input.dim()}")
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
        shape = input.shape
        if len(shape) > 1 and input.numel() == shape[1] and shape[1]:
            raise ValueError(
                f"batch_norm: input must have more than 1 value per channel in training, got shape {tuple(shape)}"
            )
    else:
        if not eps >= 0:
            raise ValueError(f"batch_norm: eps must be at least 0, got {eps}")
        if running_mean is None:
            raise ValueError("batch_norm: running_mean and running_var must be given when not training, got None")
    if activation is not None and activation != "relu":
        raise ValueError(f"batch_norm: activation must be None or 'relu', got {activation!r}")
    check_probability("batch_norm", "dropout", dropout)
