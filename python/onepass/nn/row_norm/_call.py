"""Layer and RMS normalisation: which way a call goes, and what it brings along.

Eager calls run the core from a torch.autograd.Function. Everything else (torch.compile, fake tensors, tensor
subclasses, dispatch modes) takes the operators of _ops.py, which do the same with the same functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from onepass._memory import LARGE, check_large, check_memory
from onepass.nn._call import exporting, seeds
from onepass.nn._call.checks import check_dense, check_tensor
from onepass.nn._call.dispatch import is_plain, is_transformed
from onepass.nn._call.shards import is_sharded
from onepass.nn.dropout._call import dropout as drop
from onepass.nn.row_norm import _composed, _exported, _kernels, _ops
from onepass.nn.row_norm._checks import check
from onepass.nn.row_norm._derivative import apply
from onepass.nn.row_norm._kernels import Options, options_of

__all__ = ["normalise"]


def normalise(
    centred: bool,
    input: Tensor,
    shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float | None,
    dropout: float,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Checks the arguments and returns the output; with a residual the sum, too.

    Args:
        centred: True for layer norm, False for RMS norm.
        input: x.
        shape: The sizes of a row's dimensions.
        weight: w.
        bias: b.
        residual: r.
        eps: None for the epsilon of the arithmetic's dtype.
        dropout: Probability of an element to be dropped; 0 in evaluation.
        generator: Draws the seed.
        seed: The seed itself.
    """
    function = "layer_norm" if centred else "rms_norm"
    if eps is None:
        if centred:
            raise TypeError(f"{function}: eps must be a number, got None")
        check_tensor(function, "input", input)
        wide = torch.float64 if input.dtype == torch.float64 else torch.float32
        eps = torch.finfo(wide).eps
    size = check(function, input, shape, weight, bias, residual, eps, dropout)
    compiling = torch.compiler.is_compiling()
    width = 1
    for one in shape:
        width *= one
    # torch.compile does not know caches.
    options = (Options if compiling else options_of)(centred, width, eps, dropout)
    if not compiling:
        if size == 0 or is_transformed():
            return _composed_call(function, input, shape, weight, bias, residual, options, generator, seed)
        if input.is_cuda and torch.is_autocast_enabled():
            input = _widened(input)
            weight, bias, residual = (None if one is None else _widened(one) for one in (weight, bias, residual))
    if compiling or not is_plain(input, weight, bias, residual):
        return _by_operators(function, input, shape, weight, bias, residual, options, generator, seed)
    if size >= LARGE:
        check_large(function, input=input, residual=residual)
    input = _contiguous(function, "input", input)
    weight = None if weight is None else _contiguous(function, "weight", weight)
    bias = None if bias is None else _contiguous(function, "bias", bias)
    residual = None if residual is None else _contiguous(function, "residual", residual)
    source: seeds.Seed = 0
    if dropout:
        source = seeds.later(function, input, generator)
        if seed is not None:
            source = seeds.seed_for(function, input, generator, seed)
    if torch.is_grad_enabled() and (
        input.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
        or (residual is not None and residual.requires_grad)
    ):
        for name, tensor in (("input", input), ("weight", weight), ("bias", bias)):
            if tensor is not None and tensor.is_inference():
                raise RuntimeError(
                    f"{function}: {name} must not be an inference tensor where a gradient is wanted, got one"
                )
        found: Tensor | tuple[Tensor, Tensor] = apply(input, weight, bias, residual, source, options)
        return found
    return _kernels.outputs(_kernels.forward(input, weight, bias, residual, source, options))


def _contiguous(function: str, argument: str, tensor: Tensor) -> Tensor:
    if tensor.is_contiguous():
        return tensor
    check_memory(f"{function}: {argument}", tensor)
    return tensor.contiguous()


def _widened(tensor: Tensor) -> Tensor:
    """Returns the tensor in float32, as torch's autocast on a GPU does for these functions."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _composed_call(
    function: str,
    input: Tensor,
    shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    options: Options,
    generator: torch.Generator | None,
    seed: int | Tensor | None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Makes the call of torch's functions, behind our dropout."""
    if residual is None:
        return _composed.forward(input, shape, weight, bias, options)
    rows = drop(
        function,
        input,
        options.dropout,
        True,
        False,
        "inverted",
        residual=residual,
        generator=generator,
        seed=seed,
    )
    return _composed.forward(rows, shape, weight, bias, options), rows


def _by_operators(
    function: str,
    input: Tensor,
    shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    options: Options,
    generator: torch.Generator | None,
    seed: int | Tensor | None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Makes the call by our operators, or by torch's in a graph that is exported and for DTensors."""
    if not torch.compiler.is_compiling() and (is_sharded(input) or is_sharded(weight)):
        # torch's operators know what becomes of shards; ours have no rules for them.
        return _composed_call(function, input, shape, weight, bias, residual, options, generator, seed)
    if exporting.is_asked():
        if options.dropout:
            exporting.refuse_seed(function, generator, seed)
        return _exported.row_norm(
            function, input, shape, weight, bias, residual, options.eps, options.dropout, bool(options.dropout)
        )
    drawn = seeds.seed_for(function, input, generator, seed) if options.dropout else None
    check_dense(function, weight=weight, bias=bias, residual=residual)
    if input.numel() == 0:
        return _composed_call(function, input, shape, weight, bias, residual, options, generator, seed)
    return _ops.row_norm(input, weight, bias, residual, drawn, options)
