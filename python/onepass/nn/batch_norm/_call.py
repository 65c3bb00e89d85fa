"""Batch normalisation: which way a call goes, and what it brings along.

Eager calls run the core from a torch.autograd.Function. Everything else (torch.compile, fake tensors, tensor
subclasses, dispatch modes) takes the operators of _ops.py, which do the same with the same functions: the
dispatcher's way through Python costs 43 us a call where torch's whole module takes 22 (docs/batch_norm.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from onepass._memory import LARGE, check_large
from onepass.nn._call import exporting, seeds
from onepass.nn._call.checks import check_dense
from onepass.nn._call.dispatch import is_plain, is_transformed
from onepass.nn._call.layout import dense, in_layout_of
from onepass.nn.batch_norm import _composed, _exported, _kernels, _ops
from onepass.nn.batch_norm._checks import check, check_channels
from onepass.nn.batch_norm._derivative import apply
from onepass.nn.batch_norm._kernels import Options, Running, checked_options, options_of

__all__ = ["normalise"]


def normalise(
    input: Tensor,
    running: Running,
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
    """Checks the arguments and returns the output; training changes the running statistics in place.

    Momentum may be None where `running` has a count of batches.
    """
    mean, var = running.mean, running.var
    if not (size := check(input, mean, var, weight, bias, residual, training, eps, activation, dropout)):
        return _composed.empty(input, weight, bias, residual, activation)
    compiling = torch.compiler.is_compiling()
    # torch.compile does not know caches.
    options = (checked_options if compiling else options_of)(training, momentum, eps, activation, dropout)
    if not compiling and is_transformed():
        return _transformed(input, weight, bias, residual, running, options)
    try:
        input = dense(input, "batch_norm: input")
        if residual is not None:
            residual = in_layout_of(residual, input, "batch_norm: residual")
    except RuntimeError:  # asked only now: a call on a small tensor would notice
        check_dense("batch_norm", input=input, residual=residual)
        raise
    # Without a loop, which a call on a small tensor would notice.
    if (
        compiling
        or not is_plain(input, weight, bias)
        or (residual is not None and residual.is_neg())
        or (mean is not None and mean.is_neg())
        or (var is not None and var.is_neg())
    ):
        return _by_operators(input, weight, bias, residual, running, options, generator, seed)
    if size >= LARGE:
        check_large("batch_norm", input=input, residual=residual)
    source = _source(input, generator, seed) if dropout else 0
    try:
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
            return apply(input, weight, bias, residual, running, source, options)
        run = _kernels.forward if training else _kernels.inference
        return run(input, weight, bias, residual, running, source, options)[0]
    except ValueError:
        check_channels(input, mean, var, weight, bias)
        raise


def _transformed(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running,
    options: Options,
) -> Tensor:
    if options.dropout:
        raise RuntimeError(f"batch_norm: dropout must be 0 under torch.func, got {options.dropout}")
    return _composed.forward(input, weight, bias, residual, running, options)


def _by_operators(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running,
    options: Options,
    generator: torch.Generator | None,
    seed: int | Tensor | None,
) -> Tensor:
    """Makes the call by our operators, or by torch's in a graph that is exported."""
    dropout = options.dropout
    if exporting.is_asked():
        if dropout:
            exporting.refuse_seed("batch_norm", generator, seed)
        return _exported.batch_norm(
            input,
            running.mean,
            running.var,
            weight,
            bias,
            residual,
            batch_statistics=options.training,
            momentum=_composed.momentum_of(running, options),
            eps=options.eps,
            activation=options.activation,
            dropout=dropout,
            training=bool(dropout),
        )
    drawn = seeds.seed_for("batch_norm", input, generator, seed) if dropout else None
    check_dense("batch_norm", weight=weight, bias=bias)
    return _ops.batch_norm(input, weight, bias, residual, running, drawn, options)


def _source(input: Tensor, generator: torch.Generator | None, seed: int | Tensor | None) -> seeds.Seed:
    if seed is None:
        return seeds.later("batch_norm", input, generator)
    return seeds.seed_for("batch_norm", input, generator, seed)


def _refuse_saved(**tensors: Tensor | None) -> None:
    """Raises what autograd would say, everything done, of the inference tensor that it is to keep."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.is_inference():
            raise RuntimeError(
                f"batch_norm: {name} must not be an inference tensor where a gradient is wanted, got one"
            )
