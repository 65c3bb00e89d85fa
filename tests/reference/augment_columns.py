"""Holds the operations of a batch while `reference.augment_plan` plans it, and lays them out as records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onepass.augment._arrays import Array, Bools, Floats, Ints, Number
from onepass.augment._records import OP

__all__ = ["Column", "Values", "lay_out"]


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


def lay_out(columns: list[Column], passes: Array, current: Ints) -> Array:
    """Makes the records of operations, (n, P, K): each sample's list without gaps, in the order of the columns.

    A blend whose canvas holds all pixels of the pass is left out.
    """
    n, p = passes.shape
    flat = np.zeros((n, p, max(1, len(columns)), _FIELDS))
    counts = np.zeros((n, p), np.int64)
    # How many operations all samples have, as long as they have the same.
    common = 0 if p == 1 else -1
    index = np.arange(n)
    for column in columns:
        rows = index if column.on is None else np.flatnonzero(column.on)
        if column.map is not None:
            maps = column.final_map(current)
            own = passes[:, 0] if p == 1 else passes[index, column.at]
            soft = own["interpolation"] == 1
            covered = _covered(maps, own["height"], own["width"], column.a[0], column.a[1], soft)
            rows = rows[~covered[rows]]
        if not len(rows):
            continue
        everywhere = common >= 0 and len(rows) == n
        block = flat[:, 0, common] if everywhere else np.zeros((n, _FIELDS))
        block[:, 0], block[:, 1] = column.kind, column.first
        if column.map is not None:
            block[:, 2:11] = maps.reshape(n, 9)
            block[:, 11], block[:, 12], block[:, 13], block[:, 14] = column.a[0], column.a[1], column.a[2], soft
        else:
            for k, number in enumerate(column.a):
                block[:, 2 + k] = number
        if everywhere:
            common += 1
            counts += 1
            continue
        common = -1
        at = column.at[rows]
        slot = counts[rows, at]
        flat[rows, at, slot] = block[rows]
        counts[rows, at] = slot + 1
    most = max(1, int(counts.max(initial=0)))
    ops = flat if most == flat.shape[2] else np.ascontiguousarray(flat[:, :, :most])
    records: Array = ops.view(OP)[..., 0]
    return records


def _covered(maps: Floats, height: Floats, width: Floats, across: Number, down: Number, soft: Bools) -> Bools:
    """Says of which samples all pixels lie in a canvas: it is convex, so that the corners decide.

    Half a pixel more counts where the nearest pixel is taken; what lies on that line is left to the core.
    """
    edge = np.where(soft, 0.0, 0.5 - 1e-9)
    inside = np.ones(len(maps), bool)
    if maps[:, 2, :2].any():
        return _corners_covered(maps, height, width, across, down, edge)
    last_x, last_y = width - 1, height - 1
    for axis, size in ((0, across), (1, down)):
        row = maps[:, axis]
        dx, dy = row[:, 0] * last_x, row[:, 1] * last_y
        low, high = row[:, 2] + np.minimum(dx, 0), row[:, 2] + np.maximum(dx, 0)
        inside &= (low + np.minimum(dy, 0) >= -edge) & (high + np.maximum(dy, 0) <= size - 1 + edge)
    return inside


def _corners_covered(
    maps: Floats, height: Floats, width: Floats, across: Number, down: Number, edge: Floats
) -> Bools:
    """`_covered` for maps with a perspective."""
    origin, dx, dy = maps[:, :, 2], maps[:, :, 0] * (width - 1)[:, None], maps[:, :, 1] * (height - 1)[:, None]
    inside = np.ones(len(maps), bool)
    for corner in (origin, origin + dx, origin + dy, origin + dx + dy):
        weight = corner[:, 2]
        x, y = corner[:, 0], corner[:, 1]
        inside &= (weight > 0) & (x >= -edge * weight) & (y >= -edge * weight)
        inside &= (x <= (across - 1 + edge) * weight) & (y <= (down - 1 + edge) * weight)
    return inside
