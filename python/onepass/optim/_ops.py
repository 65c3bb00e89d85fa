"""The updates as operators of torch.library, which is how torch.compile calls them.

The eager step does not come this way: the dispatcher converts each list of 1,000 tensors in more than 0.1 ms
(docs/decisions/core.md, "Eager steps call the core directly").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["call_step", "clip_grad_norm_", "clip_grad_value_", "register_clip", "register_step"]

# torch gives these methods no types.
_library = cast(Any, torch.library).Library("onepass", "DEF")


def register_step(name: str, lists: str, options: str, run: Callable[..., None]) -> None:
    """Registers an update as torch.ops.onepass.<name>, with a learning rate that is a number or a tensor.

    Args:
        name: Of the operator, for instance "adam_".
        lists: Its lists of tensors as a schema has them, what is written marked.
        options: The options other than the learning rate, likewise.
        run: Takes the lists, lr and the options by name.
    """
    for overload, lr in (("", "float"), (".tensor_lr", "Tensor")):
        _library.define(f"{name}{overload}({lists}, *, {lr} lr, {options}) -> ()")
        _library.impl(name + overload, run, "CPU")
        _library.impl(name + overload, run, "CUDA")
        _library._register_fake(name + overload, _fake)


def call_step(name: str, *lists: list[Tensor], lr: float | Tensor, **options: Any) -> None:
    """Calls torch.ops.onepass.<name>, the overload that fits the kind of lr."""
    operator = getattr(torch.ops.onepass, name)
    (operator.tensor_lr if isinstance(lr, Tensor) else operator.default)(*lists, lr=lr, **options)


def _fake(*_: Any, **__: Any) -> None:
    """Nothing is returned, so there is no shape to give."""


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
