"""Moves boxes and keypoints along with the images, step by step, by torchvision's conventions.

Boxes are (x1, y1, x2, y2) with the origin at the corner of the image. After each step that can move them out, they
are cut at the edges of the image, as torchvision does: a rotated box is the box around its corners. They are cut
at the end, too. Keypoints are not cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from onepass._arguments import told
from onepass.augment._arrays import Array, Bools, Floats, Ints, Number
from onepass.augment._maps import tiled

__all__ = ["Boxes", "Keypoints", "Points"]

Tensors = list[torch.Tensor]


class Boxes(NamedTuple):
    """Holds boxes of a batch, a tensor (k, 4) for each sample, without those that have left the image.

    `kept` says which of the boxes given are among them: at least 1 high and 1 wide, as torchvision's
    SanitizeBoundingBoxes has it.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> images, boxes = torch.zeros(1, 8, 8, 3), [torch.tensor([[0.0, 0.0, 2.0, 2.0], [3.0, 3.0, 6.0, 7.0]])]
        >>> _, found = A.Compose([A.CenterCrop(4)], train=False)(images, boxes=boxes)
        >>> found.boxes[0], found.kept[0]
        (tensor([[1., 1., 4., 4.]]), tensor([False,  True]))
    """

    boxes: Tensors
    kept: Tensors


class Keypoints(NamedTuple):
    """Holds keypoints of a batch, a tensor of the shape given for each sample, and which of them are in the image.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> images, points = torch.zeros(1, 8, 8, 3), [torch.tensor([[1.0, 1.0], [3.0, 4.0]])]
        >>> _, found = A.Compose([A.CenterCrop(4)], train=False)(images, keypoints=points)
        >>> found.points[0], found.inside[0]
        (tensor([[-1., -1.],
                [ 1.,  2.]]), tensor([False,  True]))
    """

    points: Tensors
    inside: Tensors


class Points:
    """Positions of a batch: what transforms call, for boxes and keypoints.

    Args:
        heights: Of each image, (n,).
        widths: Of each image, (n,).
        boxes: For each sample (k, 4).
        points: For each sample (..., 2).
    """

    masks = False

    def __init__(
        self, heights: Floats, widths: Floats, channels: int, unit: float, boxes: Tensors, points: Tensors
    ) -> None:
        self.n, self.channels, self.unit = len(heights), channels, unit
        self.height, self.width = heights, widths
        self._boxes, self._points = boxes, points
        self.corners, self._box_of = _flat(boxes, 4)
        self.places, self._point_of = _flat(points, 2)

    @property
    def least(self) -> tuple[float, float]:
        """The least height and the least width."""
        return float(self.height.min()), float(self.width.min())

    def crop(self, top: Number, left: Number, height: Number, width: Number, on: Bools | None = None) -> None:
        """Moves the origin, and cuts boxes."""
        self._translate(-self._each(left, on), -self._each(top, on))
        self._size(height, width, on)
        self._cut()

    def pad(self, sides: Sequence[Number], mode: str, fill: Sequence[float], on: Bools | None = None) -> None:
        """Moves the origin."""
        if mode != "constant" and any(np.any(side) for side in sides):
            raise ValueError(f"Compose: padding_mode must be 'constant' with boxes or keypoints, got {told(mode)}")
        left, top, right, bottom = (self._each(side, on) for side in sides)
        self._translate(left, top)
        self._size(self.height + top + bottom, self.width + left + right, None)
        self._cut()

    def flip(self, axis: int, on: Bools) -> None:
        """Mirrors boxes at the edges and keypoints at the middle pixels."""
        size = (self.width, self.height)[axis]
        rows = on[self._box_of]
        low, high = self.corners[rows, axis], self.corners[rows, axis + 2]
        edges = size[self._box_of][rows]
        self.corners[rows, axis], self.corners[rows, axis + 2] = edges - high, edges - low
        rows = on[self._point_of]
        self.places[rows, axis] = size[self._point_of][rows] - 1 - self.places[rows, axis]

    def turn(self, quarters: Floats, on: Bools) -> None:
        """Turns by multiples of 90 degrees, against the clock."""
        rows = on & (quarters != 0)
        forward = tiled(self.n)
        zero = np.zeros(self.n)
        for k, (a, b, c, d, x, y) in enumerate(
            [
                (0, 1, -1, 0, zero, self.width),
                (-1, 0, 0, -1, self.width, self.height),
                (0, -1, 1, 0, self.height, zero),
            ],
            start=1,
        ):
            these = rows & (quarters == k)
            forward[these, :2, :2] = [[a, b], [c, d]]
            forward[these, 0, 2], forward[these, 1, 2] = x[these], y[these]
        odd = rows & (quarters % 2 == 1)
        self._move(forward, rows)
        self._size(np.where(odd, self.width, self.height), np.where(odd, self.height, self.width), None)
        self._cut()

    def warp(
        self,
        matrix: Floats,
        linear: bool,
        fill: Sequence[float] | None,
        on: Bools | None = None,
        size: tuple[Floats, Floats] | None = None,
    ) -> None:
        """Moves positions by the inverse of a map between pixels."""
        rows = np.ones(self.n, bool) if on is None else on
        half, back = tiled(1), tiled(1)
        half[:, :2, 2], back[:, :2, 2] = 0.5, -0.5
        self._move(half @ np.linalg.inv(np.where(rows[:, None, None], matrix, tiled(1))) @ back, rows)
        if size is not None:
            self._size(*size, on)
        self._cut()

    def resize(
        self, height: Number, width: Number, interpolation: str, antialias: bool, on: Bools | None = None
    ) -> None:
        """Scales positions."""
        down = self._each(height / self.height, on, 1.0)
        across = self._each(width / self.width, on, 1.0)
        self.corners *= np.stack([across, down, across, down], axis=1)[self._box_of]
        self.places *= np.stack([across, down], axis=1)[self._point_of]
        self._size(height, width, on)

    def op(
        self,
        kind: Number,
        a: Sequence[Number] = (),
        on: Bools | None = None,
        level: int | Ints = 0,
        values: Sequence[float] = (),
    ) -> None:
        """Does nothing: values of pixels move no position."""

    def mix(self, kind: str, on: Bools | None, **fields: Number) -> None:
        """Does nothing: Compose refuses boxes and keypoints where samples are mixed."""

    def boxes(self) -> Boxes:
        """Returns the boxes, without those that have left the image."""
        self._cut()
        low, high = self.corners[:, :2], self.corners[:, 2:]
        sides = high - low
        sizes = np.stack([self.width, self.height], axis=1)[self._box_of]
        whole = np.concatenate([sides >= 1, low >= 0, high >= 0, low <= sizes, high <= sizes], axis=1)
        kept: Bools = np.logical_and.reduce(whole, axis=1)
        flags = _split(kept, self._boxes, ())
        return Boxes(
            [box[flag] for box, flag in zip(_split(self.corners, self._boxes, (4,)), flags, strict=True)], flags
        )

    def keypoints(self) -> Keypoints:
        """Returns the keypoints."""
        sizes = np.stack([self.width, self.height], axis=1)[self._point_of]
        inside: Bools = np.logical_and.reduce((self.places >= 0) & (self.places < sizes), axis=1)
        return Keypoints(_split(self.places, self._points, (2,)), _split(inside, self._points, ()))

    def _each(self, value: Number, on: Bools | None, otherwise: float = 0.0) -> Floats:
        each: Floats = np.broadcast_to(np.asarray(value, np.float64), self.n)
        return each if on is None else np.where(on, each, otherwise)

    def _size(self, height: Number, width: Number, on: Bools | None) -> None:
        self.height = np.where(True if on is None else on, height, self.height)
        self.width = np.where(True if on is None else on, width, self.width)

    def _translate(self, x: Floats, y: Floats) -> None:
        shift = np.stack([x, y], axis=1)
        self.corners += np.concatenate([shift, shift], axis=1)[self._box_of]
        self.places += shift[self._point_of]

    def _move(self, forward: Floats, rows: Bools) -> None:
        these = rows[self._box_of]
        corners = self.corners[these][:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        moved = _through(forward[self._box_of[these]], corners)
        self.corners[these] = np.concatenate([moved.min(1), moved.max(1)], axis=1)
        these = rows[self._point_of]
        self.places[these] = _through(forward[self._point_of[these]], self.places[these][:, None])[:, 0]

    def _cut(self) -> None:
        sizes = np.stack([self.width, self.height], axis=1)[self._box_of]
        self.corners = np.clip(self.corners, 0, np.concatenate([sizes, sizes], axis=1))


def _through(matrix: Floats, points: Floats) -> Floats:
    """Moves points (k, m, 2), by one map each k."""
    moved = points @ matrix[:, :2, :2].transpose(0, 2, 1) + matrix[:, None, :2, 2]
    weight = points @ matrix[:, 2, :2, None] + matrix[:, 2, 2][:, None, None]
    through: Floats = moved / weight
    return through


def _flat(tensors: Tensors, width: int) -> tuple[Floats, Ints]:
    """Returns all rows one after another, and the sample of each."""
    arrays = [tensor.detach().cpu().double().reshape(-1, width).numpy() for tensor in tensors]
    counts = [len(array) for array in arrays]
    flat = np.concatenate(arrays) if arrays else np.zeros((0, width))
    return flat.copy(), np.repeat(np.arange(len(arrays)), counts)


def _check_range(places: torch.Tensor, dtype: torch.dtype) -> None:
    """Raises where an integer dtype does not hold a result."""
    if places.dtype == torch.bool or dtype.is_floating_point or not places.numel():
        return
    bounds = torch.iinfo(dtype)
    whole = places.trunc()[places.isfinite()]
    wrong = whole[(whole < bounds.min) | (whole > bounds.max)]
    if wrong.numel():
        raise ValueError(
            f"Compose: boxes and keypoints must have a dtype that holds the result {wrong[0]:g}, got {dtype}"
        )


def _split(flat: Array, like: Tensors, tail: tuple[int, ...]) -> Tensors:
    """Undoes `_flat`: the shapes of `like`, and its dtypes and devices unless these are flags."""
    split, start = [], 0
    for tensor in like:
        shape = (*tensor.shape[:-1], *tail)
        count = int(np.prod(tensor.shape[:-1]))
        part = torch.from_numpy(flat[start : start + count].reshape(shape).copy())
        _check_range(part, tensor.dtype)
        split.append(part.to(tensor.device, part.dtype if part.dtype == torch.bool else tensor.dtype))
        start += count
    return split
