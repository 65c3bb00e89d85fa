"""What the layers' kernels work in beside their tensors: the dtype of statistics, and memory on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["statistics_dtype", "workspace"]


def statistics_dtype(input: Tensor) -> torch.dtype:
    """What statistics, such as mean and 1 / standard deviation, are kept in, and what the arithmetic is in."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def workspace(input: Tensor, size: Callable[[], int]) -> Tensor | None:
    """Memory for a kernel to work in, in doubles; None on the CPU, where the core has its own."""
    return None if input.is_cpu else torch.empty(size(), dtype=torch.float64, device=input.device)
