"""RandomCrop and RandomResizedCrop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onepass._arguments import told
from onepass.augment._arrays import Bools, Floats, Number
from onepass.augment._checks import check_flag, to_fill, to_interpolation, to_mode, to_pair, to_sides, to_size
from onepass.augment._transform import Canvas, Drawn, Geometry, Transform, check_fill, places
from onepass.augment.sizes import FILTERS, SIDES, check_mode_fill, check_padding, scale

__all__ = ["TRIES", "RandomCrop", "RandomResizedCrop", "log_uniform"]

TRIES = 10
"""How often a box is drawn until it fits."""


class RandomCrop(Transform):
    """Takes a part of images at a random place, after padding.

    Args:
        size: (height, width), or one integer for both.
        padding: One integer for all sides, two for (left and right, top and bottom), or four for (left, top,
            right, bottom); None for none.
        pad_if_needed: Whether an image that is too small is padded, by what is missing on either side.
        fill: What a constant padding has, as in `Pad`.
        padding_mode: ``"constant"``, ``"edge"``, ``"reflect"`` or ``"symmetric"``, as in `Pad`.

    Raises:
        TypeError: An argument has another type.
        ValueError: A size is below 1, or a padding negative; the mode is another one. At a call: the crop is
            larger than the image with its padding.

    Parameters: top and left, uniform over all places; of the padded image.

    Convention: no value changes.

    Differs from torch: each sample has its own place.

    Source: torchvision.transforms.v2.RandomCrop.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> train = A.Compose([A.RandomCrop(32, padding=4)], seed=0)
        >>> train(torch.zeros(8, 32, 32, 3, dtype=torch.uint8)).shape
        torch.Size([8, 3, 32, 32])
    """

    sizing = True
    words = 2

    def __init__(
        self,
        size: int | Sequence[int],
        padding: int | Sequence[int] | None = None,
        pad_if_needed: bool = False,
        fill: Any = 0,
        padding_mode: str = "constant",
    ) -> None:
        self.size = to_size("RandomCrop", size)
        self.padding = padding
        self._sides = (0, 0, 0, 0) if padding is None else to_sides("RandomCrop", padding)
        self._pads = tuple(map(float, self._sides))
        self.pad_if_needed = check_flag("RandomCrop", "pad_if_needed", pad_if_needed)
        self.fill = fill
        self._fill = to_fill("RandomCrop", fill) or (0.0,)
        self.padding_mode = to_mode("RandomCrop", padding_mode)
        check_mode_fill("RandomCrop", padding_mode, self._fill)

    def _check(self, channels: int) -> None:
        check_fill("RandomCrop", self._fill, channels)

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        left, top, right, bottom = self._sides
        height, width, drawn = canvas.height, canvas.width, {}
        # The part of the image without its padding.
        part_y, part_x = self.size[0] - top - bottom, self.size[1] - left - right
        least_y, least_x = canvas.least
        if self.pad_if_needed:
            more_y, more_x = np.maximum(part_y - height, 0), np.maximum(part_x - width, 0)
            height, width = height + 2 * more_y, width + 2 * more_x
            for side, own, more in zip(SIDES, self._sides, (more_x, more_y, more_x, more_y), strict=True):
                drawn[f"pad_{side}"] = own + more
        elif least_y < part_y or least_x < part_x:
            k = int(np.argmax((height < part_y) | (width < part_x)))
            raise ValueError(
                f"RandomCrop: size must be at most that of the image with its padding, "
                f"({height[k] + top + bottom:.0f}, {width[k] + left + right:.0f}), got {self.size}"
            )
        drawn["top"], drawn["left"] = places(u[:, 0], height, part_y), places(u[:, 1], width, part_x)
        return drawn

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        sides: Sequence[Number] = self._pads
        if self.pad_if_needed:
            sides = [drawn[f"pad_{side}"] for side in SIDES]
        if self.pad_if_needed or self.padding is not None:
            check_padding("RandomCrop", sides, self.padding_mode, plan, on)
            plan.pad(sides, self.padding_mode, self._fill, on)
        plan.crop(drawn["top"], drawn["left"], float(self.size[0]), float(self.size[1]), on)


class RandomResizedCrop(Transform):
    """Takes a part of random area and aspect ratio, and scales it to a size.

    Args:
        size: (height, width), or one integer for both.
        scale: Least and greatest area of the part, as a share of the image's.
        ratio: Least and greatest width / height of the part.
        interpolation: ``"nearest"``, ``"nearest-exact"``, ``"bilinear"`` or ``"bicubic"``.
        antialias: As in `Resize`.

    Raises:
        TypeError: An argument has another type.
        ValueError: A size is below 1; a range is not in order or not positive; the interpolation is another one.

    Parameters: top, left, height, width. Ten times an area (uniform) and a ratio (log-uniform) are drawn; the
    first part with sides round(sqrt(area * ratio)) and round(sqrt(area / ratio)), ties to even, that fits is taken
    at a uniform place. If none fits, the largest part in the middle that keeps to the ratios is taken.

    Convention: no pixel outside of the part contributes, unless a map such as a rotation comes before a part that
    grows: both are one map then, which goes on for half a pixel at the edges. The rest is as in `Resize`.

    Differs from torch: each sample has its own part. A part that grows is fused with the maps that follow, where
    torchvision samples once more.

    Source: torchvision.transforms.v2.RandomResizedCrop; Szegedy et al. 2015.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> train = A.Compose([A.RandomResizedCrop(16)], seed=0)
        >>> train(torch.zeros(8, 40, 50, 3, dtype=torch.uint8)).shape
        torch.Size([8, 3, 16, 16])
    """

    sizing = True
    words = 2 * TRIES + 2

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3.0 / 4.0, 4.0 / 3.0),
        interpolation: Any = "bilinear",
        antialias: bool | None = True,
    ) -> None:
        self.size = to_size("RandomResizedCrop", size)
        self.scale = to_pair("RandomResizedCrop", "scale", scale, 0)
        self.ratio = positive_pair("RandomResizedCrop", "ratio", ratio)
        self.interpolation = to_interpolation("RandomResizedCrop", interpolation, FILTERS)
        self.antialias = None if antialias is None else check_flag("RandomResizedCrop", "antialias", antialias)

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        full_height, full_width = canvas.height, canvas.width
        area = (full_height * full_width)[:, None] * (
            self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, :TRIES]
        )
        ratio = log_uniform(u[:, TRIES : 2 * TRIES], self.ratio)
        width, height = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (width > 0) & (height > 0) & (width <= full_width[:, None]) & (height <= full_height[:, None])
        first = fits.argmax(1)
        rows = np.arange(canvas.n)
        height, width, found = height[rows, first], width[rows, first], fits[rows, first]
        if not found.all():
            middle_height, middle_width = self._middle(full_height, full_width)
            height, width = np.where(found, height, middle_height), np.where(found, width, middle_width)
        spare_y, spare_x = full_height - height, full_width - width
        top, left = np.floor(u[:, -2] * (spare_y + 1)), np.floor(u[:, -1] * (spare_x + 1))
        if not found.all():
            top, left = np.where(found, top, spare_y // 2), np.where(found, left, spare_x // 2)
        return {"top": top, "left": left, "height": height, "width": width}

    def _middle(self, height: Floats, width: Floats) -> tuple[Floats, Floats]:
        """Returns the sides of the largest part that keeps to the ratios."""
        own, (least, greatest) = width / height, self.ratio
        middle_height = np.where(own < least, np.rint(width / least), height)
        middle_width = np.where(own > greatest, np.rint(height * greatest), width)
        return np.maximum(middle_height, 1), np.maximum(middle_width, 1)

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        plan.crop(drawn["top"], drawn["left"], drawn["height"], drawn["width"], on)
        height, width = self.size
        scale(plan, float(height), float(width), self.interpolation, bool(self.antialias), on)


def positive_pair(name: str, argument: str, value: Any) -> tuple[float, float]:
    """Returns (least, greatest), both above 0."""
    least, greatest = to_pair(name, argument, value)
    if least <= 0:
        raise ValueError(f"{name}: {argument} must be positive, got {told(value)}")
    return least, greatest


def log_uniform(u: Floats, bounds: tuple[float, float]) -> Floats:
    """Draws numbers whose logarithm is uniform."""
    low, high = np.log(bounds[0]), np.log(bounds[1])
    drawn: Floats = np.exp(np.ascontiguousarray(low + (high - low) * u))
    return drawn
