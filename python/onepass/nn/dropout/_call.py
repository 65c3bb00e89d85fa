"""Dropout on the kernel: checks, layouts, allocation, derivative.

Eager calls run the core from a torch.autograd.Function. Everything else (torch.compile, fake tensors, subclasses,
modes) takes the operator of _ops.py, which is the same code. The derivative is the same operation again,
on the gradient: all that is kept is the seed.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from onepass.nn._call import exporting, seeds
from onepass.nn._call.checks import check_dense, check_optional, check_probability, check_tensor
from onepass.nn._call.dispatch import has_functorch, is_plain, is_transformed
from onepass.nn.dropout import _composed, _exported
from onepass.nn.dropout._derivative import apply
from onepass.nn.dropout._kernels import How, can_walk, run

__all__ = ["dropout"]

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


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
    exported = exporting.asked._is_exporting_flag
    # In evaluation, too: who moves the graph to training must find an operator.
    if idle and not exported and residual is None and (scaling != "test_time" or p == 0):
        # Whatever it is, a tensor of integers or a nested one: torch gives it back, too.
        return input
    _check(function, input, residual)
    if exported:
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
        output = _composed.forward(input, residual, how, seeds.seed_for(function, input, generator, seed))
        return input.copy_(output) if inplace else output
    if compiling or not is_plain(input, residual):
        if not compiling and exporting.is_asked():
            return _export(
                function, input, p, training, inplace, scaling, residual, planes, generator, seed, shared
            )
        drawn = seeds.seed_for(function, input, generator, seed)
        output = cast(Tensor, torch.ops.onepass.dropout(input, residual, drawn, *how))
        return input.copy_(output) if inplace else output
    if seed is None:
        source: seeds.Seed = seeds.later(function, input, generator)
    elif type(seed) is int and generator is None and 0 <= seed < 2**64:
        source = seed
    else:
        source = seeds.seed_for(function, input, generator, seed)
    direct = inplace and can_walk(input, how)
    if torch.is_grad_enabled() and (input.requires_grad or (residual is not None and residual.requires_grad)):
        output = apply(input, residual, source, how, direct)
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
        exporting.refuse_seed(function, generator, seed)
        if shared:
            exporting.refuse(function, "shared", "False", shared)
    return _exported.dropout(input, p, training, inplace, scaling, residual, planes)


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
