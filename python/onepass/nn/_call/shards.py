"""DTensors in calls of layers: what this rank has of one, and one seed for all ranks."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from onepass._placements import part_of
from onepass.nn._call import seeds

__all__ = ["agreed_seed", "is_sharded", "local_part", "seed_of_mesh"]

_PLAIN = (Tensor, torch.nn.Parameter)

# torch gives these methods no types.
_library = cast(Any, torch.library).Library("onepass", "FRAGMENT")


def is_sharded(value: Any) -> bool:
    """Returns True for a DTensor; its module, which takes long to load, need not be there."""
    return type(value) not in _PLAIN and any(
        base.__name__ == "DTensor" and base.__module__.startswith("torch.distributed")
        for base in type(value).__mro__
    )


def local_part(function: str, argument: str, tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the shape of what this rank has of a DTensor, and where it begins in each dimension.

    Raises:
        ValueError: It is neither sharded nor replicated in each dimension of its mesh, or it is not known in which
            order the mesh shares it out.
    """
    if tensor.device_mesh.get_coordinate() is None:
        raise ValueError(f"{function}: {argument} must be on a mesh with this rank, got {tensor.device_mesh}")
    found = part_of(tensor)
    if found is None:
        raise ValueError(
            f"{function}: {argument} must be sharded or replicated, got the placements {tensor.placements}"
        )
    return found


def seed_of_mesh(
    function: str, local: Tensor, mesh: Any, generator: torch.Generator | None, seed: int | Tensor | None
) -> Tensor:
    """Returns one seed for all ranks of a mesh: the given one, or what its first rank draws.

    Each rank draws, so that all generators advance alike.
    """
    drawn = seeds.seed_for(function, local, generator, seed)
    if seed is None:
        for dim in range(mesh.ndim):
            _from_first(drawn, mesh.get_group(dim))
    return drawn


def agreed_seed(like: Tensor) -> Tensor | None:
    """Returns what the first of all ranks draws, or None where this rank is the only one."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    return cast(Tensor, torch.ops.onepass.draw_agreed_seed(like))


def _from_first(seed: Tensor, group: Any) -> None:
    dist.broadcast(seed, dist.get_global_rank(group, 0), group=group)


def _draw_agreed(like: Tensor) -> Tensor:
    drawn = torch.empty(1, dtype=torch.int64, device=like.device).random_()
    _from_first(drawn, dist.group.WORLD)
    return drawn


# The tag lets activation checkpointing in compiled code save and restore the generator around it.
_library.define("draw_agreed_seed(Tensor like) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
_library.impl("draw_agreed_seed", _draw_agreed, "CPU")
_library.impl("draw_agreed_seed", _draw_agreed, "CUDA")
_library._register_fake("draw_agreed_seed", lambda like: torch.empty(1, dtype=torch.int64, device=like.device))
