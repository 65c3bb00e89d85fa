"""The derivative of batch normalisation, for eager calls and for the operator alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from onepass.nn._call.dispatch import is_batched, is_plain, with_memory
from onepass.nn._call.layout import in_layout_of
from onepass.nn._call.seeds import Seed
from onepass.nn.batch_norm import _composed, _kernels
from onepass.nn.batch_norm._kernels import Options, Running, Saved

__all__ = ["apply", "differentiate", "gradients", "remember"]

_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class BatchNormFunction(torch.autograd.Function):
    """Eager calls on plain tensors: `_kernels.forward` and its derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        running: Running,
        seed: Seed,
        options: Options,
    ) -> Tensor:
        """Runs the kernel."""
        output, *saved = _kernels.forward(input, weight, bias, residual, running, seed, options)
        remember(ctx, input, weight, bias, saved, options)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        """Returns the gradients of all arguments."""
        return (*differentiate(ctx, grad), None, None, None)


# Function.apply looks through all arguments for tensors that were left over from a transform of torch.func:
# 2 us a call, a tenth of the module. The core refuses to read such a tensor.
apply: Callable[..., Tensor] = super(torch.autograd.Function, BatchNormFunction).apply


def remember(
    ctx: Any,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Sequence[Tensor | None],
    options: Options,
) -> None:
    """Keeps what `differentiate` needs; only the input itself has the input's size.

    Args:
        ctx: Keeps it.
        input: x.
        weight: Its factor, or None.
        bias: What is added, or None.
        saved: The fields of `Saved`.
        options: Those of the call.
    """
    ctx.save_for_backward(input, weight, bias, *saved)
    ctx.options = options
    ctx.set_materialize_grads(False)


def differentiate(ctx: Any, grad: Tensor | None) -> _Gradients:
    """Returns the gradients of input, weight, bias and residual, those that are wanted."""
    if grad is None:
        return None, None, None, None
    grad = with_memory(grad)
    input, weight, bias, *rest = ctx.saved_tensors
    saved, options = Saved(*rest), ctx.options
    wanted = list(ctx.needs_input_grad[:4])
    if torch.is_grad_enabled() or is_batched(grad):
        return _differentiably(grad, input, weight, bias, saved, options, wanted)
    return gradients(
        grad, input, options, wanted, lambda one: _backward(one, input, weight, bias, saved, options, wanted)
    )


def gradients(
    grad: Tensor,
    input: Tensor,
    options: Options,
    wanted: list[bool],
    run: Callable[[Tensor], Sequence[Tensor | None]],
) -> _Gradients:
    """Returns the gradients of input, weight, bias and residual, those that are wanted.

    Args:
        grad: That of the output.
        input: x.
        options: Those of the call.
        wanted: Which gradients are; changed where the residual's is the output's itself.
        run: Computes those that are wanted from `grad` in the layout of `input`.
    """
    dresidual = None
    if wanted[3] and options.activation is None and not options.dropout:
        dresidual, wanted[3] = grad, False
    if not any(wanted):
        return None, None, None, dresidual
    dx, dweight, dbias, own = run(in_layout_of(grad, input, "batch_norm: grad"))
    return dx, dweight, dbias, dresidual if own is None else own


def _backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Saved,
    options: Options,
    wanted: list[bool],
) -> tuple[Tensor | None, ...]:
    if is_plain(grad, input, weight, bias):
        return _kernels.backward(grad, input, weight, bias, saved, options, wanted)
    found = iter(
        torch.ops.onepass.batch_norm_backward(
            grad,
            input,
            weight,
            bias,
            *saved,
            training=options.training,
            eps=options.eps,
            activation=options.activation,
            dropout=options.dropout,
            wanted=wanted,
        )
    )
    return tuple(next(found) if one else None for one in wanted)


def _differentiably(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Saved,
    options: Options,
    wanted: list[bool],
) -> _Gradients:
    """Does the same under ``create_graph=True``, with operations that autograd can differentiate."""
    mean, wide = saved.mean, saved.mean.dtype
    training, eps, activation, dropout = options.training, options.eps, options.activation, options.dropout
    with torch.no_grad():
        invstd = saved.spread if training else _kernels.invstd_of(saved.spread, eps)
        gate = torch.ones((), dtype=wide, device=mean.device)
        if activation is not None and saved.mask is None:
            gate = _composed.passes_relu(input, weight, bias, mean, invstd).to(wide)
            options = options._replace(activation=None)
        if options.activation is not None or dropout:
            # What a gradient of ones becomes before the addition of the residual.
            ones, residual_alone = torch.ones_like(input), [False, False, False, True]
            passed = _backward(ones, input, weight, bias, saved, options, residual_alone)[3]
            scale = 0.0 if dropout == 1 else 1 / (1 - dropout)
            gate = gate * cast(Tensor, passed).ne(0).to(wide) * scale
    dx, dweight, dbias, dz = _composed.gradients(
        grad, input, weight, mean, invstd, gate, training, eps, (wanted[0], wanted[1], wanted[2])
    )
    return (
        None if dx is None else dx.to(input.dtype),
        None if dweight is None or weight is None else dweight.to(weight.dtype),
        None if dbias is None or bias is None else dbias.to(bias.dtype),
        dz.to(input.dtype) if wanted[3] else None,
    )
