"""The derivative of dropout: the same operation again, on the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from onepass.nn._call import seeds
from onepass.nn._call.dispatch import is_batched, is_plain, with_memory
from onepass.nn._call.seeds import Seed
from onepass.nn.dropout import _composed
from onepass.nn.dropout._kernels import Options, gradient_of, run

__all__ = ["apply", "differentiate"]


class DropoutFunction(torch.autograd.Function):
    """Eager calls on plain tensors."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, residual: Tensor | None, seed: Seed, options: Options, inplace: bool
    ) -> Tensor:
        """Runs the kernel."""
        output, drawn = run(input, residual, seed, options, inplace)
        if drawn is not None:
            ctx.save_for_backward(drawn)
        ctx.seed, ctx.options = seed if drawn is None else None, gradient_of(options)
        ctx.set_materialize_grads(False)
        if inplace:
            ctx.mark_dirty(input)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        """Returns the gradients of all arguments."""
        if grad is None:
            return None, None, None, None, None
        seed = ctx.saved_tensors[0] if ctx.seed is None else ctx.seed
        dx = differentiate(grad, seed, ctx.options) if ctx.needs_input_grad[0] else None
        return dx, grad if ctx.needs_input_grad[1] else None, None, None, None


apply: Callable[..., Tensor] = DropoutFunction.apply


def differentiate(grad: Tensor, seed: int | Tensor, options: Options) -> Tensor:
    """Returns the gradient of the input, itself differentiable where that is asked for."""
    grad = with_memory(grad)
    if not torch.compiler.is_compiling() and is_batched(grad):
        return _composed.forward(grad, None, seed, options)
    if is_plain(grad) and not torch.compiler.is_compiling():
        if torch.is_grad_enabled() and grad.requires_grad:
            return apply(grad, None, seed, options, False)
        return run(grad, None, seed, options)[0]
    if not isinstance(seed, Tensor):
        seed = seeds.seed_for("dropout", grad, None, seed)
    return cast(Tensor, torch.ops.onepass.dropout(grad, None, seed, *options))
