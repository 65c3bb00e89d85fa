"""The derivative of the cross-entropy loss, for eager calls and for the operator alike."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from onepass.nn._call.dispatch import is_batched, is_plain, with_memory
from onepass.nn.cross_entropy import _composed, _kernels

__all__ = ["CrossEntropyFunction", "differentiate", "remember"]


class CrossEntropyFunction(torch.autograd.Function):
    """Eager calls on plain tensors: `_kernels.forward`, whose arguments behind the target come as a tuple."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, rest: tuple[Any, ...], inplace: bool) -> Any:
        """Runs the kernel."""
        loss, saved, totals = _kernels.forward(input, target, *rest)
        remember(ctx, input, target, rest, saved, totals, inplace)
        ctx.mark_non_differentiable(totals)
        return loss, totals

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> Any:
        """Gradients of all arguments."""
        return (*differentiate(ctx, grad), None, None)


def remember(
    ctx: Any,
    input: Tensor,
    target: Tensor,
    rest: tuple[Any, ...],
    saved: Tensor,
    totals: Tensor,
    inplace: bool = False,
) -> None:
    """Keeps what `differentiate` needs: of the input's size, the input alone."""
    target2, lams, lam, weight, *options, _ = rest
    ctx.save_for_backward(input, target, target2, lams, weight, saved, totals)
    ctx.lam, ctx.options, ctx.inplace = lam, tuple(options), inplace
    ctx.set_materialize_grads(False)


def differentiate(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of input and target (if that holds probabilities), those that are wanted."""
    if grad is None:
        return None, None
    grad = with_memory(grad)
    input, target, target2, lams, weight, saved, totals = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:2]
    target_arguments = (target, target2, lams, ctx.lam, weight, *ctx.options)
    if torch.is_grad_enabled():
        found = _differentiably(grad, (input, *target_arguments), wanted)
        return found[0], found[1]
    dtarget = _of_probabilities(grad, input, *target_arguments) if wanted[1] else None
    if not wanted[0]:
        return None, dtarget
    if is_batched(grad):
        return _of_batched(grad, (input, saved, totals, *target_arguments)), dtarget
    arguments = (grad, input, saved, totals, *target_arguments)
    if is_plain(input, weight) and is_plain(grad):
        return cast(Any, _kernels.backward)(*arguments, ctx.inplace), dtarget
    return torch.ops.onepass.cross_entropy_backward(*arguments), dtarget


def _of_batched(grad: Tensor, arguments: tuple[Any, ...]) -> Tensor:
    """Many gradients in one: all are the same rows, each times its own number."""
    input = arguments[0]
    ones = torch.ones(grad.shape, dtype=grad.dtype, device=grad.device)
    rows = torch.ops.onepass.cross_entropy_backward(ones, *arguments)
    if grad.dim() and input.dim() > 1:
        grad = grad.reshape(input.shape[0], 1, *input.shape[2:])
    product: Tensor = (rows.to(grad.dtype) * grad).to(input.dtype)
    return product


def _of_probabilities(grad: Tensor, input: Tensor, target: Tensor, *rest: Any) -> Tensor:
    """-(1 - label_smoothing) * weight * log softmax, each row's by its upstream gradient."""
    *_, weight, _, label_smoothing, _, reduction = rest
    dim = 0 if input.dim() == 1 else 1
    wide = grad.dtype
    found = input.to(wide).log_softmax(dim) * (label_smoothing - 1)
    if weight is not None:
        found = found * weight.to(wide).view([-1] + [1] * (input.dim() - 1 - dim))
    if reduction == "mean":
        grad = grad / _kernels.rows_of(input)
    if reduction == "none" and input.dim() > 1:
        grad = grad.view(input.shape[0], 1, *input.shape[2:])
    scaled: Tensor = (found * grad).to(target.dtype)
    return scaled


def _differentiably(grad: Tensor, arguments: tuple[Any, ...], wanted: tuple[bool, bool]) -> Any:
    """The same under ``create_graph=True``, of operations that autograd can differentiate."""
    # Aliases: one of the two may be made of the other, and that way is the outer pass's to go.
    input, target = (one.view_as(one) for one in arguments[:2])
    loss = _composed.forward(input, target, *arguments[2:])
    leaves = [one for one, want in zip((input, target), wanted, strict=True) if want]
    found = iter(torch.autograd.grad(loss, leaves, grad.view_as(loss), create_graph=True))
    return tuple(next(found) if want else None for want in wanted)
