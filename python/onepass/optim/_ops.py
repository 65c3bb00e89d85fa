"""The updates as operators of torch.library, which is how torch.compile calls them.

The eager step does not come this way: the dispatcher converts each list of 1,000 tensors in more than 0.1 ms
(docs/decisions.md, "Eager steps call the core directly").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from onepass.optim import functional

# torch gives these methods no types.
_library = cast(Any, torch.library).Library("onepass", "DEF")

_SGD = (
    "(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momentum_buffer_list, *, {lr} lr, float momentum, "
    "float dampening, float weight_decay, bool nesterov, bool maximize) -> ()"
)
_ADAM = (
    "(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, "
    "Tensor(d!)[] max_exp_avg_sqs, Tensor(e!)[] state_steps, *, {lr} lr, float beta1, float beta2, "
    "float weight_decay, float eps, bool amsgrad, bool maximize, bool decoupled_weight_decay) -> ()"
)


def _sgd(params: list[Tensor], grads: list[Tensor], momentum_buffer_list: list[Tensor], **options: Any) -> None:
    functional.sgd(params, grads, list(momentum_buffer_list), **options)


def _adam(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor],
    state_steps: list[Tensor],
    **options: Any,
) -> None:
    # torch.compile keeps the step counts of CUDA parameters on the GPU.
    capturable = any(step.is_cuda for step in state_steps)
    functional.adam(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        max_exp_avg_sqs,
        state_steps,
        capturable=capturable,
        **options,
    )


def _fake(*_: Any, **__: Any) -> None:
    """Nothing is returned, so there is no shape to tell."""


for _name, _schema, _run in (("sgd_", _SGD, _sgd), ("adam_", _ADAM, _adam)):
    for _overload, _lr in (("", "float"), (".tensor_lr", "Tensor")):
        _library.define(_name + _overload + _schema.format(lr=_lr))
        _library.impl(_name + _overload, _run, "CPU")
        _library.impl(_name + _overload, _run, "CUDA")
        _library._register_fake(_name + _overload, _fake)


def sgd_(*lists: list[Tensor], lr: float | Tensor, **options: Any) -> None:
    """torch.ops.onepass.sgd_, the overload that fits the kind of lr."""
    operator = torch.ops.onepass.sgd_
    (operator.tensor_lr if isinstance(lr, Tensor) else operator.default)(*lists, lr=lr, **options)


def adam_(*lists: list[Tensor], lr: float | Tensor, **options: Any) -> None:
    """torch.ops.onepass.adam_, the overload that fits the kind of lr."""
    operator = torch.ops.onepass.adam_
    (operator.tensor_lr if isinstance(lr, Tensor) else operator.default)(*lists, lr=lr, **options)


def register_clip(norm: Callable[..., Tensor], value: Callable[..., None]) -> None:
    """Registers what clip_grad.py gives: it needs this module, so this one cannot import it."""
    _library.define("clip_grad_norm_(Tensor(a!)[] grads, float max_norm, float norm_type) -> Tensor")
    _library.define("clip_grad_value_(Tensor(a!)[] grads, float clip_value) -> ()")
    for device in ("CPU", "CUDA"):
        _library.impl("clip_grad_norm_", norm, device)
        _library.impl("clip_grad_value_", value, device)
    _library._register_fake("clip_grad_norm_", _fake_norm)
    _library._register_fake("clip_grad_value_", _fake)


def _fake_norm(grads: list[Tensor], max_norm: float, norm_type: float) -> Tensor:
    wide = any(grad.dtype == torch.float64 for grad in grads)
    return grads[0].new_empty((), dtype=torch.float64 if wide else torch.float32)


def clip_grad_norm_(grads: list[Tensor], max_norm: float, norm_type: float) -> Tensor:
    """torch.ops.onepass.clip_grad_norm_."""
    return cast(Tensor, torch.ops.onepass.clip_grad_norm_(grads, max_norm, norm_type))


def clip_grad_value_(grads: list[Tensor], clip_value: float) -> None:
    """torch.ops.onepass.clip_grad_value_."""
    torch.ops.onepass.clip_grad_value_(grads, clip_value)
