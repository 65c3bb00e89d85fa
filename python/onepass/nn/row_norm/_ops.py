"""Layer and RMS norm as operators of torch.library: for torch.compile, fake tensors, subclasses and modes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from onepass.nn.row_norm import _kernels
from onepass.nn.row_norm._derivative import differentiate, remember
from onepass.nn.row_norm._kernels import Options, Saved

__all__ = ["row_norm"]

# torch gives these methods no types.
_torch_library = cast(Any, torch.library)
_library = _torch_library.Library("onepass", "FRAGMENT")

_library.define(
    "row_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? residual, Tensor? seed, bool centred, "
    "SymInt width, float eps, float dropout) -> (Tensor output, Tensor total, Tensor mean, Tensor invstd)"
)
_library.define(
    "row_norm_backward(Tensor grad, Tensor? grad_of_sum, Tensor? weight, Tensor? bias, Tensor normalised, "
    "Tensor? mean, Tensor invstd, Tensor? seed, bool centred, SymInt width, float eps, float dropout, "
    "bool[] wanted) -> Tensor[]"
)


def row_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    seed: Tensor | None,
    options: Options,
) -> Tensor | tuple[Tensor, Tensor]:
    """`_kernels.forward` by the operator: the output, and the sum with a residual."""
    output, total, _, _ = torch.ops.onepass.row_norm(input, weight, bias, residual, seed, *options)
    return cast(Tensor, output) if residual is None else (output, total)


def _as_results(
    input: Tensor, output: Tensor, total: Tensor | None, mean: Tensor | None, invstd: Tensor
) -> tuple[Tensor, ...]:
    """Returns what an operator can return: an empty tensor for None."""
    return (
        output,
        input.new_empty(0) if total is None else total,
        invstd.new_empty(0) if mean is None else mean,
        invstd,
    )


def _forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    seed: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    drawn = 0 if seed is None else seed
    weight, bias, residual = (None if one is None else one.contiguous() for one in (weight, bias, residual))
    found = _kernels.forward(input.contiguous(), weight, bias, residual, drawn, Options(*options))
    return _as_results(input, *found[:4])


def _fake_forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    seed: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    how = Options(*options)
    output = torch.empty_like(input, memory_format=torch.contiguous_format)
    invstd = _kernels.new_statistic(input, how.width)
    total = None if residual is None else torch.empty_like(output)
    return _as_results(input, output, total, torch.empty_like(invstd) if how.centred else None, invstd)


def _backward(
    grad: Tensor,
    grad_of_sum: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    normalised: Tensor,
    mean: Tensor | None,
    invstd: Tensor,
    seed: Tensor | None,
    centred: bool,
    width: int,
    eps: float,
    dropout: float,
    wanted: list[bool],
) -> list[Tensor]:
    options, saved = Options(centred, width, eps, dropout), Saved(normalised.contiguous(), mean, invstd, seed)
    weight = None if weight is None else weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    grad_of_sum = None if grad_of_sum is None else grad_of_sum.contiguous()
    found = _kernels.backward(grad.contiguous(), grad_of_sum, weight, bias, saved, options, wanted)
    return [one for one in found if one is not None]


def _fake_backward(
    grad: Tensor,
    grad_of_sum: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    normalised: Tensor,
    *rest: Any,
) -> list[Tensor]:
    *_, dropout, wanted = rest
    rows = torch.empty_like(normalised, memory_format=torch.contiguous_format)
    weight = None if weight is None else torch.empty_like(weight, memory_format=torch.contiguous_format)
    bias = None if bias is None else torch.empty_like(bias, memory_format=torch.contiguous_format)
    return [one for one in _kernels.new_gradients(rows, weight, bias, dropout, wanted) if one is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, weight, bias, residual, seed, *options = inputs
    _, total, mean, invstd = output
    how = Options(*options)
    normalised = input if residual is None else total
    remember(ctx, normalised, weight, bias, (mean if how.centred else None, invstd, seed), how)
    ctx.mark_non_differentiable(mean, invstd, *([total] if residual is None else []))


def _differentiate(
    ctx: Any, grad: Tensor | None, grad_of_sum: Tensor | None, *_: Any
) -> tuple[Tensor | None, ...]:
    return (*differentiate(ctx, grad, grad_of_sum), *(None,) * 5)


for _device in ("CPU", "CUDA"):
    _library.impl("row_norm", _forward, _device)
    _library.impl("row_norm_backward", _backward, _device)
_library._register_fake("row_norm", _fake_forward)
_library._register_fake("row_norm_backward", _fake_backward)
_torch_library.register_autograd("onepass::row_norm", _differentiate, setup_context=_setup_context, lib=_library)
