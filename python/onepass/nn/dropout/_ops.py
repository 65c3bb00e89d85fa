"""Dropout as an operator of torch.library: for torch.compile, fake tensors, subclasses and modes.

Its seed is an argument, so that it is a plain function which compilers may run twice or in another order: the
only thing they must not do twice is to draw the seed (_call/seeds.py).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from onepass.nn.dropout._derivative import differentiate
from onepass.nn.dropout._kernels import Options, run, walkable

__all__ = ["dropout"]

# torch gives these methods no types.
_torch_library = cast(Any, torch.library)
_library = _torch_library.Library("onepass", "FRAGMENT")

_library.define(
    "dropout(Tensor input, Tensor? residual, Tensor seed, float p, str scaling, bool gradient, bool planes, "
    "bool shared, int[]? part=None) -> Tensor"
)


def dropout(input: Tensor, residual: Tensor | None, seed: Tensor, options: Options) -> Tensor:
    """`_kernels.run` by the operator: the result."""
    return cast(Tensor, torch.ops.onepass.dropout(input, residual, seed, *options))


def _forward(input: Tensor, residual: Tensor | None, seed: Tensor, *options: Any) -> Tensor:
    return run(input, residual, seed, _options(*options))[0]


def _options(*options: Any) -> Options:
    """Makes options of an operator's arguments, which have a list where `Options` has a tuple, or nothing."""
    made = Options(*options)
    return made if made.part is None else made._replace(part=tuple(made.part))


def _fake(input: Tensor, residual: Tensor | None, seed: Tensor, *options: Any) -> Tensor:
    return torch.empty_like(walkable(input, _options(*options)))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, _, seed, *options = inputs
    ctx.save_for_backward(seed)
    ctx.options = _options(*options)._replace(gradient=True)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (seed,) = ctx.saved_tensors
    dx = differentiate(grad, seed, ctx.options) if ctx.needs_input_grad[0] else None
    return (dx, grad if ctx.needs_input_grad[1] else None, *(None,) * 7)


for _device in ("CPU", "CUDA"):
    _library.impl("dropout", _forward, _device)
_library._register_fake("dropout", _fake)
_torch_library.register_autograd("onepass::dropout", _differentiate, setup_context=_setup_context, lib=_library)
