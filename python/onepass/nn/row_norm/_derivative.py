"""The derivative of layer and RMS normalisation, for eager calls and for the operator alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from onepass._memory import check_memory
from onepass.nn._call.dispatch import is_batched, is_plain, with_memory
from onepass.nn._call.seeds import Seed
from onepass.nn.row_norm import _composed, _kernels
from onepass.nn.row_norm._kernels import Options, Saved

__all__ = ["apply", "differentiate", "remember"]

_Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


class RowNormFunction(torch.autograd.Function):
    """Eager calls on plain tensors: `_kernels.forward` and its derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        seed: Seed,
        options: Options,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Runs the kernel."""
        found = _kernels.forward(input, weight, bias, residual, seed, options)
        total = found[1]
        remember(ctx, input if total is None else total, weight, bias, found[2:], options)
        return _kernels.outputs(found)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_of_sum: Tensor | None = None) -> Any:
        """Returns the gradients of all arguments."""
        return (*differentiate(ctx, grad, grad_of_sum), None, None)


# Function.apply looks through all arguments for tensors that were left over from a transform of torch.func:
# 2 us a call. The core refuses to read such a tensor.
apply: Callable[..., Any] = super(torch.autograd.Function, RowNormFunction).apply


def remember(
    ctx: Any,
    normalised: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Sequence[Tensor | None],
    options: Options,
) -> None:
    """Keeps what `differentiate` needs; only what was normalised has the input's size.

    Args:
        ctx: Keeps it.
        normalised: The input, or its sum with the residual.
        weight: Its factor, or None.
        bias: What is added, or None.
        saved: The fields of `Saved` behind the first one.
        options: Those of the call.
    """
    ctx.save_for_backward(normalised, weight, bias, *saved)
    ctx.options = options
    ctx.set_materialize_grads(False)


def differentiate(ctx: Any, grad: Tensor | None, grad_of_sum: Tensor | None) -> _Gradients:
    """Returns the gradients of input, weight, bias and residual, those that are wanted.

    Args:
        ctx: What `remember` was given.
        grad: That of the output.
        grad_of_sum: That of the sum with the residual, which is an output, too.
    """
    if grad is None and grad_of_sum is None:
        return None, None, None, None
    normalised, weight, bias, *rest = ctx.saved_tensors
    saved, options = Saved(normalised, *rest), ctx.options
    wanted = ctx.needs_input_grad[:4]
    grad_of_sum = None if grad_of_sum is None else with_memory(grad_of_sum)
    if grad is None:
        assert grad_of_sum is not None
        return _through_sum(grad_of_sum, saved, options, wanted)
    grad = with_memory(grad)
    if torch.is_grad_enabled() or is_batched(grad) or (grad_of_sum is not None and is_batched(grad_of_sum)):
        return _differentiably(grad, grad_of_sum, weight, bias, saved, options, wanted)
    grad = _contiguous(options, grad)
    grad_of_sum = None if grad_of_sum is None else _contiguous(options, grad_of_sum)
    dx, dweight, dbias, dresidual = _backward(grad, grad_of_sum, weight, bias, saved, options, wanted)
    if wanted[3] and not options.dropout:
        dresidual = dx
    return dx if wanted[0] else None, dweight, dbias, dresidual


def _contiguous(options: Options, grad: Tensor) -> Tensor:
    if grad.is_contiguous():
        return grad
    check_memory(f"{options.function}: grad", grad)
    return grad.contiguous()


def _through_sum(grad: Tensor, saved: Saved, options: Options, wanted: Sequence[bool]) -> _Gradients:
    """Returns the gradients where only the sum with the residual was used."""
    dx = None
    if wanted[0]:
        dx = grad if saved.seed is None else _composed.dropped(grad, saved.seed, options.dropout)
    return dx, None, None, grad if wanted[3] else None


def _backward(
    grad: Tensor,
    grad_of_sum: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Saved,
    options: Options,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    if is_plain(grad, saved.normalised, weight, bias) and is_plain(grad, grad_of_sum):
        return _kernels.backward(grad, grad_of_sum, weight, bias, saved, options, wanted)
    made = torch.ops.onepass.row_norm_backward(grad, grad_of_sum, weight, bias, *saved, *options, list(wanted))
    found = iter(made)
    own = bool(wanted[3] and options.dropout)
    needed = (wanted[0] or (wanted[3] and not own), wanted[1], wanted[2], own)
    return tuple(next(found) if one else None for one in needed)


def _differentiably(
    grad: Tensor,
    grad_of_sum: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    saved: Saved,
    options: Options,
    wanted: Sequence[bool],
) -> _Gradients:
    """Does the same under ``create_graph=True``, with operations that autograd can differentiate."""
    rows = (wanted[0] or wanted[3], wanted[1] and weight is not None, wanted[2] and bias is not None)
    dh, dweight, dbias = _composed.gradients(grad, saved.normalised, weight, options, rows)
    dx = dresidual = None
    if dh is not None:
        if grad_of_sum is not None:
            dh = dh + grad_of_sum.to(dh.dtype)
        dx = dresidual = dh.to(saved.normalised.dtype)
        if saved.seed is not None and wanted[0]:
            dx = _composed.dropped(dx, saved.seed, options.dropout)
    return (
        dx if wanted[0] else None,
        None if dweight is None or weight is None else dweight.to(weight.dtype).reshape(weight.shape),
        None if dbias is None or bias is None else dbias.to(bias.dtype).reshape(bias.shape),
        dresidual if wanted[3] else None,
    )
