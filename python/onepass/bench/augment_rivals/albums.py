"""Albumentations, an image at a time."""

from __future__ import annotations

import os
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
    Work,
    batch_like,
    over_images,
)
from onepass.bench.probe import Step

NAME = "albumentations"


def load() -> Any:
    """Imports albumentations, which would ask the network for a newer version, and sets OpenCV to one thread."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    found = import_module("albumentations")
    import_module("cv2").setNumThreads(1)
    return found


def step(work: Work, images: NDArray[np.uint8]) -> Step | None:
    """Makes the call of one batch.

    Args:
        work: What is done.
        images: uint8, (n, height, width, 3).
    """
    if work.mixup:
        return None
    package, cv2 = load(), import_module("cv2")
    if work.chain == "resize":
        resize = package.Resize(SIZE, SIZE, interpolation=cv2.INTER_AREA, p=1)
        resized = np.zeros((work.count, SIZE, SIZE, 3), np.uint8)

        def one_resized(i: int) -> None:
            resized[i] = resize(image=images[i])["image"]

        return over_images(one_resized, work.count)
    chain = package.Compose(_chain(package, cv2, work.chain), seed=0)
    _, batch = batch_like(work)

    def one(i: int) -> None:
        batch[i] = chain(image=images[i])["image"]

    return over_images(one, work.count)


def _chain(package: Any, cv2: Any, chain: str) -> list[Any]:
    if chain == "jitter":
        found = [package.RandomResizedCrop(size=(SIZE, SIZE), p=1)]
    else:
        padded = SIZE + 2 * PADDING
        found = [package.PadIfNeeded(padded, padded, border_mode=cv2.BORDER_CONSTANT, p=1)]
        found.append(package.RandomCrop(SIZE, SIZE, p=1))
    found.append(package.HorizontalFlip(p=0.5))
    if chain != "crop":
        found.append(package.Rotate(limit=(-DEGREES, DEGREES), interpolation=cv2.INTER_LINEAR, p=1))
    if chain == "jitter":
        factors = (1 - JITTER, 1 + JITTER)
        found.append(
            package.ColorJitter(brightness=factors, contrast=factors, saturation=factors, hue=(0, 0), p=1)
        )
    return [*found, package.Normalize(MEAN, STD, p=1)]
