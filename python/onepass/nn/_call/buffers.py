"""The memory in which kernels work besides their tensors, and the dtype of statistics."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["new_workspace", "statistics_dtype"]


def statistics_dtype(input: Tensor) -> torch.dtype:
    """Returns the dtype of statistics, such as mean and 1 / standard deviation, and of the arithmetic."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def new_workspace(input: Tensor, size: int) -> Tensor:
    """Allocates memory for a kernel to work in, in doubles; on the CPU the core has its own."""
    return torch.empty(size, dtype=torch.float64, device=input.device)
