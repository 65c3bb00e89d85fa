"""Makes the maps of rotations, affine maps and perspectives, for a batch, in float64."""

from __future__ import annotations

import numpy as np

from onepass import _native
from onepass.augment._arrays import Floats, Number
from onepass.augment._transform import Canvas

__all__ = ["center_of", "expanded", "from_middles", "inverse_affine", "perspective", "tiled"]


def tiled(n: int) -> Floats:
    """Returns n identities, (n, 3, 3)."""
    maps = np.zeros((n, 3, 3))
    maps[:, 0, 0] = maps[:, 1, 1] = maps[:, 2, 2] = 1.0
    return maps


def center_of(center: tuple[float, float] | None, canvas: Canvas) -> tuple[Number, Number]:
    """Returns the fixed point as an offset from the middle of each image."""
    if center is None:
        return 0.0, 0.0
    return center[0] - canvas.width * 0.5, center[1] - canvas.height * 0.5


def inverse_affine(
    center: tuple[Number, Number],
    angle: Floats,
    translate: tuple[Number, Number] = (0.0, 0.0),
    scale: Number = 1.0,
    shear: tuple[Number, Number] = (0.0, 0.0),
) -> Floats:
    """Inverts T * C * R(angle) * S(scale) * SHy * SHx * C^-1, (n, 3, 3); angles are in degrees, with the clock.

    Positions are offsets from the middle of the image. Multiples of 90 degrees are exact.
    """
    radians = np.radians(angle)
    tangents = (np.tan(np.radians(one)) for one in shear)
    matrix: Floats = _native.core.augment_inverse_affine(
        angle, np.cos(radians), np.sin(radians), *tangents, scale, *center, *translate
    )
    return matrix


def from_middles(matrix: Floats, height: Number, width: Number, new_height: Number, new_width: Number) -> None:
    """Makes a map between pixel indices of one between offsets from the middles of two images, in its place."""
    _native.core.augment_from_middles(matrix, height, width, new_height, new_width)


def expanded(matrix: Floats, canvas: Canvas) -> tuple[Floats, Floats]:
    """Returns height and width that hold a whole rotated image; as torchvision, to a ten thousandth of a pixel."""
    signs = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]])
    sizes = np.stack([canvas.width, canvas.height], axis=1)
    corners = signs[None] * sizes[:, None]
    moved = corners @ matrix[:, :2, :2].transpose(0, 2, 1) + matrix[:, None, :2, 2] + sizes[:, None] / 2
    high, low = np.trunc(moved.max(1) * 1e4) * 1e-4, np.trunc(moved.min(1) * 1e4) * 1e-4
    width, height = (np.ceil(high) - np.floor(low)).T
    return height, width


def perspective(corners: Floats, width: Floats, height: Floats) -> Floats:
    """Returns the maps that take four corners of the output to those of the image, (n, 3, 3), in pixel indices.

    The eight coefficients solve the equations of corners and pixels 0 and size - 1, in coordinates from the corner
    of the image: the map of a pixel adds its half and takes it away again.
    """
    n = len(corners)
    zero = np.zeros(n)
    targets = np.stack(
        [
            np.stack([zero, zero], 1),
            np.stack([width - 1, zero], 1),
            np.stack([width - 1, height - 1], 1),
            np.stack([zero, height - 1], 1),
        ],
        axis=1,
    )
    system = np.zeros((n, 8, 8))
    system[:, 0::2, 0:2], system[:, 0::2, 2] = corners, 1.0
    system[:, 1::2, 3:5], system[:, 1::2, 5] = corners, 1.0
    system[:, 0::2, 6:8] = -targets[:, :, :1] * corners
    system[:, 1::2, 6:8] = -targets[:, :, 1:] * corners
    matrix = np.ones((n, 9))
    matrix[:, :8] = np.linalg.solve(system, targets.reshape(n, 8, 1))[:, :, 0]
    half, back = tiled(1), tiled(1)
    half[:, :2, 2], back[:, :2, 2] = 0.5, -0.5
    return back @ matrix.reshape(n, 3, 3) @ half
