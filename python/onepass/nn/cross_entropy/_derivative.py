"""The derivative of the cross-entropy loss, for eager calls and for the operator alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from onepass.nn._call.dispatch import is_batched, is_plain, with_memory
from onepass.nn.cross_entropy import _composed, _kernels
from onepass.nn.cross_entropy._kernels import Options, Result, Second

__all__ = ["apply", "differentiate", "remember"]


class CrossEntropyFunction(torch.autograd.Function):
    """Eager calls on plain tensors: `_kernels.forward` and its derivative."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        target: Tensor,
        second: Second,
        weight: Tensor | None,
        options: Options,
        statistics: bool,
        inplace: bool,
    ) -> tuple[Tensor, Tensor]:
        """Runs the kernel."""
        result = _kernels.forward(input, target, second, weight, options, statistics)
        remember(ctx, input, target, second, weight, options, result, inplace)
        ctx.mark_non_differentiable(result.totals)
        return result.loss, result.totals

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> Any:
        """Returns the gradients of all arguments."""
        return (*differentiate(ctx, grad), None, None, None, None, None)


# torch gives it no types.
apply = cast(Callable[..., tuple[Tensor, Tensor]], CrossEntropyFunction.apply)


def remember(
    ctx: Any,
    input: Tensor,
    target: Tensor,
    second: Second,
    weight: Tensor | None,
    options: Options,
    result: Result,
    inplace: bool = False,
) -> None:
    """Keeps what `differentiate` needs; only the input itself has the input's size."""
    ctx.save_for_backward(input, target, second.target, second.lams, weight, result.saved, result.totals)
    ctx.lam, ctx.options, ctx.inplace = second.lam, options, inplace
    ctx.set_materialize_grads(False)


def differentiate(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Returns the gradients of input and target (if that holds probabilities), those that are wanted."""
    if grad is None:
        return None, None
    grad = with_memory(grad)
    input, target, target2, lams, weight, saved, totals = ctx.saved_tensors
    second, options = Second(target2, lams, ctx.lam), ctx.options
    wants_input, wants_target = ctx.needs_input_grad[:2]
    if torch.is_grad_enabled():
        return _differentiably(grad, input, target, second, weight, options, wants_input, wants_target)
    dtarget = _of_probabilities(grad, input, target, weight, options) if wants_target else None
    if not wants_input:
        return None, dtarget
    if is_batched(grad):
        return _of_batched(grad, input, saved, totals, target, second, weight, options), dtarget
    if is_plain(input, weight, grad):
        dx = _kernels.backward(grad, input, saved, totals, target, second, weight, options, ctx.inplace)
        return dx, dtarget
    return _by_operator(grad, input, saved, totals, target, second, weight, options), dtarget


def _by_operator(
    grad: Tensor,
    input: Tensor,
    saved: Tensor,
    totals: Tensor,
    target: Tensor,
    second: Second,
    weight: Tensor | None,
    options: Options,
) -> Tensor:
    arguments = (grad, input, saved, totals, target, *second, weight, *options)
    return cast(Tensor, torch.ops.onepass.cross_entropy_backward(*arguments))


def _of_batched(grad: Tensor, input: Tensor, *rest: Any) -> Tensor:
    """Computes many gradients in one: all are the same rows, each times its own number."""
    ones = torch.ones(grad.shape, dtype=grad.dtype, device=grad.device)
    rows = _by_operator(ones, input, *rest)
    if grad.dim() and input.dim() > 1:
        grad = grad.reshape(input.shape[0], 1, *input.shape[2:])
    return (rows.to(grad.dtype) * grad).to(input.dtype)


def _of_probabilities(
    grad: Tensor, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
) -> Tensor:
    """Returns -(1 - label_smoothing) * weight * log softmax, each row's by its upstream gradient."""
    dim = 0 if input.dim() == 1 else 1
    wide = grad.dtype
    found = input.to(wide).log_softmax(dim) * (options.label_smoothing - 1)
    if weight is not None:
        found = found * weight.to(wide).view([-1] + [1] * (input.dim() - 1 - dim))
    if options.reduction == "mean":
        grad = grad / _kernels.rows_of(input)
    if options.reduction == "none" and input.dim() > 1:
        grad = grad.view(input.shape[0], 1, *input.shape[2:])
    return (found * grad).to(target.dtype)


def _differentiably(
    grad: Tensor,
    input: Tensor,
    target: Tensor,
    second: Second,
    weight: Tensor | None,
    options: Options,
    wants_input: bool,
    wants_target: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Does the same under ``create_graph=True``, with operations that autograd can differentiate."""
    # Aliases: one of the two may be made of the other, and that way is the outer pass's to go.
    input, target = input.view_as(input), target.view_as(target)
    loss = _composed.forward(input, target, second, weight, options)
    leaves = [one for one, wanted in ((input, wants_input), (target, wants_target)) if wanted]
    found = iter(torch.autograd.grad(loss, leaves, grad.view_as(loss), create_graph=True))
    return next(found) if wants_input else None, next(found) if wants_target else None
