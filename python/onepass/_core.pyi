"""Types of the native module (csrc/bind). Tensors: torch.Tensor or numpy.ndarray."""

from collections.abc import Sequence
from typing import Any

import torch

SgdOptions = tuple[float | torch.Tensor, float, float, float, bool, bool]
AdamOptions = tuple[float | torch.Tensor, float, float, float, float, bool, bool, bool, bool]

def build_info() -> dict[str, Any]:
    """What the module was built with and what it uses: see `onepass info`."""

class Plan:
    """What an optimizer remembers of its tensors from the step before; not part of its state."""

def use_data_pointer(address: int, sample: torch.Tensor) -> bool:
    """Offers a C function from tensor object to data pointer; True if it was right about the sample."""

def sgd_step(
    plan: Plan, state: dict[torch.Tensor, Any], groups: list[tuple[list[torch.Tensor], SgdOptions]], threads: int
) -> list[torch.Tensor] | None:
    """One step from an optimizer's state; None, and nothing changed, if it needs the list function."""

def sgd(function: str, groups: list[tuple[Any, ...]], threads: int) -> None:
    """One step over groups of (params, grads, momentum_buffer_list or None, first, options, indices or None)."""

def adam_step(
    plan: Plan, state: dict[torch.Tensor, Any], groups: list[tuple[list[torch.Tensor], AdamOptions]], threads: int
) -> list[torch.Tensor] | None:
    """One step from an optimizer's state; None, and nothing changed, if it needs the list function."""

def adam(function: str, groups: list[tuple[Any, ...]], threads: int) -> None:
    """One step over groups of (params, grads, m, v, max v or None, state_steps, options, indices or None)."""

control_size: int
"""Elements of the float64 tensor that grad_norm fills."""

def grad_norm(
    function: str,
    grads: list[torch.Tensor],
    norm_type: float,
    max_norm: float,
    control: torch.Tensor,
    workspace: torch.Tensor,
    threads: int,
) -> int:
    """The norm and the factor that clips it. Returns 0, or, nothing done, the elements that workspace needs."""

def grad_scale(function: str, grads: list[torch.Tensor], control: torch.Tensor, threads: int) -> None:
    """Multiplies gradients by the factor in control."""

def grad_clamp(function: str, grads: list[torch.Tensor], limit: float, threads: int) -> None:
    """Clamps gradients to [-limit, limit]."""

def stream(reads: Sequence[Any], writes: Sequence[Any], threads: int) -> None:
    """A plain loop that reads one float32 array and updates one to four: the bandwidth of benchmarks."""
