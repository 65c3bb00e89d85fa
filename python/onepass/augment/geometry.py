"""RandomHorizontalFlip, RandomVerticalFlip, RandomRotation, RandomAffine and RandomPerspective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onepass import _native
from onepass.augment._arrays import Bools, Floats
from onepass.augment._checks import (
    check_between,
    check_finite,
    check_flag,
    check_sequence,
    to_angles,
    to_fill,
    to_interpolation,
)
from onepass.augment._maps import center_of, expanded, from_middles, inverse_affine, perspective, tiled
from onepass.augment._transform import (
    Canvas,
    Drawn,
    Geometry,
    RandomTransform,
    Transform,
    between,
    check_fill,
    chosen,
)
from onepass.augment.crops import positive_pair

__all__ = [
    "RandomAffine",
    "RandomHorizontalFlip",
    "RandomPerspective",
    "RandomRotation",
    "RandomVerticalFlip",
    "rotate",
]


class RandomHorizontalFlip(RandomTransform):
    """Mirrors images from left to right with probability p.

    Args:
        p: The probability, from 0 to 1.

    Raises:
        TypeError: p is no number.
        ValueError: p is not in [0, 1].

    Convention: pixel x becomes width - 1 - x; no value changes. Boxes mirror at the edges, x to width - x.

    Differs from torch: each sample has its own draw.

    Source: torchvision.transforms.v2.RandomHorizontalFlip.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> A.Compose([A.RandomHorizontalFlip(p=1.0)], seed=0)(torch.tensor([[[[1.0], [2.0]]]]))
        tensor([[[[2., 1.]]]])
    """

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        return {"applied": self._applied(u)}

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        plan.flip(0, chosen(drawn["applied"], on))


class RandomVerticalFlip(RandomTransform):
    """Turns images upside down with probability p.

    Args:
        p: The probability, from 0 to 1.

    Raises:
        TypeError: p is no number.
        ValueError: p is not in [0, 1].

    Convention: pixel y becomes height - 1 - y; no value changes. Boxes mirror at the edges, y to height - y.

    Differs from torch: each sample has its own draw.

    Source: torchvision.transforms.v2.RandomVerticalFlip.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> A.Compose([A.RandomVerticalFlip(p=1.0)], seed=0)(torch.tensor([[[[1.0]], [[2.0]]]]))
        tensor([[[[2.],
                  [1.]]]])
    """

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        return {"applied": self._applied(u)}

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        plan.flip(1, chosen(drawn["applied"], on))


class RandomRotation(Transform):
    """Rotates images by a random angle.

    Args:
        degrees: Least and greatest angle in degrees; one number d stands for (-d, d). Positive is against the
            clock.
        interpolation: ``"nearest"`` or ``"bilinear"``.
        expand: Whether the output grows until it holds the whole rotated image. Sizes then differ between samples,
            so that a transform that gives them one size must follow.
        center: (x, y) of the fixed point, from the corner of the image in pixels; None for its middle.
        fill: What stands outside of the image, as in `Pad`; None blends with 0.

    Raises:
        TypeError: An argument has another type.
        ValueError: degrees is one negative number or not in order; the interpolation is another one.

    Parameters: angle, uniform.

    Convention: the middle is pixel ((W - 1) / 2, (H - 1) / 2). Pixels are sampled at their centres (half-pixel
    grid, align_corners=False). Outside of the image there is fill; bilinear blends it in at the edge, m * (v -
    fill) + fill with the coverage m. Multiples of 90 degrees (90 and 270 of square images, or with expand) move
    pixels and change no value.

    Differs from torch: each sample has its own angle. Results are rounded only where they are stored. ``expand``
    puts the middle of the image in the middle of the output for boxes, too.

    Source: torchvision.transforms.v2.RandomRotation.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> image = torch.tensor([[[[1.0], [2.0]], [[3.0], [4.0]]]])
        >>> A.Compose([A.RandomRotation((90, 90))], seed=0)(image)
        tensor([[[[2., 4.],
                  [1., 3.]]]])
    """

    words = 1

    def __init__(
        self,
        degrees: float | Sequence[float],
        interpolation: Any = "nearest",
        expand: bool = False,
        center: Sequence[float] | None = None,
        fill: Any = 0,
    ) -> None:
        self.degrees = to_angles("RandomRotation", "degrees", degrees)
        self.interpolation = to_interpolation("RandomRotation", interpolation)
        self.expand = check_flag("RandomRotation", "expand", expand)
        self.center = to_center("RandomRotation", center)
        self.fill = fill
        self._fill = to_fill("RandomRotation", fill)

    def _check(self, channels: int) -> None:
        check_fill("RandomRotation", self._fill, channels)

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        return {"angle": between(u[:, 0], *self.degrees)}

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        rotate(plan, drawn["angle"], self.interpolation, self._fill, on, self.expand, self.center)


def to_center(name: str, value: Any) -> tuple[float, float] | None:
    """Returns (x, y), or None."""
    if value is None:
        return None
    x, y = (check_finite(name, "center", one) for one in check_sequence(name, "center", value, (2,)))
    return x, y


def rotate(
    plan: Geometry,
    angle: Floats,
    interpolation: str,
    fill: Sequence[float] | None,
    on: Bools | None,
    expand: bool = False,
    center: tuple[float, float] | None = None,
) -> None:
    """Plans a rotation against the clock; multiples of 90 degrees turn pixels without sampling."""
    height, width = plan.height, plan.width
    if center is None:
        clockwise, exact, on = _native.core.augment_turns(angle, height, width, expand, on)
        if exact is not None:
            plan.turn(clockwise / -90, exact)
            height, width = plan.height, plan.width
    else:
        clockwise = -(angle % 360)
    if on is not None and not on.any():
        return
    matrix = inverse_affine(center_of(center, plan), clockwise)
    size = expanded(matrix, plan) if expand else None
    from_middles(matrix, height, width, *(size or (height, width)))
    plan.warp(matrix, interpolation == "bilinear", fill, on, size)


def affine(
    plan: Geometry,
    angle: Floats,
    translate: tuple[Floats, Floats],
    scale: Floats,
    shear: tuple[Floats, Floats],
    interpolation: str,
    fill: Sequence[float] | None,
    on: Bools | None,
    center: tuple[float, float] | None = None,
) -> None:
    """Plans a rotation with the clock, a scale, shears and a translation."""
    matrix = inverse_affine(center_of(center, plan), angle, translate, scale, shear)
    height, width = plan.height, plan.width
    from_middles(matrix, height, width, height, width)
    plan.warp(matrix, interpolation == "bilinear", fill, on)


class RandomAffine(Transform):
    """Rotates, moves, scales and shears images at random.

    Args:
        degrees: Least and greatest angle in degrees; one number d stands for (-d, d). Positive is with the clock.
        translate: Greatest shift as a share of width and of height, each 0 to 1; None for none.
        scale: Least and greatest factor, both positive; None for 1.
        shear: Angles in degrees: one number for (-shear, shear) along x, two for a range along x, four for a range
            along x and one along y; None for none.
        interpolation: ``"nearest"`` or ``"bilinear"``.
        fill: What stands outside of the image, as in `RandomRotation`.
        center: (x, y) of the fixed point, from the corner of the image in pixels; None for its middle.

    Raises:
        TypeError: An argument has another type.
        ValueError: A range is not in order, a share not in [0, 1], or a factor not positive; the interpolation is
            another one.

    Parameters: angle, translate_x and translate_y (pixels, rounded), scale, shear_x, shear_y; uniform.

    Convention: the forward map is T * C * R(angle) * S(scale) * SHy * SHx * C^-1, with the centre, the grid and
    the border of `RandomRotation`. A whole translation by itself changes no value.

    Differs from torch: each sample has its own parameters. Results are rounded only where they are stored.

    Source: torchvision.transforms.v2.RandomAffine.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> train = A.Compose([A.RandomAffine(10, translate=(0.1, 0.1), scale=(0.9, 1.1))], seed=0)
        >>> train.parameters([7])["0.RandomAffine.angle"].round(2)
        array([3.18])
    """

    words = 6

    def __init__(
        self,
        degrees: float | Sequence[float],
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        interpolation: Any = "nearest",
        fill: Any = 0,
        center: Sequence[float] | None = None,
    ) -> None:
        name = "RandomAffine"
        self.degrees = to_angles(name, "degrees", degrees)
        self.translate = None if translate is None else to_shares(name, "translate", translate)
        self.scale = None if scale is None else positive_pair(name, "scale", scale)
        self.shear = None if shear is None else to_angles(name, "shear", shear, (2, 4))
        self.interpolation = to_interpolation(name, interpolation)
        self.fill = fill
        self._fill = to_fill(name, fill)
        self.center = to_center(name, center)

    def _check(self, channels: int) -> None:
        check_fill("RandomAffine", self._fill, channels)

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        most = self.translate or (0.0, 0.0)
        scale = self.scale or (1.0, 1.0)
        shear = (*(self.shear or (0.0, 0.0)), 0.0, 0.0)
        return {
            "angle": between(u[:, 0], self.degrees[0], self.degrees[1]),
            "translate_x": np.rint(most[0] * canvas.width * (2 * u[:, 1] - 1)),
            "translate_y": np.rint(most[1] * canvas.height * (2 * u[:, 2] - 1)),
            "scale": between(u[:, 3], *scale),
            "shear_x": between(u[:, 4], shear[0], shear[1]),
            "shear_y": between(u[:, 5], shear[2], shear[3]),
        }

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        translate = drawn["translate_x"], drawn["translate_y"]
        shear = drawn["shear_x"], drawn["shear_y"]
        way = self.interpolation, self._fill, on, self.center
        affine(plan, drawn["angle"], translate, drawn["scale"], shear, *way)


def to_shares(name: str, argument: str, value: Any) -> tuple[float, float]:
    """Returns two numbers, each 0 to 1."""
    x, y = (check_between(name, argument, one, 0, 1) for one in check_sequence(name, argument, value, (2,)))
    return x, y


class RandomPerspective(RandomTransform):
    """Moves the corners of images inwards at random, with probability p.

    Args:
        distortion_scale: How far corners move: up to this share of half the image, 0 to 1.
        p: The probability, from 0 to 1.
        interpolation: ``"nearest"`` or ``"bilinear"``.
        fill: What stands outside of the image, as in `RandomRotation`.

    Raises:
        TypeError: An argument has another type.
        ValueError: distortion_scale or p is not in [0, 1]; the interpolation is another one. At a call: the image
            is so small that corners fall together.

    Parameters: applied, and x and y of the corners of the output in pixels, from the top left one with the clock;
    uniform over the int(distortion_scale * (size // 2)) + 1 pixels at each corner.

    Convention: the map takes the drawn corners to pixels 0 and size - 1, in coordinates whose origin is the corner
    of the image, as torchvision's does. Grid and border are those of `RandomRotation`.

    Differs from torch: each sample has its own corners. The map is made in float64; torchvision rounds its
    coefficients to float32. Results are rounded only where they are stored.

    Source: torchvision.transforms.v2.RandomPerspective.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> train = A.Compose([A.RandomPerspective(0.5, p=1.0)], seed=0)
        >>> train(torch.zeros(2, 8, 8, 3, dtype=torch.uint8)).shape
        torch.Size([2, 3, 8, 8])
    """

    words = 9

    def __init__(
        self, distortion_scale: float = 0.5, p: float = 0.5, interpolation: Any = "bilinear", fill: Any = 0
    ) -> None:
        super().__init__(p)
        self.distortion_scale = check_between("RandomPerspective", "distortion_scale", distortion_scale, 0, 1)
        self.interpolation = to_interpolation("RandomPerspective", interpolation)
        self.fill = fill
        self._fill = to_fill("RandomPerspective", fill)

    def _check(self, channels: int) -> None:
        check_fill("RandomPerspective", self._fill, channels)

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        drawn = {"applied": self._applied(u)}
        across = np.floor(self.distortion_scale * (canvas.width // 2)) + 1
        down = np.floor(self.distortion_scale * (canvas.height // 2)) + 1
        for k, (right, low) in enumerate(((0, 0), (1, 0), (1, 1), (0, 1))):
            drawn[f"x{k}"] = right * (canvas.width - across) + np.floor(u[:, 1 + 2 * k] * across)
            drawn[f"y{k}"] = low * (canvas.height - down) + np.floor(u[:, 2 + 2 * k] * down)
        return drawn

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        rows = chosen(drawn["applied"], on)
        if not rows.any():
            return
        matrix = tiled(plan.n)
        corners = np.stack([drawn[f"{axis}{k}"] for k in range(4) for axis in "xy"], axis=1).reshape(-1, 4, 2)
        try:
            matrix[rows] = perspective(corners[rows], plan.width[rows], plan.height[rows])
        except np.linalg.LinAlgError:
            smallest = plan.height[rows].min(), plan.width[rows].min()
            raise ValueError(
                "RandomPerspective: images must be so large that no drawn corners fall together, got height "
                f"{smallest[0]:.0f} and width {smallest[1]:.0f} with distortion_scale={self.distortion_scale:g}"
            ) from None
        plan.warp(matrix, self.interpolation == "bilinear", self._fill, rows)
