"""The derivative of batch normalisation, for eager calls and for the operator alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from onepass.nn._call.dispatch import is_batched, is_plain, with_memory
from onepass.nn._call.layout import in_layout_of
from onepass.nn.batch_norm import _composed, _kernels

__all__ = ["apply", "differentiate", "remember"]

_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class BatchNormFunction(torch.autograd.Function):
    """Eager calls on plain tensors: `_kernels.forward`, its arguments behind the first four a tuple."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        rest: tuple[Any, ...],
    ) -> Tensor:
        """Runs the kernel."""
        output, mean, spread, mask, seed = _kernels.forward(input, weight, bias, residual, *rest)
        remember(ctx, (input, weight, bias), rest, mean, spread, mask, seed)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        """Gradients of all arguments."""
        return (*differentiate(ctx, grad), None)


# Function.apply looks through all arguments for tensors that were left over from a transform of torch.func:
# 2 us a call, a tenth of the module. The core refuses to read such a tensor.
apply: Callable[..., Tensor] = super(torch.autograd.Function, BatchNormFunction).apply


def remember(
    ctx: Any,
    vectors: tuple[Tensor, Tensor | None, Tensor | None],
    rest: tuple[Any, ...],
    mean: Tensor,
    spread: Tensor,
    mask: Tensor | None,
    seed: Tensor | None,
) -> None:
    """Keeps what `differentiate` needs: of the input's size, the input alone.

    Args:
        ctx: Keeps it.
        vectors: Input, weight and bias.
        rest: running_mean, running_var, batches, seed, training, momentum, eps, activation, dropout.
        mean: As `_kernels.forward` gives it.
        spread: As `_kernels.forward` gives it.
        mask: The bits of ReLU, or None.
        seed: Of dropout, or None.
    """
    _, _, _, _, training, _, eps, activation, dropout = rest
    ctx.save_for_backward(*vectors, mean, spread, mask, seed)
    ctx.options = training, eps, activation, dropout
    ctx.set_materialize_grads(False)


def differentiate(ctx: Any, grad: Tensor | None) -> _Gradients:
    """Gradients of input, weight, bias and residual, those that are wanted."""
    if grad is None:
        return None, None, None, None
    grad = with_memory(grad)
    input, weight, bias, mean, spread, mask, seed = ctx.saved_tensors
    training, eps, activation, dropout = ctx.options
    wanted = list(ctx.needs_input_grad[:4])
    saved = (input, weight, bias, mean, spread, mask, seed, training, eps, activation, dropout)
    if torch.is_grad_enabled() or is_batched(grad):
        return _differentiably(grad, saved, wanted)
    dresidual = None
    if wanted[3] and activation is None and not dropout:
        dresidual, wanted[3] = grad, False
    if not any(wanted):
        return None, None, None, dresidual
    dx, dweight, dbias, own = _backward(in_layout_of(grad, input), *saved, wanted)
    return dx, dweight, dbias, dresidual if own is None else own


def _backward(grad: Tensor, input: Tensor, weight: Tensor | None, *rest: Any) -> tuple[Tensor | None, ...]:
    if is_plain(grad, weight) and is_plain(input, rest[0]):
        return _kernels.backward(grad, input, weight, *rest)
    found = iter(torch.ops.onepass.batch_norm_backward(grad, input, weight, *rest))
    return tuple(next(found) if one else None for one in rest[-1])


def _differentiably(grad: Tensor, saved: tuple[Any, ...], wanted: list[bool]) -> _Gradients:
    """The same under ``create_graph=True``, of operations that autograd can differentiate."""
    input, weight, bias, mean, spread, mask, seed, training, eps, activation, dropout = saved
    with torch.no_grad():
        invstd = spread if training else _kernels.invstd_of(spread, eps)
        gate = torch.ones((), dtype=mean.dtype, device=mean.device)
        if activation is not None and mask is None:
            gate = _composed.passes_relu(input, weight, bias, mean, invstd).to(mean.dtype)
            activation = None
        if activation is not None or dropout:
            # What a gradient of ones becomes before the addition of the residual.
            rest = (mean, spread, mask, seed, training, eps, activation, dropout)
            wanted_here = [False, False, False, True]
            passed = _backward(torch.ones_like(input), input, weight, bias, *rest, wanted_here)[3]
            scale = 0.0 if dropout == 1 else 1 / (1 - dropout)
            gate = gate * cast(Tensor, passed).ne(0).to(mean.dtype) * scale
    dx, dweight, dbias, dz = _composed.gradients(
        grad, input, weight, mean, invstd, gate, training, eps, (wanted[0], wanted[1], wanted[2])
    )
    return (
        None if dx is None else dx.to(input.dtype),
        None if dweight is None else dweight.to(weight.dtype),
        None if dbias is None else dbias.to(bias.dtype),
        dz.to(input.dtype) if wanted[3] else None,
    )
