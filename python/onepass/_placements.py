"""Which part of a DTensor this rank has, and where its elements are in the memory of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["collapsed", "part_of"]


def part_of(tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Returns the shape of what this rank has of a DTensor, and where it begins in each dimension.

    Args:
        tensor: A DTensor on a mesh with this rank.

    Returns:
        Both, or None if the tensor is neither sharded nor replicated in each dimension of its mesh, or is sharded
        in an order of its own (FSDP's parameters under tensor parallelism are).
    """
    if any(type(placement).__name__ not in ("Shard", "Replicate") for placement in tensor.placements):
        return None
    shape, offsets, mesh = list(tensor.shape), [0] * tensor.dim(), tensor.device_mesh
    place = mesh.get_coordinate()
    for dim, placement in enumerate(tensor.placements):
        if not placement.is_shard():
            continue
        # The ranks along a dimension of the mesh share out, in equal chunks but for the end, what those along the
        # dimensions before it have left to them.
        at = placement.dim % tensor.dim()
        chunk = -(-shape[at] // mesh.size(dim))
        begin = min(chunk * place[dim], shape[at])
        offsets[at] += begin
        shape[at] = min(chunk, shape[at] - begin)
    return tuple(shape), tuple(offsets)


def collapsed(sizes: Sequence[int], strides: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns the fewest dimensions that walk over the same places, the last one with stride 1."""
    found: list[tuple[int, int]] = []
    for size, stride in zip(sizes, strides, strict=True):
        if size == 1:
            continue
        if found and found[-1][1] == size * stride:
            found[-1] = (found[-1][0] * size, stride)
        else:
            found.append((size, stride))
    if not found or found[-1][1] != 1:
        found.append((1, 1))
    return [size for size, _ in found], [stride for _, stride in found]
