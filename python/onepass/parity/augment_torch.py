"""The formulas of torchvision's transforms in torch's operations, in any float dtype: the reference of `augment`.

Maps go from pixels (x, y, 1) of the output to pixels of the input, whose centres are whole numbers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "affine_map",
    "brightness",
    "compose_warps",
    "contrast",
    "grey",
    "hue",
    "posterize",
    "saturation",
    "solarize",
    "warp",
]

_GREY = (0.2989, 0.587, 0.114)
Size = tuple[int, int]


def affine_map(size: Size, angle: float, scale: float = 1.0, shear: float = 0.0) -> Tensor:
    """Makes torchvision's inverse map of an affine transform about the centre.

    Args:
        size: Height and width of the image.
        angle: In degrees, clockwise.
        scale: By how much the image grows.
        shear: Along x, in degrees.
    """
    turn, slant = math.radians(angle), math.tan(math.radians(shear))
    a, b = math.cos(turn), -math.cos(turn) * slant - math.sin(turn)
    c, d = math.sin(turn), -math.sin(turn) * slant + math.cos(turn)
    inverse = torch.tensor([[d, -b, 0.0], [-c, a, 0.0], [0.0, 0.0, scale]], dtype=torch.float64) / scale
    centre = torch.eye(3, dtype=torch.float64)
    centre[0, 2], centre[1, 2] = (size[1] - 1) / 2, (size[0] - 1) / 2
    found: Tensor = centre @ inverse @ torch.linalg.inv(centre)
    return found


def warp(x: Tensor, matrix: Tensor) -> Tensor:
    """Samples bilinearly in the dtype of x, and fills with 0 as torchvision does: mask * sample.

    Args:
        x: (n, c, h, w).
        matrix: The map, float64.
    """
    grid = _grid(matrix, _size(x), _size(x), x.dtype)
    inside = _sample(torch.ones_like(x[:1, :1]), grid)
    return inside * _sample(x, grid)


def compose_warps(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Samples once by the product of two maps, with the masks of both.

    Args:
        x: (n, c, h, w).
        first: The map of the warp that comes first.
        second: The map of the other.
    """
    size = _size(x)
    ones = torch.ones_like(x[:1, :1])
    outer = _sample(ones, _grid(second, size, size, x.dtype))
    grid = _grid(first @ second, size, size, x.dtype)
    return outer * outer * _sample(ones, grid) * _sample(x, grid)


def _size(x: Tensor) -> Size:
    return x.shape[-2], x.shape[-1]


def _grid(matrix: Tensor, source: Size, target: Size, dtype: torch.dtype) -> Tensor:
    rows, columns = torch.meshgrid(
        torch.arange(target[0], dtype=dtype), torch.arange(target[1], dtype=dtype), indexing="ij"
    )
    places = torch.stack([columns, rows, torch.ones_like(rows)], -1) @ matrix.T.to(dtype)
    unit = torch.tensor([2 / source[1], 2 / source[0]], dtype=dtype)
    return (places[..., :2] / places[..., 2:] * unit + (unit / 2 - 1))[None]


def _sample(x: Tensor, grid: Tensor) -> Tensor:
    grid = grid.expand(len(x), -1, -1, -1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def grey(x: Tensor) -> Tensor:
    """Computes the grey of (n, 3, h, w) in one channel."""
    red, green, blue = x.unbind(1)
    return (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue)[:, None]


def brightness(x: Tensor, factor: float) -> Tensor:
    """Multiplies, and clamps to 0 .. 1."""
    return (x * factor).clamp(0, 1)


def contrast(x: Tensor, factor: float) -> Tensor:
    """Blends with the mean of grey."""
    return _blend(x, grey(x).mean((1, 2, 3), keepdim=True), factor)


def saturation(x: Tensor, factor: float) -> Tensor:
    """Blends with grey."""
    return _blend(x, grey(x), factor)


def _blend(x: Tensor, other: Tensor, factor: float) -> Tensor:
    return (x * factor + other * (1 - factor)).clamp(0, 1)


def hue(x: Tensor, shift: float) -> Tensor:
    """Turns the hue of red, green and blue by a share of the circle."""
    red, green, blue = x.unbind(1)
    most, least = x.amax(1), x.amin(1)
    span = most - least
    divisor = torch.where(span == 0, 1.0, span)
    sat = span / torch.where(span == 0, 1.0, most)
    from_red, from_green, from_blue = ((most - one) / divisor for one in (red, green, blue))
    is_red = most == red
    is_green = (most == green) & ~is_red
    angle = is_red * (from_blue - from_green) + is_green * (2 + from_red - from_blue)
    angle = angle + (~is_red & ~is_green) * (4 + from_green - from_red)
    angle = ((angle / 6 + 1).fmod(1) + shift).remainder(1)
    sector = (angle * 6).floor()
    rest = angle * 6 - sector
    parts = (torch.ones_like(rest), rest, 1 - rest)
    low, falling, rising = ((most * (1 - sat * part)).clamp(0, 1) for part in parts)
    tables = (
        (most, falling, low, low, rising, most),
        (rising, most, most, falling, low, low),
        (low, low, rising, most, most, falling),
    )
    index = (sector.long() % 6)[:, None]
    return torch.stack([torch.stack(table, 1).gather(1, index)[:, 0] for table in tables], 1)


def solarize(x: Tensor, threshold: float) -> Tensor:
    """Inverts what is not below the threshold."""
    return torch.where(x >= threshold, 1 - x, x)


def posterize(x: Tensor, bits: int) -> Tensor:
    """Keeps the upper bits."""
    levels = 2.0**bits
    return (x * levels).floor().clamp(0, levels - 1) / levels
