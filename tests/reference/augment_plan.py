"""Plans a batch of onepass.augment in numpy, all samples at a time: the judge of the core's plan.

Transforms call the methods of a `Plan` in the order of the chain; `records` gives what the core takes. A pass
ends where one map cannot do what the chain asks for: before a filter that reduces, after it, and where an
operation needs all pixels of the image at its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onepass.augment._arrays import Array, Bools, Floats, Ints, Number
from onepass.augment._maps import tiled
from onepass.augment._plan import COMMUTES, FIXED, POINTWISE, WHOLE
from onepass.augment._records import BORDERS, KINDS, MIXINGS, OPS, PASS, SAMPLE
from reference.augment_columns import Column, Values, lay_out

__all__ = ["Plan", "Records"]

ANY = None
"""All samples."""


class Records(NamedTuple):
    """What the core takes."""

    samples: Array
    passes: Array
    ops: Array
    values: Floats


class Plan:
    """The plan of a batch.

    Args:
        heights: Of each image, (n,).
        widths: Of each image, (n,).
        channels: Of all images.
        unit: What 1.0 is called in fills and thresholds: 255 for uint8.
        masks: Whether this is the plan of masks: nearest pixels, one map, and no operations but fills.
    """

    def __init__(self, heights: Floats, widths: Floats, channels: int, unit: float = 1.0, masks: bool = False):
        n = len(heights)
        self.n, self.channels, self.unit, self.masks = n, channels, unit, masks
        self.height, self.width = heights.copy(), widths.copy()
        self.values = Values(channels)
        self.columns: list[Column] = []
        self.map = tiled(n)
        # Another map for pixels that are found by rounding down: torch's "nearest" of resize has no half pixel.
        self.floor_map: Floats | None = None
        self.current: Ints = np.zeros(n, np.int64)
        self.box = np.zeros((n, 4))
        self.box[:, 2], self.box[:, 3] = widths, heights
        # Of the pass that is planned: does the map do more than move pixels; was bilinear asked for; is it a
        # filter of its own, and which; are there fills, or pixels by the rule beyond the box; the greatest kind of
        # operation.
        flags = np.zeros((7, n), bool)
        self.moved, self.linear, self.filled, self.padded, self.separable, self.cubic, self.antialias = flags
        self.border, self._zeros = np.zeros((2, n))
        self.level: Ints = np.zeros(n, np.int64)
        self._highest = COMMUTES
        self._ended: list[tuple[Bools, Ints, Array]] = []
        self.samples = np.zeros(n, SAMPLE)

    @property
    def least(self) -> tuple[float, float]:
        return float(self.height.min()), float(self.width.min())

    # What transforms call.

    def crop(self, top: Number, left: Number, height: Number, width: Number, on: Bools | None = ANY) -> None:
        """Takes a part of the image, which lies within it."""
        if self._highest >= WHOLE:
            changed = (self.height != height) | (self.width != width)
            self._end((self.level >= WHOLE) & changed & self._rows(on))
        if on is not None:
            top, left = np.where(on, top, 0.0), np.where(on, left, 0.0)
        self._translate(left, top)
        self._resize_to(height, width, on)

    def flip(self, axis: int, on: Bools) -> None:
        """Mirrors: axis 0 from left to right, axis 1 upside down."""
        self._end_if(FIXED, on)
        last = (self.width, self.height)[axis] - 1
        for maps in self._maps():
            maps[:, :, 2] += maps[:, :, axis] * (last * on)[:, None]
            maps[:, :, axis] *= (1 - 2 * on)[:, None]

    def turn(self, quarters: Floats, on: Bools) -> None:
        """Turns by multiples of 90 degrees, against the clock; odd ones exchange height and width."""
        on = on & (quarters != 0)
        if not on.any():
            return
        self._end_if(FIXED, on)
        odd = on & (quarters % 2 == 1)
        self._end(odd & self.separable)
        matrix = tiled(self.n)
        last_x, last_y = self.width - 1, self.height - 1
        for k, (a, b, c, d, x, y) in enumerate(
            [(0, -1, 1, 0, last_x, 0), (-1, 0, 0, -1, last_x, last_y), (0, 1, -1, 0, 0, last_y)], start=1
        ):
            rows = on & (quarters == k)
            matrix[rows, :2, :2] = [[a, b], [c, d]]
            matrix[rows, 0, 2] = np.broadcast_to(x, self.n)[rows]
            matrix[rows, 1, 2] = np.broadcast_to(y, self.n)[rows]
        self._move(matrix)
        self._resize_to(np.where(odd, self.width, self.height), np.where(odd, self.height, self.width), ANY)

    def warp(
        self,
        matrix: Floats,
        linear: bool,
        fill: Sequence[float] | None,
        on: Bools | None = ANY,
        size: tuple[Floats, Floats] | None = None,
    ) -> None:
        """Samples the image at matrix * (x, y, 1), the positions of pixels, with a fill outside of it.

        Args:
            matrix: (n, 3, 3), from the new image to the old one.
            linear: Bilinear, or the nearest pixel.
            fill: One number or one each channel; None blends with 0.
            on: The samples.
            size: Height and width of the new image; None for those of the old one.
        """
        rows = self._rows(on)
        linear = linear and not self.masks
        moves = rows & ~_permutes(matrix)
        ends = self.separable | (linear & self.padded)
        self._end(rows & ends)
        self._end_if(POINTWISE if linear else WHOLE, rows)
        if linear:
            self._tighten(rows)
            self._open(rows)
        if on is not None:
            matrix = np.where(on[:, None, None], matrix, tiled(1))
        self._move(matrix)
        self._fill(matrix.copy(), 2.0 if fill is not None else 0.0, fill or (0.0,), on)
        self.moved |= moves
        if linear:
            self.linear |= rows
        if self.floor_map is not None:
            self.floor_map[moves] = np.nan
        if size is not None:
            self._resize_to(*size, on)

    def pad(self, sides: Sequence[Number], mode: str, fill: Sequence[float], on: Bools | None = ANY) -> None:
        """Adds pixels at the left, top, right and bottom."""
        rows = self._rows(on)
        left, top, right, bottom = (np.where(rows, side, 0.0) for side in sides)
        rows = rows & ((left != 0) | (top != 0) | (right != 0) | (bottom != 0))
        if not rows.any():
            return
        self._end(rows & self.separable)
        self._end_if(WHOLE, rows)
        if mode != "constant":
            self._end(rows & (self.moved | self.filled | self.padded))
            self._tighten(rows)
            self.border[rows], self.padded[rows] = BORDERS[mode], True
        self._translate(-left, -top)
        if mode == "constant":
            matrix = tiled(self.n)
            matrix[:, 0, 2], matrix[:, 1, 2] = -left, -top
            self._fill(matrix, 1.0, fill, rows)
        self._resize_to(self.height + top + bottom, self.width + left + right, ANY)

    def resize(
        self, height: Number, width: Number, interpolation: str, antialias: bool, on: Bools | None = ANY
    ) -> None:
        """Scales the image; interpolation is that of torch's interpolate, "nearest-exact" included."""
        rows = self._rows(on) & ((self.height != height) | (self.width != width))
        if not rows.any():
            return
        if self.masks and interpolation != "nearest-exact":
            interpolation = "nearest"
        nearest = interpolation.startswith("nearest")
        reduces = (np.asarray(height) < self.height) | (np.asarray(width) < self.width)
        alone = rows & ((interpolation == "bicubic") | (antialias & reduces)) & (not nearest)
        self._end_if(WHOLE if nearest else POINTWISE, rows)
        self._end(rows & self.separable)
        if not nearest:
            self._end(rows & self.padded)
            swapped = (self.map[:, 0, 0] == 0) | (self.map[:, 1, 1] == 0)
            self._end(alone & (self.moved | self.filled | swapped))
        self._tighten(rows)
        if not nearest:
            self._open(rows)
        scale_x = np.where(rows, self.width / width, 1.0)
        scale_y = np.where(rows, self.height / height, 1.0)
        shift = 0.5 if interpolation == "nearest-exact" else 0.0
        down = self._rounding_down(scale_x, scale_y, shift, rows) if nearest else None
        self._move(_scaling(scale_x, scale_y, 0.5))
        self.floor_map = self.floor_map if down is None else down
        self.moved |= rows
        self.separable |= alone
        if not nearest:
            self.linear |= rows
            self.cubic |= alone & (interpolation == "bicubic")
            self.antialias |= alone & antialias
        self._resize_to(height, width, rows)

    def op(
        self,
        kind: Number,
        a: Sequence[Number] = (),
        on: Bools | None = ANY,
        level: int | Ints = POINTWISE,
        values: Sequence[float] = (),
    ) -> None:
        """Adds an operation on pixels.

        Args:
            kind: A number of OPS, or one for each sample.
            a: Its parameters, each a number or one for each sample.
            on: The samples.
            level: What it is to later maps: COMMUTES, POINTWISE, WHOLE or FIXED.
            values: What it has for each channel.
        """
        if self.masks:
            return
        first = self.values.add(values) if values else 0
        self.columns.append(Column(kind, on, self.current.copy(), a, first))
        self.level = np.maximum(self.level, level if on is None else np.where(on, level, COMMUTES))
        self._highest = max(self._highest, int(np.max(level)))

    def mix(self, kind: str, on: Bools | None, **fields: Number) -> None:
        """Says with which sample each one is mixed: the one before it in the batch."""
        rows = self._rows(on)
        self.samples["mixing"][rows] = MIXINGS[kind]
        self.samples["partner"] = np.roll(np.arange(self.n), 1)
        for name, value in fields.items():
            self.samples[name][rows] = np.broadcast_to(value, self.n)[rows]

    def records(self) -> Records:
        """Returns what the core takes."""
        last = int(self.current.max(initial=0))
        passes = np.zeros((self.n, last + 1), PASS)
        for rows, at, record in self._ended:
            passes[rows, at[rows]] = record[rows]
        passes[np.arange(self.n), self.current] = self._record()
        ops = lay_out(self.columns, passes, self.current)
        return Records(self.samples, passes, ops, np.array(self.values.numbers or [0.0]))

    # How a pass comes about.

    def _rows(self, on: Bools | None) -> Bools:
        return np.ones(self.n, bool) if on is None else on

    def _maps(self) -> list[Floats]:
        maps = [self.map] if self.floor_map is None else [self.map, self.floor_map]
        return maps + [column.map for column in self.columns if column.map is not None]

    def _translate(self, x: Number, y: Number) -> None:
        across, down = np.asarray(x)[..., None], np.asarray(y)[..., None]
        for maps in self._maps():
            maps[:, :, 2] += maps[:, :, 0] * across + maps[:, :, 1] * down

    def _move(self, matrix: Floats) -> None:
        for maps in self._maps():
            maps[...] = maps @ matrix

    def _resize_to(self, height: Number, width: Number, on: Bools | None) -> None:
        if on is None:
            self.height, self.width = height + self._zeros, width + self._zeros
        else:
            self.height, self.width = np.where(on, height, self.height), np.where(on, width, self.width)

    def _fill(self, matrix: Floats, power: float, fill: Sequence[float], on: Bools | None) -> None:
        """Blends with a fill outside of the image as it is now; the matrix leads there."""
        if self.masks and len(fill) > 1:
            raise ValueError(f"Compose: fill must be one number with masks, got {len(fill)} numbers")
        first = self.values.add([number / self.unit for number in fill])
        column = Column(OPS["blend"], on, self.current.copy(), (self.width, self.height, power), first)
        column.map = matrix
        self.columns.append(column)
        self.filled |= self._rows(on)

    def _tighten(self, rows: Bools) -> None:
        """Keeps taps of a later interpolation within what crops have left; fills replace what is outside."""
        rows = rows & ~self.moved & ~self.padded
        ends = self.map[:, :2, 0] * (self.width - 1)[:, None] + self.map[:, :2, 1] * (self.height - 1)[:, None]
        one, other = self.map[:, :2, 2], self.map[:, :2, 2] + ends
        low, high = np.minimum(one, other), np.maximum(one, other) + 1
        low = np.minimum(np.maximum(low, self.box[:, :2]), self.box[:, 2:] - 1)
        high = np.maximum(np.minimum(high, self.box[:, 2:]), low + 1)
        self.box = np.where(rows[:, None], np.concatenate([low, high], axis=1), self.box)

    def _open(self, rows: Bools) -> None:
        """Moves a canvas away from the edges of an image that does not reach beyond it.

        Interpolation at the edge of the image must not blend with a fill that crops have left out.
        """
        for column in self.columns:
            if column.map is None:
                continue
            these = rows & ~self.moved & (column.at == self.current)
            one = column.map[:, :2, 2]
            other = (
                one
                + column.map[:, :2, 0] * (self.width - 1)[:, None]
                + column.map[:, :2, 1] * (self.height - 1)[:, None]
            )
            size = np.stack(np.broadcast_arrays(*column.a[:2], one[:, 0])[:2], axis=1)
            before = these[:, None] & (np.minimum(one, other) >= 0)
            after = these[:, None] & (np.maximum(one, other) <= size - 1)
            column.map[:, :2, 2] += before
            column.a = (*(size + before + after).T, *column.a[2:])

    def _rounding_down(self, scale_x: Floats, scale_y: Floats, shift: float, rows: Bools) -> Floats:
        """Returns the maps to pixels that are found by rounding down; nan where more than crops stands before."""
        pure = ~self.moved & ~self.filled & (self.map[:, 0, 0] == 1) & (self.map[:, 1, 1] == 1)
        maps = np.where(pure[:, None, None], self.map @ _scaling(scale_x, scale_y, 0.5, shift, down=True), np.nan)
        before = np.nan if self.floor_map is None else self.floor_map
        down: Floats = np.where(rows[:, None, None], maps, before)
        return down

    def _end_if(self, level: int, rows: Bools) -> None:
        if self._highest >= level:
            self._end(rows & (self.level >= level))

    def _end(self, rows: Bools) -> None:
        """Ends the pass of samples and begins the next one, which reads what the pass has made."""
        if not rows.any():
            return
        if self.masks:
            raise ValueError(
                "Compose: masks must be made by one map; padding_mode must be 'constant' after a transform that "
                "samples or pads, got another one"
            )
        for column in self.columns:
            column.complete(rows, self.current)
        self._ended.append((rows, self.current.copy(), self._record()))
        self.map[rows] = tiled(1)
        if self.floor_map is not None:
            self.floor_map[rows] = np.nan
        self.box[rows] = np.stack([0 * self.width, 0 * self.height, self.width, self.height], axis=1)[rows]
        for flags in (
            self.moved,
            self.linear,
            self.filled,
            self.padded,
            self.separable,
            self.cubic,
            self.antialias,
        ):
            flags[rows] = False
        self.border[rows], self.level[rows] = 0.0, COMMUTES
        self.current[rows] += 1

    def _record(self) -> Array:
        """Returns the record of each sample's present pass."""
        record = np.zeros(self.n, PASS)
        flat = record.view(np.float64).reshape(self.n, -1)
        flat[:, 0] = np.where(self.separable, float(KINDS["resize"]), float(KINDS["gather"]))
        flat[:, 1], flat[:, 2] = self.height, self.width
        # A map that only moves pixels needs no interpolation.
        way = np.where(self.cubic, 3.0, (self.linear & self.moved).astype(np.float64))
        maps = self.map
        if self.floor_map is not None:
            down = ~np.isnan(self.floor_map[:, 0, 0]) & ~self.linear
            way = np.where(down, 2.0, way)
            maps = np.where(down[:, None, None], self.floor_map, maps)
            # Products of maps round; a position that is whole must not fall below itself. Others are further away.
            maps[:, :2, 2] += np.where(down, 2.0**-20, 0.0)[:, None]
        flat[:, 3:12] = maps.reshape(self.n, 9)
        flat[:, 12], flat[:, 13] = way, self.antialias
        flat[:, 14:18], flat[:, 18] = self.box, self.border
        return record


def _scaling(x: Floats, y: Floats, half: float, shift: float = 0.0, down: bool = False) -> Floats:
    """Maps pixels i of a scaled image: (i + 0.5) * scale - 0.5, or (i + shift) * scale for rounding down."""
    matrix = tiled(len(x))
    matrix[:, 0, 0], matrix[:, 1, 1] = x, y
    if down:
        matrix[:, 0, 2], matrix[:, 1, 2] = shift * x, shift * y
    else:
        matrix[:, 0, 2], matrix[:, 1, 2] = half * x - half, half * y - half
    return matrix


def _permutes(matrix: Floats) -> Bools:
    """Says which maps move pixels to pixels: turns by 90 degrees, flips, whole translations."""
    size = np.abs(matrix[:, :2, :2])
    whole: Bools = (matrix == np.rint(matrix)).all((1, 2)) & (matrix[:, 2] == [0, 0, 1]).all(1)
    whole &= (size.sum(1) == 1).all(1) & (size.sum(2) == 1).all(1)
    return whole
