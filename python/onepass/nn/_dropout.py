"""Dropout on the kernel: checks, layouts, allocation, derivative.

Eager calls run the core from a torch.autograd.Function. Everything else (torch.compile, fake tensors, subclasses,
modes) takes the operator of _dropout_ops.py, which is the same code. The derivative is the same operation again,
on the gradient: all that is kept is the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from onepass import _native
from onepass.nn import _by_torch, _random
from onepass.nn._dispatch import has_functorch, is_batched, is_plain, is_transformed, with_memory
from onepass.nn._kinds import check_dense, check_optional, check_probability, check_tensor

__all__ = ["How", "differentiate", "dropout", "run", "walkable"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class How(NamedTuple):
    """What is done to elements, and which of them share a draw."""

    p: float
    scaling: str
    """``"inverted"``, ``"test_time"``, ``"alpha"``."""
    gradient: bool
    """Of the result by the input, in place of the result."""
    planes: bool
    """One draw for all of input[n, c]."""
    shared: bool
    """The draws of input[0] for all other input[n]."""


def dropout(
    function: str,
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    scaling: str,
    residual: Tensor | None = None,
    planes: bool = False,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    shared: bool = False,
) -> Tensor:
    """What all functions and modules have in common; scaling may be ``"alpha"``."""
    _check_kind(function, input, p, residual)
    idle = not training or p == 0
    exporting = _by_torch.asked._is_exporting_flag
    # In evaluation, too: who moves the graph to training must find an operator.
    if idle and not exporting and residual is None and (scaling != "test_time" or p == 0):
        # Whatever it is, a tensor of integers or a nested one: torch gives it back, too.
        return input
    _check(function, input, residual)
    if exporting:
        return _export(function, input, p, training, inplace, scaling, residual, planes, generator, seed, shared)
    if idle or input.numel() == 0:
        return _idle(input, p, training, inplace, scaling, residual)
    if shared and input.dim() == 0:
        raise ValueError(f"{function}: input must have a dimension for the examples with shared=True, got none")
    how = How(float(p), scaling, False, planes and input[0, 0].numel() > 1, shared)
    compiling = torch.compiler.is_compiling()
    if inplace and not compiling and not has_functorch():
        _check_inplace(function, input, residual)
    if not compiling and is_transformed():
        output = _composed(input, residual, how, _random.seed_for(function, input, generator, seed))
        return input.copy_(output) if inplace else output
    if compiling or not is_plain(input, residual):
        if not compiling and _by_torch.is_asked():
            return _export(
                function, input, p, training, inplace, scaling, residual, planes, generator, seed, shared
            )
        drawn = _random.seed_for(function, input, generator, seed)
        output = cast(Tensor, torch.ops.onepass.dropout(input, residual, drawn, *how))
        return input.copy_(output) if inplace else output
    if seed is None:
        source: _random.Seed = _random.later(function, input, generator)
    elif type(seed) is int and generator is None and 0 <= seed < 2**64:
        source = seed
    else:
        source = _random.seed_for(function, input, generator, seed)
    direct = inplace and can_walk(input, how)
    if torch.is_grad_enabled() and (input.requires_grad or (residual is not None and residual.requires_grad)):
        output = _apply(input, residual, source, how, direct)
    else:
        output, _ = run(input, residual, source, how, direct)
        if direct and not input.is_inference():
            torch.autograd.graph.increment_version(input)
    return input.copy_(output) if inplace and not direct else output


def _export(
    function: str,
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    scaling: str,
    residual: Tensor | None,
    planes: bool,
    generator: torch.Generator | None,
    seed: int | Tensor | None,
    shared: bool,
) -> Tensor:
    if training and p > 0:
        _by_torch.refuse_seed(function, generator, seed)
        if shared:
            _by_torch.refuse(function, "shared", "False", shared)
    return _by_torch.dropout(input, p, training, inplace, scaling, residual, planes)


def run(
    input: Tensor, residual: Tensor | None, seed: _random.Seed, how: How, inplace: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Runs the kernel on plain tensors; the result lies as `walkable` makes the input lie.

    Returns:
        The result, and the seed's tensor unless it is a number.
    """
    p, scaling, gradient, planes, shared = how
    input = walkable(input, how)
    output = input if inplace else torch.empty_like(input)
    if residual is not None and residual.stride() != input.stride():
        residual = torch.empty_like(input).copy_(residual)
    table = None
    if planes or shared:
        table = torch.empty(_draws(input, planes, shared), dtype=torch.uint8, device=input.device)
    # By position, in the order of the stub: names cost a microsecond.
    drawn = _native.core.dropout(
        input,
        output,
        residual,
        p,
        scaling,
        gradient,
        seed,
        planes,
        shared,
        table,
        torch.get_num_threads(),
    )
    return output, drawn


def can_walk(input: Tensor, how: How) -> bool:
    """Whether the kernel takes the input as it lies in memory."""
    if input.is_contiguous():
        return True
    if how.shared and not how.planes:
        return False
    # Channels last in any number of dimensions.
    if input.dim() > 2 and input.movedim(1, -1).is_contiguous():
        return True
    return not how.planes and input.dim() >= 2 and input.transpose(-1, -2).is_contiguous()


def walkable(input: Tensor, how: How) -> Tensor:
    """The input itself if the kernel takes it as it lies in memory, else a contiguous copy."""
    return input if can_walk(input, how) else input.contiguous()


