"""The cross-entropy loss as operators of torch.library: for torch.compile, fake tensors, subclasses and modes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from onepass.nn.cross_entropy import _kernels
from onepass.nn.cross_entropy._derivative import differentiate, remember

__all__ = ["cross_entropy"]

# torch gives these methods no types.
_torch_library = cast(Any, torch.library)
_library = _torch_library.Library("onepass", "FRAGMENT")

_OPTIONS = "Tensor? weight, int ignore_index, float label_smoothing, float z_loss, str reduction"
_TARGET = "Tensor target, Tensor? target2, Tensor? lams, float lam"
_library.define(
    f"cross_entropy(Tensor input, {_TARGET}, {_OPTIONS}, bool statistics) "
    "-> (Tensor loss, Tensor saved, Tensor totals)"
)
_library.define(
    f"cross_entropy_backward(Tensor grad, Tensor input, Tensor saved, Tensor totals, {_TARGET}, {_OPTIONS}) "
    "-> Tensor"
)


def cross_entropy(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Loss and totals; arguments are `_kernels.forward`'s."""
    loss, _, totals = torch.ops.onepass.cross_entropy(*arguments)
    return loss, totals


def _fake_forward(input: Tensor, target: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _kernels.new_results(input, target, rest[-2])


def _fake_backward(grad: Tensor, input: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(input)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, saved, totals = output
    remember(ctx, inputs[0], inputs[1], inputs[2:], saved, totals)
    ctx.mark_non_differentiable(saved, totals)


def _differentiate(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    return (*differentiate(ctx, grad), *(None,) * 9)


for _device in ("CPU", "CUDA"):
    _library.impl("cross_entropy", _kernels.forward, _device)
    _library.impl("cross_entropy_backward", _kernels.backward, _device)
_library._register_fake("cross_entropy", _fake_forward)
_library._register_fake("cross_entropy_backward", _fake_backward)
_torch_library.register_autograd(
    "onepass::cross_entropy", _differentiate, setup_context=_setup_context, lib=_library
)
