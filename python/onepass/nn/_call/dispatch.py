"""Who has a say in a call of a layer: the core alone, torch's dispatcher, or a transform of torch.func.

A call on a small tensor would notice a loop over its tensors, or a question that is asked twice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["has_functorch", "is_batched", "is_plain", "is_transformed", "with_memory"]

# True inside a transform of torch.func.
has_functorch: Callable[[], bool] = torch._C._are_functorch_transforms_active

# What type(tensor) is of tensors whose memory the core may read; None where an optional one is missing.
_PLAIN = (Tensor, torch.nn.Parameter, type(None))


def is_plain(input: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> bool:
    """True if the core may be called, False if the dispatcher has a say.

    That is so for a subclass, a mode, another device, torch.jit.trace, which records operators alone, and the
    negative bit (as of ``complex.conj().imag``), which operators of the dispatcher find resolved.

    Args:
        input: Tells the device.
        second: A tensor that is on the input's device, which is checked elsewhere; or None.
        third: Another one.
    """
    return (
        torch._C._len_torch_dispatch_stack() == 0
        and type(input) in _PLAIN
        and type(second) in _PLAIN
        and type(third) in _PLAIN
        and (input.is_cpu or input.is_cuda)
        and not input.is_neg()
        and (second is None or not second.is_neg())
        and (third is None or not third.is_neg())
        and torch._C._get_tracing_state() is None
    )


def is_batched(grad: Tensor) -> bool:
    """True for many gradients in one, as of ``is_grads_batched`` and ``vectorize``: it has no memory."""
    functorch = torch._C._functorch
    return functorch.is_legacy_batchedtensor(grad) or functorch.is_batchedtensor(grad)


def with_memory(grad: Tensor) -> Tensor:
    """An upstream gradient that a kernel can read.

    A sparse one, as of an embedding of what a layer gave, becomes dense; zeros that forward mode gives without
    memory get some.
    """
    if grad.layout is not torch.strided:
        return grad.to_dense()
    return grad.clone() if grad._is_zerotensor() else grad


def is_transformed() -> bool:
    """True inside a transform of torch.func and at a level of forward mode, which need torch's operations.

    Not to be asked while compiling, and neither is `has_functorch`.
    """
    return has_functorch() or forward_ad._current_level >= 0