def _draws(input: Tensor, planes: bool, shared: bool) -> int:
    examples = 1 if shared else input.shape[0]
    return examples * (input.shape[1] if planes else input.numel() // input.shape[0])


class DropoutFunction(torch.autograd.Function):
    """Eager calls on plain tensors."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, residual: Tensor | None, seed: _random.Seed, how: How, inplace: bool
    ) -> Tensor:
        """Runs the kernel."""
        output, drawn = run(input, residual, seed, how, inplace)
        if drawn is not None:
            ctx.save_for_backward(drawn)
        ctx.seed, ctx.how = seed if drawn is None else None, how._replace(gradient=True)
        ctx.set_materialize_grads(False)
        if inplace:
            ctx.mark_dirty(input)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        """Gradients of all arguments."""
        if grad is None:
            return None, None, None, None, None
        seed = ctx.saved_tensors[0] if ctx.seed is None else ctx.seed
        dx = differentiate(grad, seed, ctx.how) if ctx.needs_input_grad[0] else None
        return dx, grad if ctx.needs_input_grad[1] else None, None, None, None


_apply: Callable[..., Tensor] = DropoutFunction.apply


def differentiate(grad: Tensor, seed: int | Tensor, how: How) -> Tensor:
    """The gradient of the input, itself differentiable where that is asked for."""
    grad = with_memory(grad)
    if not torch.compiler.is_compiling() and is_batched(grad):
        return _composed(grad, None, how, seed)
    if is_plain(grad) and not torch.compiler.is_compiling():
        if torch.is_grad_enabled() and grad.requires_grad:
            return _apply(grad, None, seed, how, False)
        return run(grad, None, seed, how)[0]
    if not isinstance(seed, Tensor):
        seed = _random.seed_for("dropout", grad, None, seed)
    return cast(Tensor, torch.ops.onepass.dropout(grad, None, seed, *how))


def _check_kind(function: str, input: Tensor, p: float, residual: Tensor | None) -> None:
    check_tensor(function, "input", input)
    check_optional(function, residual=residual)
    check_probability(function, "p", p)


def _check(function: str, input: Tensor, residual: Tensor | None) -> None:
    check_dense(function, input=input, residual=residual)
    if input.dtype not in _DTYPES:
        names = "torch.float32, torch.float64, torch.bfloat16 or torch.float16"
        raise TypeError(f"{function}: input must be {names}, got {input.dtype}")
    if residual is not None:
        if residual.dtype != input.dtype:
            raise TypeError(f"{function}: residual must be {input.dtype} like input, got {residual.dtype}")
        if residual.shape != input.shape or residual.device != input.device:
            raise ValueError(
                f"{function}: residual must have input's shape {tuple(input.shape)} on {input.device}, "
                f"got {tuple(residual.shape)} on {residual.device}"
            )


def _check_inplace(function: str, input: Tensor, residual: Tensor | None) -> None:
    """Raises before the kernel has changed anything what torch would raise afterwards."""
    if not input.is_contiguous() and torch._debug_has_internal_overlap(input) == 1:
        raise RuntimeError(
            f"{function}: input must not share memory between its elements with inplace=True, got strides "
            f"{input.stride()} for shape {tuple(input.shape)}"
        )
    if input.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(f"{function}: input must not be an inference tensor with inplace=True, got one")
    if not torch.is_grad_enabled():
        return
    if not (input.requires_grad or (residual is not None and residual.requires_grad)):
        return
    autograd = cast(Any, torch._C)._autograd
    # Views that autograd cannot write through, such as what chunk gives.
    if input._is_view() and (made := autograd._get_creation_meta(input)) != autograd.CreationMeta.DEFAULT:
        raise RuntimeError(
            f"{function}: input must not be one of many views or a view made without gradients with inplace=True, "
            f"got {made.name}"
        )
    base = input._base if input._is_view() else None
    if any(one is not None and one.is_leaf and one.requires_grad for one in (input, base)):
        kind = "a leaf" if base is None else "a view of a leaf"
        raise RuntimeError(f"{function}: input must not be {kind} that requires grad with inplace=True, got one")


def _idle(input: Tensor, p: float, training: bool, inplace: bool, scaling: str, residual: Tensor | None) -> Tensor:
    """What is done where nothing is dropped."""
    scaled = scaling == "test_time" and not training and p > 0
    if residual is None:
        return (input.mul_(1 - p) if inplace else input * (1 - p)) if scaled else input
    if not scaled:
        return input.add_(residual) if inplace else input + residual
    # Not in two steps in place: the first would change a residual that shares memory.
    output = input * (1 - p) + residual
    return input.copy_(output) if inplace else output


def _composed(input: Tensor, residual: Tensor | None, how: How, seed: int | Tensor) -> Tensor:
    """The result by torch's operations, which torch.func and forward mode can differentiate.

    Under vmap all that is mapped over has one mask, as with torch's randomness="same"; with another randomness
    seed_for has raised.
    """
    number = int(seed) % 2**64
    # The kernel reads memory, which tensors made within a transform hide.
    with temporarily_clear_interpreter_stack():
        ones = torch.ones(input.shape, dtype=input.dtype, device=input.device)
        slope, _ = run(ones, None, number, how._replace(gradient=True))
        value, _ = run(ones, None, number, how)
    output = torch.where(slope != 0, input * slope, 0)
    if how.scaling == "alpha":
        output = output + (value - slope)
    return output if residual is None else output + residual
