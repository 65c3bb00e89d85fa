"""Batch normalisation as operators of torch.library: for torch.compile, fake tensors, subclasses and modes.

They change nothing in place: running statistics come back as new tensors, which `batch_norm` copies to where they
belong. So the operators are functions, which compilers may move about, and their derivative can be registered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from onepass.nn._call.recomputation import is_recomputed
from onepass.nn.batch_norm import _kernels
from onepass.nn.batch_norm._checks import check_channels
from onepass.nn.batch_norm._derivative import differentiate, remember
from onepass.nn.batch_norm._kernels import Options, Running, Saved

__all__ = ["as_result", "batch_norm", "move_running", "moved"]

# torch gives these methods no types.
_torch_library = cast(Any, torch.library)
_library = _torch_library.Library("onepass", "FRAGMENT")

_library.define(
    "batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? residual, Tensor? running_mean, "
    "Tensor? running_var, Tensor? batches, Tensor? seed, bool training, float? momentum, float eps, "
    "str? activation, float dropout) -> (Tensor output, Tensor mean, Tensor spread, Tensor mask, "
    "Tensor new_running_mean, Tensor new_running_var)"
)
_library.define(
    "batch_norm_backward(Tensor grad, Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor spread, "
    "Tensor? mask, Tensor? seed, bool training, float eps, str? activation, float dropout, bool[] wanted) "
    "-> Tensor[]"
)


def batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running: Running,
    seed: Tensor | None,
    options: Options,
) -> Tensor:
    """`_kernels.forward` by the operator: the output; training changes the running statistics likewise."""
    output, _, _, _, *new = torch.ops.onepass.batch_norm(
        input,
        weight,
        bias,
        residual,
        running.mean,
        running.var,
        running.batches,
        seed,
        *options,
    )
    if options.training:
        move_running(running, new)
    return cast(Tensor, output)


def move_running(running: Running, new: Sequence[Tensor]) -> None:
    """Copies new running statistics, those that an operator returns, to where they belong."""
    if running.mean is not None and running.var is not None:
        for statistic, value in zip((running.mean, running.var), new, strict=True):
            statistic.copy_(value)


def moved(input: Tensor, running: Running, training: bool) -> tuple[Running, tuple[Tensor, Tensor]]:
    """Returns what a kernel moves in the place of the running statistics, and what an operator returns of it.

    Args:
        input: On the device in question.
        running: The running statistics, which an operator must leave alone.
        training: Whether they move.

    Returns:
        Copies of the running statistics, in both places. Nothing is moved when a call is computed again.
    """
    if not training or running.mean is None or running.var is None:
        nothing = input.new_empty(0)
        return running, (nothing, torch.empty_like(nothing))
    new = (running.mean.clone(), running.var.clone())
    mean, var = (None, None) if is_recomputed() else new
    return Running(mean, var, running.batches), new


def _forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    seed: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    how = Options(*options)
    running, new = moved(input, Running(running_mean, running_var, batches), how.training)
    drawn = 0 if seed is None else seed
    try:
        output, mean, spread, mask, _ = _kernels.forward(input, weight, bias, residual, running, drawn, how)
    except ValueError:
        check_channels(input, running.mean, running.var, weight, bias)
        raise
    return (output, mean, spread, as_result(mask, input), *new)


def _fake_forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    batches: Tensor | None,
    seed: Tensor | None,
    *options: Any,
) -> tuple[Tensor, ...]:
    how = Options(*options)
    mean = _kernels.new_statistic(input)
    mask = None if residual is None else _kernels.new_mask(input, how.activation)
    if how.training and running_mean is not None and running_var is not None:
        new = (torch.empty_like(running_mean), torch.empty_like(running_var))
    else:
        new = (input.new_empty(0), input.new_empty(0))
    return (torch.empty_like(input), mean, torch.empty_like(mean), as_result(mask, input), *new)


def as_result(mask: Tensor | None, input: Tensor) -> Tensor:
    """Returns the mask, or an empty tensor for none: an operator's results cannot be None."""
    return input.new_empty(0, dtype=torch.uint8) if mask is None else mask


def _backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    spread: Tensor,
    mask: Tensor | None,
    seed: Tensor | None,
    training: bool,
    eps: float,
    activation: str | None,
    dropout: float,
    wanted: list[bool],
) -> list[Tensor]:
    options = Options(training, None, eps, activation, dropout)
    saved = Saved(mean, spread, mask, seed)
    found = _kernels.backward(grad, input, weight, bias, saved, options, wanted)
    return [one for one in found if one is not None]


def _fake_backward(
    grad: Tensor, input: Tensor, weight: Tensor | None, bias: Tensor | None, *rest: Any
) -> list[Tensor]:
    wanted: list[bool] = rest[-1]
    return [found for found in _kernels.new_gradients(input, weight, bias, wanted) if found is not None]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, weight, bias, _, _, _, _, seed, *options = inputs
    _, mean, spread, mask, *new = output
    saved = Saved(mean, spread, mask if mask.numel() else None, seed)
    remember(ctx, input, weight, bias, saved, Options(*options))
    ctx.mark_non_differentiable(mean, spread, mask, *new)


def _differentiate(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    return (*differentiate(ctx, grad), *(None,) * 9)


for _device in ("CPU", "CUDA"):
    _library.impl("batch_norm", _forward, _device)
    _library.impl("batch_norm_backward", _backward, _device)
_library._register_fake("batch_norm", _fake_forward)
_library._register_fake("batch_norm_backward", _fake_backward)
_torch_library.register_autograd("onepass::batch_norm", _differentiate, setup_context=_setup_context, lib=_library)
