"""Dropout: which way a call goes.

Eager calls run the core from a torch.autograd.Function. Everything else (torch.compile, fake tensors, subclasses,
modes) takes the operator of _ops.py, which is the same code. The derivative is the same operation again,
on the gradient: all that is kept is the seed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onepass._memory import LARGE, check_large
from onepass.nn._call import exporting, seeds
from onepass.nn._call.checks import check_optional
from onepass.nn._call.dispatch import has_functorch, is_plain, is_transformed
from onepass.nn._call.shards import is_sharded
from onepass.nn.dropout import _composed, _exported, _ops
from onepass.nn.dropout._checks import check_inplace, check_kinds, check_tensors
from onepass.nn.dropout._derivative import apply
from onepass.nn.dropout._kernels import Options, can_walk, options_of, run
from onepass.nn.dropout._sharded import sharded

__all__ = ["channels", "dropout"]


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
    """Does what all functions and modules have in common; scaling may be ``"alpha"``."""
    check_kinds(function, input, p, residual)
    idle = not training or p == 0
    exported = exporting.asked._is_exporting_flag
    # In evaluation, too: who moves the graph to training must find an operator.
    if idle and not exported and residual is None and (scaling != "test_time" or p == 0):
        # Whatever it is, a tensor of integers or a nested one: torch gives it back, too.
        return input
    check_tensors(function, input, residual)
    if exported:
        _refuse_exported(function, p, training, generator, seed, shared)
        return _exported.dropout(input, p, training, inplace, scaling, residual, planes)
    if not idle and is_sharded(input):
        return sharded(function, input, p, inplace, scaling, residual, planes, generator, seed, shared)
    size = input.numel()
    if idle or size == 0:
        return _idle(input, p, training, inplace, scaling, residual)
    if shared and input.dim() == 0:
        raise ValueError(f"{function}: input must have a dimension for the examples with shared=True, got none")
    planes = planes and input[0, 0].numel() > 1
    compiling = torch.compiler.is_compiling()
    # torch.compile does not know caches.
    options = (Options if compiling else options_of)(float(p), scaling, False, planes, shared)
    if inplace and not compiling and not has_functorch():
        check_inplace(function, input, residual)
    if not compiling and is_transformed():
        drawn = seeds.seed_for(function, input, generator, seed)
        output = _composed.forward(input, residual, drawn, options)
        return input.copy_(output) if inplace else output
    if compiling or not is_plain(input, residual):
        if not compiling and exporting.is_asked():
            _refuse_exported(function, p, training, generator, seed, shared)
            return _exported.dropout(input, p, training, inplace, scaling, residual, planes)
        drawn = seeds.seed_for(function, input, generator, seed)
        output = _ops.dropout(input, residual, drawn, options)
        return input.copy_(output) if inplace else output
    if size >= LARGE:
        check_large(function, input=input, residual=residual)
    return _eager(function, input, residual, inplace, generator, seed, options)


def channels(
    function: str,
    input: Tensor,
    batched: int,
    p: float,
    training: bool,
    inplace: bool,
    scaling: str,
    residual: Tensor | None,
    **draws: Any,
) -> Tensor:
    """Drops with one draw a channel; an input of fewer dimensions than `batched` is one example."""
    check_optional(function, residual=residual)
    if input.dim() >= batched:
        return dropout(function, input, p, training, inplace, scaling, residual, planes=True, **draws)
    if residual is not None:
        residual = residual.unsqueeze(0)
    batch = input.unsqueeze(0)
    output = dropout(function, batch, p, training, inplace, scaling, residual, planes=True, **draws)
    return input if inplace else output.squeeze(0)


def _eager(
    function: str,
    input: Tensor,
    residual: Tensor | None,
    inplace: bool,
    generator: torch.Generator | None,
    seed: int | Tensor | None,
    options: Options,
) -> Tensor:
    if seed is None:
        source: seeds.Seed = seeds.later(function, input, generator)
    elif type(seed) is int and generator is None and 0 <= seed < 2**64:
        source = seed
    else:
        source = seeds.seed_for(function, input, generator, seed)
    direct = inplace and can_walk(input, options)
    if torch.is_grad_enabled() and (input.requires_grad or (residual is not None and residual.requires_grad)):
        output = apply(input, residual, source, options, direct)
    else:
        output, _ = run(input, residual, source, options, direct)
        if direct and not input.is_inference():
            torch.autograd.graph.increment_version(input)
    return input.copy_(output) if inplace and not direct else output


def _refuse_exported(
    function: str,
    p: float,
    training: bool,
    generator: torch.Generator | None,
    seed: int | Tensor | None,
    shared: bool,
) -> None:
    """Raises for what torch's operators do not do in an exported graph."""
    if training and p > 0:
        exporting.refuse_seed(function, generator, seed)
        if shared:
            exporting.refuse(function, "shared", "False", shared)


def _idle(input: Tensor, p: float, training: bool, inplace: bool, scaling: str, residual: Tensor | None) -> Tensor:
    """Does what remains where nothing is dropped."""
    scaled = scaling == "test_time" and not training and p > 0
    if residual is None:
        return (input.mul_(1 - p) if inplace else input * (1 - p)) if scaled else input
    if not scaled:
        return input.add_(residual) if inplace else input + residual
    # Not in two steps in place: the first would change a residual that shares memory.
    output = input * (1 - p) + residual
    return input.copy_(output) if inplace else output
