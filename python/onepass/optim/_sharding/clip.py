"""Clips gradients that are DTensors: by the norm of the whole model, each rank its own shards."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from onepass import _native
from onepass._arguments import told
from onepass._versions import bump_versions
from onepass.optim._lists.kinds import is_sharded
from onepass.optim._lists.norms import FACTOR, NORM, measure
from onepass.optim._sharding.mesh import check_placements, common_group, contributes, memory_of

__all__ = ["clip_shards", "clip_shards_by_value"]


def clip_shards(grads: list[Tensor], max_norm: float, order: float, error_if_nonfinite: bool) -> Tensor:
    """Does what `clip_grad_norm_` does, on all ranks of the gradients' meshes together.

    Args:
        grads: DTensors and plain tensors; all ranks are taken to have the same plain ones.
        max_norm: The largest norm that is left as it is.
        order: The order of the norm.
        error_if_nonfinite: Whether a norm that is not finite raises, on all ranks.

    Returns:
        The norm of the whole, a plain tensor.
    """
    name = "clip_grad_norm_"
    group = _group_of(name, grads)
    own = [memory_of(grad) for grad in grads if contributes(grad, group) and memory_of(grad).numel()]
    local = [memory_of(grad) for grad in grads]
    if own:
        control, _ = measure(name, own, order, max_norm)
    else:
        control = torch.zeros(_native.core.control_size, dtype=torch.float64, device=local[0].device)
    if math.isinf(order):
        total = control[NORM].clone()
        dist.all_reduce(total, op=dist.ReduceOp.MAX, group=group)
    else:
        total = control[NORM].pow(order)
        dist.all_reduce(total, group=group)
        total = total.pow(1 / order)
    if error_if_nonfinite and not bool(total.isfinite()):
        raise RuntimeError(
            f"{name}: the gradients' norm of order {order} must be finite with error_if_nonfinite=True, "
            f"got {total.item()}"
        )
    control[NORM] = total
    control[FACTOR] = (max_norm / (total + 1e-6)).clamp(max=1)
    bump_versions(local)
    _native.core.grad_scale(name, local, control, torch.get_num_threads())
    wide = any(grad.dtype == torch.float64 for grad in grads)
    return total.to(torch.float64 if wide else torch.float32)


def clip_shards_by_value(grads: list[Tensor], limit: float) -> None:
    """Does what `clip_grad_value_` does to this rank's shards; the ranks need not agree about anything."""
    _group_of("clip_grad_value_", grads)
    local = [memory_of(grad) for grad in grads]
    _native.core.grad_clamp("clip_grad_value_", local, limit, torch.get_num_threads())
    bump_versions(local)


def _group_of(name: str, grads: list[Tensor]) -> object:
    for index, grad in enumerate(grads):
        if not (is_sharded(grad) or type(grad) in (Tensor, torch.nn.Parameter)):
            raise TypeError(f"{name}: grads[{index}] must be a DTensor or a plain tensor, got {told(grad)}")
        if is_sharded(grad):
            check_placements(f"{name}: grads[{index}]", grad)
    meshes = {grad.device_mesh for grad in grads if is_sharded(grad)}  # type: ignore[attr-defined]
    return common_group(name, meshes)
