"""Holds the operations of a batch while it is planned, one column for each step, and lays them out as records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.augment._philox import Floats
from onepass.augment._records import OP, OPS

__all__ = ["Column", "Values", "lay_out", "tiled"]

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Number = float | Floats

_FIELDS = OP.itemsize // 8


class Column:
    """One operation for a batch: what it is for each sample, and in which pass of the sample it stands.

    Attributes:
        kind: A number of OPS, or one for each sample.
        on: Which samples have it; None for all.
        at: The pass of each sample.
        a: The first parameters.
        first: The place in the list of values.
        map: For a blend: from pixels of the image at this place in the plan to pixels of the canvas, (n, 3, 3).
        kept: The map of those samples whose pass is complete.
    """

    __slots__ = ("a", "at", "first", "kept", "kind", "map", "on")

    def __init__(self, kind: Number, on: Bools | None, at: Ints, a: Sequence[Number], first: int) -> None:
        self.kind, self.on, self.at, self.a, self.first = kind, on, at, a, first
        self.map: Floats | None = None
        self.kept: Floats | None = None

    def complete(self, rows: Bools, current: Ints) -> None:
        """Keeps the map of samples whose pass ends here; others may go on to change theirs."""
        if self.map is not None:
            if self.kept is None:
                self.kept = self.map.copy()
            ending = rows & (self.at == current)
            self.kept[ending] = self.map[ending]

    def final_map(self, current: Ints) -> Floats:
        """Returns the maps from the pixels of each sample's pass."""
        assert self.map is not None
        if self.kept is None:
            return self.map
        final: Floats = np.where((self.at == current)[:, None, None], self.map, self.kept)
        return final


class Values:
    """The list of numbers that operations have for each channel."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.numbers: list[float] = []
        self._known: dict[tuple[float, ...], int] = {}

    def add(self, numbers: Sequence[float]) -> int:
        """Returns the place of numbers in the list; one number stands for all channels."""
        key = tuple(numbers) if len(numbers) != 1 else tuple(numbers) * self.channels
        if key not in self._known:
            self._known[key] = len(self.numbers)
            self.numbers.extend(key)
        return self._known[key]


def tiled(n: int) -> Floats:
    """Returns n identities, (n, 3, 3)."""
    maps = np.zeros((n, 3, 3))
    maps[:, 0, 0] = maps[:, 1, 1] = maps[:, 2, 2] = 1.0
    return maps


def lay_out(columns: list[Column], passes: NDArray[Any], current: Ints) -> NDArray[Any]:
    """Makes the records of operations, (n, P, K): each sample's list without gaps, in the order of the columns.

    A blend whose canvas holds all pixels of the pass is left out.
    """
    n, p = passes.shape
    flat = np.zeros((n, p, max(1, len(columns)), _FIELDS))
    counts = np.zeros((n, p), np.int64)
    index = np.arange(n)
    for column in columns:
        block = np.zeros((n, _FIELDS))
        block[:, 0], block[:, 1] = column.kind, column.first
        rows = index if column.on is None else np.flatnonzero(column.on)
        if column.map is not None:
            maps = column.final_map(current)
            own = passes[index, column.at]
            soft = own["interpolation"] == 1
            outside = ~_covered(maps, own["height"], own["width"], column.a[0], column.a[1], soft)
            rows = rows[outside[rows]]
            block[:, 2:11] = maps.reshape(n, 9)
            block[:, 11], block[:, 12], block[:, 13], block[:, 14] = column.a[0], column.a[1], column.a[2], soft
        else:
            for k, number in enumerate(column.a):
                block[:, 2 + k] = number
        if len(rows):
            at = column.at[rows]
            slot = counts[rows, at]
            flat[rows, at, slot] = block[rows]
            counts[rows, at] = slot + 1
    ops = np.ascontiguousarray(flat[:, :, : max(1, int(counts.max(initial=0)))])
    return ops.view(OP)[..., 0]


def _covered(maps: Floats, height: Floats, width: Floats, across: Number, down: Number, soft: Bools) -> Bools:
    """Says of which samples all pixels lie in a canvas: it is convex, so that the corners decide."""
    origin, dx, dy = maps[:, :, 2], maps[:, :, 0] * (width - 1)[:, None], maps[:, :, 1] * (height - 1)[:, None]
    x, y, w = np.stack([origin, origin + dx, origin + dy, origin + dx + dy], axis=1).transpose(2, 0, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = x / w, y / w
    # Half a pixel more where the nearest one counts.
    edge = np.where(soft, 0.0, 0.5)
    inside = (w > 0) & (x >= -edge[:, None]) & (y >= -edge[:, None])
    inside &= _below(x, across, edge) & _below(y, down, edge)
    covered: Bools = inside.all(1)
    return covered


def _below(x: Floats, size: Number, edge: Floats) -> Bools:
    """Compares with the last pixel; half a pixel after it does not belong to it."""
    last = np.broadcast_to(size - 1.0, edge.shape)[:, None]
    below: Bools = np.where(edge[:, None] > 0, x < last + 0.5, x <= last)
    return below


BLEND = OPS["blend"]
