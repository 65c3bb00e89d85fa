"""Carries out the records of onepass.augment in float64, as they are documented: the judge of the kernels.

`python/onepass/augment/_records.py` says what each field means. Images are arrays (C, H, W) of float64 here; uint8
sources count as x / 255.
"""

from __future__ import annotations

import numpy as np

from onepass.augment._records import BORDERS, INTERPOLATIONS, KINDS, MIXINGS
from reference.augment_ops import apply_op

__all__ = ["augment", "augment_masks", "stored"]


def augment(images: list[np.ndarray], samples, passes, ops, values) -> np.ndarray:
    """Computes the output of a batch, (n, C, H, W), from images (C, H, W); nothing is rounded."""
    made = [run(image, passes[i], ops[i], values) for i, image in enumerate(images)]
    return np.stack([mixed(made, i, samples[i]) for i in range(len(made))])


def augment_masks(masks: list[np.ndarray], passes, ops, values) -> np.ndarray:
    """Computes masks (n, H, W) of masks (H, W): their elements are moved as they are."""
    return np.stack([run(mask[None], passes[i], ops[i], values)[0] for i, mask in enumerate(masks)])


def stored(output: np.ndarray, dtype: str) -> np.ndarray:
    """Rounds values to uint8, or to another dtype of numpy."""
    if dtype == "uint8":
        return np.clip(np.rint(output * 255), 0, 255).astype(np.uint8)
    return output.astype(dtype)


def run(image: np.ndarray, passes, ops, values) -> np.ndarray:
    """Carries out the passes of one sample."""
    for record, operations in zip(passes, ops, strict=True):
        if record["kind"] == KINDS["skip"]:
            continue
        image = (resize if record["kind"] == KINDS["resize"] else gather)(image, record)
        for operation in operations:
            if operation["kind"] == 0:
                break
            image = apply_op(image, operation, values)
    return image


def mixed(made: list[np.ndarray], i: int, sample) -> np.ndarray:
    """Mixes a sample with its partner."""
    own, other = made[i], made[int(sample["partner"])]
    if sample["mixing"] == MIXINGS["mixup"]:
        return sample["lam"] * own + (1 - sample["lam"]) * other
    if sample["mixing"] == MIXINGS["cutmix"]:
        left, top, right, bottom = (int(sample[side]) for side in ("left", "top", "right", "bottom"))
        own = own.copy()
        own[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    return own


def positions(record) -> tuple[np.ndarray, np.ndarray]:
    """Returns where the pixels of the output lie in the input, each (height, width)."""
    y, x = np.mgrid[0 : int(record["height"]), 0 : int(record["width"])].astype(np.float64)
    return mapped(record["map"], x, y)


def mapped(map, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    m = np.asarray(map).reshape(3, 3)
    weight = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    return (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / weight, (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / weight


def within(index: np.ndarray, low: float, high: float, border: float) -> np.ndarray:
    """Returns the tap that stands for an index, which may lie outside of low .. high - 1."""
    low, high = int(low), int(high)
    size = high - low
    index = index.astype(np.int64) - low
    if border == BORDERS["reflect"] and size > 1:
        index = np.abs((index + size - 1) % (2 * size - 2) - (size - 1))
    elif border == BORDERS["symmetric"]:
        index = index % (2 * size)
        index = np.where(index < size, index, 2 * size - 1 - index)
    return np.clip(index, 0, size - 1) + low


def gather(image: np.ndarray, record) -> np.ndarray:
    """Takes the nearest pixel, or four of them with bilinear weights, at mapped positions."""
    x, y = positions(record)
    border = record["border"]

    def taps(column: np.ndarray, row: np.ndarray) -> np.ndarray:
        columns = within(column, record["left"], record["right"], border)
        return image[:, within(row, record["top"], record["bottom"], border), columns]

    if record["interpolation"] == INTERPOLATIONS["nearest"]:
        return taps(np.rint(x), np.rint(y))
    if record["interpolation"] == INTERPOLATIONS["floor"]:
        return taps(np.floor(x), np.floor(y))
    x0, y0 = np.floor(x), np.floor(y)
    right, below = x - x0, y - y0
    upper = taps(x0, y0) * (1 - right) + taps(x0 + 1, y0) * right
    lower = taps(x0, y0 + 1) * (1 - right) + taps(x0 + 1, y0 + 1) * right
    return upper * (1 - below) + lower * below


def resize(image: np.ndarray, record) -> np.ndarray:
    """Filters rows, then columns."""
    m = record["map"].reshape(3, 3)
    box = record["left"], record["top"], record["right"], record["bottom"]
    across = filter_matrix(m[0, 0], m[0, 2], record["width"], box[0], box[2], image.shape[2], record)
    down = filter_matrix(m[1, 1], m[1, 2], record["height"], box[1], box[3], image.shape[1], record)
    return np.einsum("yi,cij,xj->cyx", down, image, across)


def filter_matrix(scale, offset, outputs, low, high, inputs: int, record) -> np.ndarray:
    """Returns the weight of each input for each output, (outputs, inputs)."""
    cubic = record["interpolation"] == INTERPOLATIONS["bicubic"]
    matrix = np.zeros((int(outputs), inputs))
    for k in range(int(outputs)):
        center = scale * k + offset
        if record["antialias"]:
            stretch = max(1.0, abs(scale))
            taps = np.arange(int(low), int(high))
            distance = np.abs(taps - center) / stretch
            weights = cubic_weight(distance, -0.5) if cubic else np.maximum(1 - distance, 0)
            # torch takes pixels whose centre is less than the support away, as rounded; the others have weight 0.
            matrix[k, taps] = weights / weights.sum()
        else:
            reach = 2 if cubic else 1
            for tap in np.floor(center) + np.arange(1 - reach, reach + 1):
                distance = np.abs(tap - center)
                weight = cubic_weight(distance, -0.75) if cubic else 1 - distance
                matrix[k, int(np.clip(tap, low, high - 1))] += weight
    return matrix


def cubic_weight(x: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
