"""The operations of onepass.augment's records in float64, on an image (C, H, W)."""

from __future__ import annotations

import numpy as np

from onepass.augment._records import ERASE_MODES, OPS
from reference.dropout import philox

__all__ = ["apply_op"]

_GREY = np.array([0.2989, 0.587, 0.114])


def apply_op(image: np.ndarray, op, values: np.ndarray) -> np.ndarray:
    """Applies one operation."""
    names = {number: name for name, number in OPS.items()}
    name, a, first = names[int(op["kind"])], op["a"], int(op["first"])
    channels = image.shape[0]
    own = np.asarray(values)[first : first + channels, None, None]
    if name == "blend":
        return blend(image, a, own)
    if name == "erase":
        return erase(image, a, own)
    if name == "normalize":
        return (image - own) / np.asarray(values)[first + channels : first + 2 * channels, None, None]
    if name in ("saturation", "hue", "grayscale") and channels != 3:
        return image
    return COLORS[name](image, a[0]) if name != "clamp" else np.clip(image, a[0], a[1])


def blend(image: np.ndarray, a: np.ndarray, fill: np.ndarray) -> np.ndarray:
    m = a[:9].reshape(3, 3)
    width, height, power, soft = a[9:13]
    y, x = np.mgrid[0 : image.shape[1], 0 : image.shape[2]].astype(np.float64)
    weight = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    px, py = (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / weight, (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / weight
    cover = covered(px, width, soft) * covered(py, height, soft)
    if image.dtype.kind in "iub":  # masks
        return np.where(cover >= 0.5, image, (0 * fill if power == 0 else fill).astype(image.dtype))
    if power == 0:
        return cover * image
    if power == 1:
        return cover * image + (1 - cover) * fill
    if not soft:
        return np.where(cover < 0.5, fill, image)
    return cover * (cover * image - fill) + fill


def covered(p: np.ndarray, size: float, soft: float) -> np.ndarray:
    if soft:
        return np.clip(np.minimum(p + 1, size - p), 0, 1)
    nearest = np.rint(p)
    return ((nearest >= 0) & (nearest < size)).astype(float)


def erase(image: np.ndarray, a: np.ndarray, value: np.ndarray) -> np.ndarray:
    left, top, right, bottom = (int(side) for side in a[:4])
    image = image.copy()
    shape = (image.shape[0], bottom - top, right - left)
    image[:, top:bottom, left:right] = noise(shape, a[5:11]) if a[4] == ERASE_MODES["noise"] else value
    return image


def noise(shape: tuple[int, int, int], words: np.ndarray) -> np.ndarray:
    """Standard normal numbers by Box and Muller, four a block."""
    count = int(np.prod(shape))
    blocks = np.arange(-(-count // 4))
    counters = np.tile(words[2:6].astype(np.uint64), (len(blocks), 1))
    counters[:, 3] = (counters[:, 3] + blocks.astype(np.uint64)) & np.uint64(0xFFFFFFFF)
    drawn = philox(counters.astype(np.uint32), int(words[0]) | int(words[1]) << 32).astype(np.float64)
    radius = np.sqrt(-2 * np.log((drawn[:, 0::2] + 1) / 2**32))
    turn = 2 * np.pi * drawn[:, 1::2] / 2**32
    pairs = np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=2)
    return pairs.reshape(-1)[:count].reshape(shape)


def grey(image: np.ndarray) -> np.ndarray:
    return np.tensordot(_GREY, image, 1) if image.shape[0] == 3 else image[0]


def unit(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0, 1)


def hue(image: np.ndarray, shift: float) -> np.ndarray:
    """rgb to hsv and back, as torchvision's float path does it."""
    r, g, _ = image
    high, low = image.max(0), image.min(0)
    flat = high == low
    span = high - low
    saturation = span / np.where(flat, 1, high)
    rc, gc, bc = (high - image) / np.where(flat, 1, span)
    is_r = high == r
    is_g = (high == g) & ~is_r
    angle = np.where(is_r, bc - gc, np.where(is_g, rc + 2 - bc, gc + 4 - rc))
    angle = np.fmod(angle / 6 + 1, 1)
    angle = np.mod(angle + shift, 1.0)
    part = np.floor(angle * 6)
    rest = angle * 6 - part
    sector = part.astype(np.int64) % 6
    q = unit((1 - saturation * rest) * high)
    t = unit((saturation * rest + 1 - saturation) * high)
    p = unit((1 - saturation) * high)
    choices = np.stack([high, p, q, t])
    table = np.array([[0, 2, 1, 1, 3, 0], [3, 0, 0, 2, 1, 1], [1, 1, 3, 0, 0, 2]])[:, sector]
    return np.take_along_axis(choices, table, 0)


def autocontrast(image: np.ndarray, _: float) -> np.ndarray:
    low, high = (f(image, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    flat = high == low
    return unit((image - np.where(flat, 0, low)) / np.where(flat, 1, high - low))


def equalize(image: np.ndarray, _: float) -> np.ndarray:
    """By the histogram of 256 levels, Pillow's tables."""
    # Values outside of 0 .. 1 are limited, where torchvision's conversion to uint8 is undefined.
    levels = np.clip(image * (255 + 1 - 1e-3), 0, 255).astype(np.uint8)
    made = np.empty_like(image)
    for c, plane in enumerate(levels):
        counts = np.bincount(plane.ravel(), minlength=256)
        step = (plane.size - counts[np.flatnonzero(counts)[-1]]) // 255
        table = np.arange(256)
        if step:
            table = np.concatenate([[0], np.clip((np.cumsum(counts)[:-1] + step // 2) // step, 0, 255)])
        made[c] = table[plane] / 255
    return made


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    if min(image.shape[1:]) <= 2:
        return image
    height, width = image.shape[1] - 2, image.shape[2] - 2
    inner = image[:, 1:-1, 1:-1]
    total = sum(image[:, j : j + height, i : i + width] for j in range(3) for i in range(3))
    blurred = (total + 4 * inner) / 13
    made = image.copy()
    made[:, 1:-1, 1:-1] = inner + (1 - factor) * (blurred - inner)
    return unit(made)


COLORS = {
    "brightness": lambda v, f: unit(f * v),
    "contrast": lambda v, f: unit(f * v + (1 - f) * grey(v).mean()),
    "saturation": lambda v, f: unit(f * v + (1 - f) * grey(v)),
    "hue": hue,
    "grayscale": lambda v, _: np.broadcast_to(grey(v), v.shape),
    "invert": lambda v, _: 1 - v,
    "solarize": lambda v, threshold: np.where(v >= threshold, 1 - v, v),
    "posterize": lambda v, levels: np.clip(np.floor(v * levels), 0, levels - 1) / levels,
    "autocontrast": autocontrast,
    "equalize": equalize,
    "sharpness": sharpness,
}
