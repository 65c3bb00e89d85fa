"""The cross-entropy loss as operators of torch.library: for torch.compile, fake tensors, subclasses and modes."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from onepass.nn.cross_entropy import _kernels
from onepass.nn.cross_entropy._derivative import differentiate, remember
from onepass.nn.cross_entropy._kernels import Options, Result, Second

__all__ = ["cross_entropy"]

# torch gives these methods no types.
_torch_library = cast(Any, torch.library)
_library = _torch_library.Library("onepass", "FRAGMENT")

# In the order of the fields of `Second` and `Options`.
_TARGETS = "Tensor target, Tensor? target2, Tensor? lams, float lam"
_OPTIONS = "int ignore_index, float label_smoothing, float z_loss, str reduction"
_library.define(
    f"cross_entropy(Tensor input, {_TARGETS}, Tensor? weight, {_OPTIONS}, bool statistics) "
    "-> (Tensor loss, Tensor saved, Tensor totals)"
)
_library.define(
    "cross_entropy_backward(Tensor grad, Tensor input, Tensor saved, Tensor totals, "
    f"{_TARGETS}, Tensor? weight, {_OPTIONS}) -> Tensor"
)


def cross_entropy(
    input: Tensor, target: Tensor, second: Second, weight: Tensor | None, options: Options, statistics: bool
) -> tuple[Tensor, Tensor]:
    """`_kernels.forward` by the operator: loss and totals."""
    loss, _, totals = torch.ops.onepass.cross_entropy(input, target, *second, weight, *options, statistics)
    return loss, totals


class _Rest(NamedTuple):
    """What stands behind the target in both schemas."""

    target2: Tensor | None
    lams: Tensor | None
    lam: float
    weight: Tensor | None
    ignore_index: int
    label_smoothing: float
    z_loss: float
    reduction: str

    def second(self) -> Second:
        return Second(self.target2, self.lams, self.lam)

    def options(self) -> Options:
        return Options(self.ignore_index, self.label_smoothing, self.z_loss, self.reduction)


def _forward(input: Tensor, target: Tensor, *arguments: Any) -> Result:
    rest, statistics = _Rest(*arguments[:-1]), arguments[-1]
    return _kernels.forward(input, target, rest.second(), rest.weight, rest.options(), statistics)


def _fake_forward(input: Tensor, target: Tensor, *arguments: Any) -> Result:
    return _kernels.new_result(input, target, _Rest(*arguments[:-1]).reduction)


def _backward(
    grad: Tensor, input: Tensor, saved: Tensor, totals: Tensor, target: Tensor, *arguments: Any
) -> Tensor:
    rest = _Rest(*arguments)
    return _kernels.backward(grad, input, saved, totals, target, rest.second(), rest.weight, rest.options())


def _fake_backward(grad: Tensor, input: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(input)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    input, target, *arguments, _ = inputs
    rest, result = _Rest(*arguments), Result(*output)
    remember(ctx, input, target, rest.second(), rest.weight, rest.options(), result)
    ctx.mark_non_differentiable(result.saved, result.totals)


def _differentiate(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    return (*differentiate(ctx, grad), *(None,) * 9)


for _device in ("CPU", "CUDA"):
    _library.impl("cross_entropy", _forward, _device)
    _library.impl("cross_entropy_backward", _backward, _device)
_library._register_fake("cross_entropy", _fake_forward)
_library._register_fake("cross_entropy_backward", _fake_backward)
_torch_library.register_autograd(
    "onepass::cross_entropy", _differentiate, setup_context=_setup_context, lib=_library
)
