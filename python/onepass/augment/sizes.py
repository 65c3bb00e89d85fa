"""Resize, CenterCrop and Pad: transforms that give images another size, alike for all samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onepass.augment._arrays import Bools, Floats, Number
from onepass.augment._checks import check_count, check_flag, to_fill, to_interpolation, to_mode, to_sides, to_size
from onepass.augment._records import OPS
from onepass.augment._transform import Canvas, Drawn, Geometry, Transform, check_fill

__all__ = ["FILTERS", "CenterCrop", "Pad", "Resize", "check_padding"]

FILTERS = ("nearest", "nearest-exact", "bilinear", "bicubic")
"""Interpolations of resize."""


class Resize(Transform):
    """Scales images to a size.

    Args:
        size: (height, width); or one integer, or a sequence of one, for the shorter side, where the longer one
            becomes int(size * long / short); or None, where max_size gives the longer side.
        interpolation: ``"nearest"``, ``"nearest-exact"``, ``"bilinear"`` or ``"bicubic"``.
        max_size: The most that the longer side may become; only with one integer or None as size.
        antialias: Whether a bilinear or bicubic filter that reduces covers all pixels that it passes over; None
            counts as False.

    Raises:
        TypeError: An argument has another type.
        ValueError: A size is below 1; max_size comes with (height, width), or does not exceed size; size and
            max_size are both None; the interpolation is another one.

    Convention: pixel i of the output has its centre at (i + 0.5) * scale - 0.5 of the input, scale = input size /
    output size, height and width each. Filters are cut at the edges of the image and their weights normalised.
    ``"nearest"`` takes pixel floor(i * scale), ``"nearest-exact"`` floor((i + 0.5) * scale). Bicubic has a = -0.5
    with antialias, -0.75 without. Results are rounded only where they are stored, to nearest, ties to even; those
    of bicubic on uint8 images are first limited to 0 .. 255. An image that has the size already is not changed.

    Differs from torch: torchvision rounds uint8 images to uint8 after the resize, on CPUs with AVX2 after each of
    its two directions; the result is at most 1 apart, but for bicubic where it overshoots 0 .. 255 between them.
    It also knows ``"lanczos"``.

    Source: torchvision.transforms.v2.Resize; torch.nn.functional.interpolate.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> train = A.Compose([A.Resize(4), A.CenterCrop(4)], train=False)
        >>> train(torch.zeros(2, 8, 12, 3, dtype=torch.uint8)).shape
        torch.Size([2, 3, 4, 4])
    """

    random = False

    def __init__(
        self,
        size: int | Sequence[int] | None,
        interpolation: Any = "bilinear",
        max_size: int | None = None,
        antialias: bool | None = True,
    ) -> None:
        if size is None and max_size is None:
            raise ValueError("Resize: max_size must be an integer if size is None, got None")
        self.size = size
        self._size = None if size is None else to_size("Resize", size)
        self._short = size is not None and (not isinstance(size, Sequence) or len(size) == 1)
        self.interpolation = to_interpolation("Resize", interpolation, FILTERS)
        self.max_size = None if max_size is None else check_count("Resize", "max_size", max_size, 1)
        if max_size is not None and self._size is not None:
            if not self._short:
                raise ValueError(f"Resize: max_size must be None if size is (height, width), got {max_size}")
            if max_size <= self._size[0]:
                raise ValueError(f"Resize: max_size must exceed size, {self._size[0]}, got {max_size}")
        self.antialias = None if antialias is None else check_flag("Resize", "antialias", antialias)

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        height, width = canvas.height, canvas.width
        if self._size is not None and not self._short:
            return {
                "height": np.full(canvas.n, float(self._size[0])),
                "width": np.full(canvas.n, float(self._size[1])),
            }
        short, long = np.minimum(height, width), np.maximum(height, width)
        if self._size is None:
            assert self.max_size is not None
            new_short, new_long = np.floor(self.max_size * short / long), np.full(canvas.n, float(self.max_size))
        else:
            new_short = np.full(canvas.n, float(self._size[0]))
            new_long = np.floor(self._size[0] * long / short)
            if self.max_size is not None:
                over = new_long > self.max_size
                new_short = np.where(over, np.floor(self.max_size * new_short / new_long), new_short)
                new_long = np.where(over, float(self.max_size), new_long)
        tall = width <= height
        sides = {"height": np.where(tall, new_long, new_short), "width": np.where(tall, new_short, new_long)}
        if (new_short < 1).any():
            raise ValueError(
                f"Resize: the shorter side must become at least 1, got 0 with max_size={self.max_size}"
            )
        return sides

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        scale(plan, drawn["height"], drawn["width"], self.interpolation, bool(self.antialias), on)


def scale(
    plan: Geometry, height: Number, width: Number, interpolation: str, antialias: bool, on: Bools | None
) -> None:
    """Plans a resize; bicubic overshoots, which uint8 images cannot show."""
    plan.resize(height, width, interpolation, antialias, on)
    if interpolation == "bicubic" and plan.unit != 1.0:
        plan.op(OPS["clamp"], (0.0, 1.0), on)


class CenterCrop(Transform):
    """Takes the middle of images, after padding with 0 where they are smaller.

    Args:
        size: (height, width), or one integer for both.

    Raises:
        TypeError: size is no integer and no sequence.
        ValueError: A size is below 1, or there are more than two.

    Convention: the first row is round((height - size) / 2), ties to even; columns likewise. Padding puts
    (size - height) // 2 rows above, the rest below. No value changes.

    Differs from torch: boxes and keypoints follow the pixels of small images. torchvision moves them one pixel too
    far where an odd number of rows or columns is added.

    Source: torchvision.transforms.v2.CenterCrop.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> image = torch.arange(9.0).reshape(1, 3, 3, 1)
        >>> A.Compose([A.CenterCrop(1)], train=False)(image)
        tensor([[[[4.]]]])
    """

    random = False

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = to_size("CenterCrop", size)

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        crop_height, crop_width = self.size
        height, width = np.maximum(canvas.height, crop_height), np.maximum(canvas.width, crop_width)
        missing_y, missing_x = height - canvas.height, width - canvas.width
        return {
            "pad_left": missing_x // 2,
            "pad_top": missing_y // 2,
            "pad_right": (missing_x + 1) // 2,
            "pad_bottom": (missing_y + 1) // 2,
            "top": np.rint((height - crop_height) / 2),
            "left": np.rint((width - crop_width) / 2),
        }

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        plan.pad([drawn[f"pad_{side}"] for side in SIDES], "constant", (0.0,), on)
        plan.crop(drawn["top"], drawn["left"], float(self.size[0]), float(self.size[1]), on)


SIDES = ("left", "top", "right", "bottom")


class Pad(Transform):
    """Adds pixels at the edges of images.

    Args:
        padding: One integer for all sides, two for (left and right, top and bottom), or four for (left, top,
            right, bottom).
        fill: What a constant padding has: a number, or one for each channel, in units of the image at this place
            of the chain (0 .. 255 for uint8 images before ToDtype and Normalize); None is 0.
        padding_mode: ``"constant"``; ``"edge"`` repeats the last pixel; ``"reflect"`` mirrors without repeating
            it; ``"symmetric"`` mirrors and repeats it.

    Raises:
        TypeError: An argument has another type.
        ValueError: A padding is negative; the mode is another one; fill has more than one number in another mode.
            At a call: a reflection is longer than the image.

    Convention: pixels of the image do not change. Masks get the first number of fill.

    Differs from torch: negative paddings are refused, and fill is no dict.

    Source: torchvision.transforms.v2.Pad.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> A.Compose([A.Pad((1, 0), padding_mode="edge")], train=False)(torch.tensor([[[[1.0], [2.0]]]]))
        tensor([[[[1., 1., 2., 2.]]]])
    """

    random = False

    def __init__(self, padding: int | Sequence[int], fill: Any = 0, padding_mode: str = "constant") -> None:
        self.padding = padding
        self._sides = to_sides("Pad", padding)
        self.fill = fill
        self._fill = to_fill("Pad", fill) or (0.0,)
        self.padding_mode = to_mode("Pad", padding_mode)
        check_mode_fill("Pad", padding_mode, self._fill)

    def _check(self, channels: int) -> None:
        check_fill("Pad", self._fill, channels)

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        check_padding("Pad", self._sides, self.padding_mode, plan, on)
        plan.pad([float(side) for side in self._sides], self.padding_mode, self._fill, on)


def check_mode_fill(name: str, mode: str, fill: tuple[float, ...]) -> None:
    """Raises where a mode has no use for a fill of several numbers, as torchvision does."""
    if mode != "constant" and len(fill) > 1:
        raise ValueError(f"{name}: fill must be one number with padding_mode={mode!r}, got {len(fill)} numbers")


def check_padding(name: str, sides: Sequence[Number], mode: str, canvas: Canvas, on: Bools | None) -> None:
    """Raises where a reflection would need more pixels than the image has."""
    if mode not in ("reflect", "symmetric"):
        return
    for first, last, size, what in ((0, 2, canvas.width, "width"), (1, 3, canvas.height, "height")):
        most = size - (mode == "reflect")
        side = np.maximum(sides[first], sides[last])
        over = (side > most) if on is None else (side > most) & on
        if np.any(over):
            k = int(np.argmax(over))
            raise ValueError(
                f"{name}: padding must be at most {most[k]:.0f} with padding_mode={mode!r} and images of {what} "
                f"{size[k]:.0f}, got {np.broadcast_to(side, canvas.n)[k]:.0f}"
            )
