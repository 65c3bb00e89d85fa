"""What the layers' kernels work in beside their tensors: the dtype of statistics, and memory for doubles."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

__all__ = ["scratch", "statistics_dtype"]

# Doubles that are kept for small inputs, for which an allocation would be a tenth of the call.
_SMALL = 4096


def statistics_dtype(input: Tensor) -> torch.dtype:
    """What statistics, such as mean and 1 / standard deviation, are kept in, and what the arithmetic is in."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


class _Scratch(threading.local):
    """One a thread: the kernels run without the interpreter's lock."""

    def __init__(self) -> None:
        self.doubles = torch.empty(_SMALL, dtype=torch.float64, device="cpu")


_scratch = _Scratch()


def scratch(size: int, device: torch.device) -> Tensor:
    """At least `size` doubles for a kernel to work in."""
    if device.type == "cpu" and size <= _SMALL:
        return _scratch.doubles
    return torch.empty(size, dtype=torch.float64, device=device)
