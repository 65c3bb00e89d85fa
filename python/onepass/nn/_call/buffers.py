"""What the layers' kernels work in beside their tensors: the dtype of statistics, and memory on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["new_workspace", "statistics_dtype"]


def statistics_dtype(input: Tensor) -> torch.dtype:
    """What statistics, such as mean and 1 / standard deviation, are kept in, and what the arithmetic is in."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def new_workspace(input: Tensor, size: int) -> Tensor:
    """Memory for a kernel to work in, in doubles; on the CPU the core has its own."""
    return torch.empty(size, dtype=torch.float64, device=input.device)
