"""OpenCV and numpy, an image at a time: flip, warpAffine, resize, and tables for what acts on single bytes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.bench.augment_rivals.work import (
    DEGREES,
    JITTER,
    MEAN,
    PADDING,
    SIZE,
    STD,
    Bytes,
    Work,
    batch_like,
    over_images,
)
from onepass.bench.probe import Step

NAME = "opencv-python-headless"
_LEVELS = np.arange(256.0)
# Red, green and blue bytes as normalised floats: cv2.LUT reads bytes and writes floats in one pass.
_NORMALISED = ((_LEVELS[None, :, None] / 255 - np.array(MEAN)) / np.array(STD)).astype(np.float32)
_RESIZED = (0.08, 1.0), (3 / 4, 4 / 3)


def load() -> Any:
    """Imports cv2, with one thread: the threads of `over_images` take the images."""
    cv2 = import_module("cv2")
    cv2.setNumThreads(1)
    return cv2


def step(work: Work, images: NDArray[np.uint8]) -> Step | None:
    """Makes the call of one batch.

    Args:
        work: What is done.
        images: uint8, (n, height, width, 3).
    """
    if work.mixup:
        return None
    cv2 = load()
    if work.chain == "resize":
        resized = np.zeros((work.count, SIZE, SIZE, 3), np.uint8)

        def resize(i: int) -> None:
            cv2.resize(images[i], (SIZE, SIZE), resized[i], interpolation=cv2.INTER_AREA)

        return over_images(resize, work.count)
    _, batch = batch_like(work)
    chain = _Chain(cv2, work, batch)
    return over_images(lambda i: chain.one(images[i], i), work.count)


class _Chain:
    def __init__(self, cv2: Any, work: Work, batch: NDArray[np.float32]) -> None:
        self.cv2, self.work, self.batch = cv2, work, batch
        self.draw = np.random.default_rng(0)

    def one(self, image: Bytes, i: int) -> None:
        """Augments an image, and writes it to its place in the batch."""
        cv2, jitter = self.cv2, self.work.chain == "jitter"
        image = self.resized_crop(image) if jitter else self.crop(image)
        if self.draw.random() < 0.5:
            image = cv2.flip(image, 1)
        if self.work.chain != "crop":
            centre = ((SIZE - 1) / 2, (SIZE - 1) / 2)
            turn = cv2.getRotationMatrix2D(centre, self.draw.uniform(-DEGREES, DEGREES), 1.0)
            image = cv2.warpAffine(image, turn, (SIZE, SIZE), flags=cv2.INTER_LINEAR)
        if jitter:
            image = self.jitter(image)
        if self.work.channels_last:
            cv2.LUT(image, _NORMALISED, self.batch[i])
        else:
            self.batch[i] = cv2.LUT(image, _NORMALISED)

    def crop(self, image: Bytes) -> Bytes:
        padded = self.cv2.copyMakeBorder(image, PADDING, PADDING, PADDING, PADDING, self.cv2.BORDER_CONSTANT)
        top, left = self.draw.integers(0, 2 * PADDING + 1, 2)
        return np.ascontiguousarray(padded[top : top + SIZE, left : left + SIZE])

    def resized_crop(self, image: Bytes) -> Bytes:
        height, width = image.shape[:2]
        shares, ratios = _RESIZED
        for _ in range(10):
            area = height * width * self.draw.uniform(*shares)
            ratio = np.exp(self.draw.uniform(*np.log(ratios)))
            across, down = round(float((area * ratio) ** 0.5)), round(float((area / ratio) ** 0.5))
            if 0 < across <= width and 0 < down <= height:
                break
        else:
            across, down = width, height
        top = self.draw.integers(0, height - down + 1)
        left = self.draw.integers(0, width - across + 1)
        cut = image[top : top + down, left : left + across]
        found: Bytes = self.cv2.resize(cut, (SIZE, SIZE), interpolation=self.cv2.INTER_LINEAR)
        return found

    def jitter(self, image: Bytes) -> Bytes:
        """Changes brightness, contrast and saturation: brightness and contrast are one table."""
        cv2 = self.cv2
        bright, contrast, saturation = self.draw.uniform(1 - JITTER, 1 + JITTER, 3)
        mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] * bright
        table = np.clip(_LEVELS * bright, 0, 255) * contrast + (1 - contrast) * mean
        image = cv2.LUT(image, np.clip(table, 0, 255).round().astype(np.uint8))
        grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        found: Bytes = cv2.addWeighted(image, saturation, grey, 1 - saturation, 0)
        return found
