"""Decides whether a call goes straight to the core, through torch's dispatcher, or to a transform of torch.func.

Written without loops and without asking anything twice: a call on a small tensor would notice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["has_functorch", "is_batched", "is_plain", "is_transformed", "with_memory"]

# True inside a transform of torch.func.
has_functorch: Callable[[], bool] = torch._C._are_functorch_transforms_active

# Types of tensors whose memory the core may read; None stands for an optional tensor that is missing.
_PLAIN = (Tensor, torch.nn.Parameter, type(None))


def is_plain(
    input: Tensor, second: Tensor | None = None, third: Tensor | None = None, fourth: Tensor | None = None
) -> bool:
    """Returns True if the core may be called, False if the call must go through the dispatcher.

    The dispatcher is needed for a subclass, a mode, another device, torch.jit.trace, which records only operators,
    and a negative bit (``complex.conj().imag`` has one), which the dispatcher resolves before an operator runs.

    Args:
        input: The tensor whose device counts.
        second: A tensor on the same device, which is checked elsewhere; or None.
        third: Another one.
        fourth: Another one.
    """
    return (
        torch._C._len_torch_dispatch_stack() == 0
        and type(input) in _PLAIN
        and type(second) in _PLAIN
        and type(third) in _PLAIN
        and type(fourth) in _PLAIN
        and (input.is_cpu or input.is_cuda)
        and not input.is_neg()
        and (second is None or not second.is_neg())
        and (third is None or not third.is_neg())
        and (fourth is None or not fourth.is_neg())
        and torch._C._get_tracing_state() is None
    )


def is_batched(grad: Tensor) -> bool:
    """Returns True for many gradients in one tensor without memory, as ``is_grads_batched`` makes them."""
    functorch = torch._C._functorch
    return functorch.is_legacy_batchedtensor(grad) or functorch.is_batchedtensor(grad)


def with_memory(grad: Tensor) -> Tensor:
    """Makes an upstream gradient readable for a kernel.

    A sparse one, from an embedding of a layer's output, becomes dense; zeros that forward mode makes without
    memory get some.
    """
    if grad.layout is not torch.strided:
        return grad.to_dense()
    return grad.clone() if grad._is_zerotensor() else grad


def is_transformed() -> bool:
    """Returns True inside a transform of torch.func and at a level of forward mode, which need torch's operations.

    Neither this nor `has_functorch` may be called while compiling.
    """
    return has_functorch() or forward_ad._current_level >= 0
