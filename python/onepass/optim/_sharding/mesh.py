"""Which ranks hold the parts of a model, and which of them counts a part that several hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from torch import Tensor

from onepass._placements import DIMENSIONS, collapsed, part_of
from onepass.optim._lists.kinds import is_sharded
from onepass.optim._lists.layout import is_dense

__all__ = ["check_placements", "common_group", "contributes", "draw_part_of", "memory_of", "place_of"]


def check_placements(place: str, param: Any) -> None:
    """Raises ValueError for a parameter that its ranks cannot update in parts.

    Args:
        place: What the parameter is called in the error.
        param: A DTensor.
    """
    for placement in param.placements:
        if placement.is_partial():
            raise ValueError(f"{place} must be sharded or replicated, got the placements {param.placements}")


def common_group(name: str, meshes: Iterable[Any]) -> Any:
    """Returns the process group of all ranks of the meshes.

    Args:
        name: The optimizer's name, for errors.
        meshes: The meshes that this rank's parameters are on.

    Raises:
        ValueError: No group is known that holds all of them.
    """
    found = sorted(meshes, key=lambda mesh: -mesh.size())
    widest = found[0]
    world = dist.get_world_size()
    if widest.size() == world:
        return dist.group.WORLD
    ranks = [set(mesh.mesh.flatten().tolist()) for mesh in found]
    if any(not own <= ranks[0] for own in ranks[1:]):
        raise ValueError(
            f"{name}: one mesh must hold the ranks of all the others, or all ranks there are, got meshes of the "
            f"ranks {[sorted(own) for own in ranks]}"
        )
    return widest.get_group() if widest.ndim == 1 else widest._flatten().get_group()


def contributes(param: Tensor, group: Any) -> bool:
    """Says whether this rank counts its part of a parameter; of ranks with the same part the first one does.

    Args:
        param: A DTensor, or a plain tensor, of which all ranks are taken to have the same.
        group: The group over which is counted.
    """
    if not is_sharded(param):
        return bool(dist.get_rank(group) == 0)
    whole: Any = param
    place = whole.device_mesh.get_coordinate()
    if place is None:
        return False
    return all(at == 0 for at, kind in zip(place, whole.placements, strict=True) if kind.is_replicate())


def draw_part_of(param: Tensor) -> tuple[int, ...] | None:
    """Says where the elements of this rank's shard are in the memory of the whole (csrc/core/draw_places.h).

    Args:
        param: A DTensor, or a plain tensor.

    Returns:
        The first one, then sizes, then strides, outermost first. None if it is not known.
    """
    if not is_sharded(param):
        return (0,)
    whole: Any = param
    found = part_of(whole) if whole.device_mesh.get_coordinate() is not None else None
    local = memory_of(whole)
    if found is None or not is_dense(local):
        return None
    shape, offsets = found
    if shape != tuple(local.shape):
        return None
    if 0 in shape or not shape:
        return (0,)
    strides = whole.stride()
    first = sum(offset * stride for offset, stride in zip(offsets, strides, strict=True))
    # In the order of the shard's memory, in which a step walks.
    dims = sorted(range(len(shape)), key=lambda dim: (-local.stride(dim), shape[dim] == 1))
    sizes, apart = collapsed([shape[dim] for dim in dims], [strides[dim] for dim in dims])
    if len(sizes) == 1:
        return (first,)
    return (first, *sizes, *apart) if len(sizes) <= DIMENSIONS else None


def place_of(param: Tensor) -> int:
    """Numbers the shards of a parameter; ranks that have copies of one shard get the same number.

    Args:
        param: A DTensor, or a plain tensor, whose number is 0.
    """
    if not is_sharded(param):
        return 0
    whole: Any = param
    mesh, number = whole.device_mesh, 0
    at = mesh.get_coordinate()
    for dim, placement in enumerate(whole.placements):
        if at is not None and not placement.is_replicate():
            number = number * mesh.size(dim) + at[dim]
    return int(number)


def memory_of(value: Any) -> Any:
    """The tensor that a DTensor has on this rank; anything else as it is."""
    if not is_sharded(value):
        return value
    local = value._local_tensor
    # What a collective has not delivered yet is waited for.
    return local.wait() if hasattr(local, "wait") and type(local) is not Tensor else local
