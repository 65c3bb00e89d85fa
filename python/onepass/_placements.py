"""Which part of a DTensor this rank has, and where its elements are in the memory of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["DIMENSIONS", "collapsed", "part_of"]

# DrawPlaces::kMost in csrc/core/draw_places.h.
DIMENSIONS = 6


def part_of(tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Returns the shape of what this rank has of a DTensor, and where it begins in each dimension.

    Args:
        tensor: A DTensor on a mesh with this rank.

    Returns:
        Both, or None if the tensor is neither sharded nor replicated in each dimension of its mesh, or if the
        order in which the mesh shares it out is not known.
    """
    order = _order(tensor)
    if order is None:
        return None
    shape, offsets, mesh = list(tensor.shape), [0] * tensor.dim(), tensor.device_mesh
    place = mesh.get_coordinate()
    for dim in order:
        # The ranks along a dimension of the mesh share out, in equal chunks but for the end, what those along the
        # dimensions before it have left to them.
        at = tensor.placements[dim].dim % tensor.dim()
        chunk = -(-shape[at] // mesh.size(dim))
        begin = min(chunk * place[dim], shape[at])
        offsets[at] += begin
        shape[at] = min(chunk, shape[at] - begin)
    return tuple(shape), tuple(offsets)


def _order(tensor: Any) -> list[int] | None:
    """Returns the dimensions of the mesh that share the tensor out, in their order; None if it is not known.

    It is that of the mesh but for FSDP's parameters under tensor parallelism. There a dimension of the mesh shares
    out what later ones have left to it, as many shards as its placement's split_factor.
    """
    order: list[int] = []
    for dim, placement in reversed([*enumerate(tensor.placements)]):
        kind = type(placement).__name__
        if kind not in ("Shard", "Replicate", "_StridedShard"):
            return None
        if kind == "Replicate":
            continue
        at, shards = 0, 1
        wanted = placement.split_factor if kind == "_StridedShard" else 1
        while at < len(order) and shards < wanted:
            if tensor.placements[order[at]].dim == placement.dim:
                shards *= tensor.device_mesh.size(order[at])
            at += 1
        if shards != wanted:
            return None
        order.insert(at, dim)
    return order


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
