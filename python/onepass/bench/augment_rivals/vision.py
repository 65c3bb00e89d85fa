"""torchvision v2, an image at a time, as its data loaders call it; the resize on the whole batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onepass import _torchvision
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

NAME = "torchvision"


def load() -> Any:
    """Imports torchvision.transforms.v2."""
    return _torchvision.load()


def step(work: Work, images: NDArray[np.uint8]) -> Step | None:
    """Makes the call of one batch.

    Args:
        work: What is done.
        images: uint8, (n, height, width, 3).
    """
    if work.mixup:
        return None
    v2 = load()
    given = torch.from_numpy(images).permute(0, 3, 1, 2)
    if work.chain == "resize":
        resize = v2.Resize((SIZE, SIZE), antialias=True)
        return lambda: resize(given)
    # Its resize is faster on views of the decoder's memory, all else on planes.
    if work.chain != "jitter":
        given = given.contiguous()
    chain = v2.Compose(_chain(v2, work.chain, work.antialias))
    batch, _ = batch_like(work)

    def one(i: int) -> None:
        batch[i].copy_(chain(given[i]))

    return over_images(one, work.count)


def _chain(v2: Any, chain: str, antialias: bool) -> list[Any]:
    bilinear = v2.InterpolationMode.BILINEAR
    resized = v2.RandomResizedCrop(SIZE, antialias=antialias)
    crop = resized if chain == "jitter" else v2.RandomCrop(SIZE, padding=PADDING)
    found = [crop, v2.RandomHorizontalFlip()]
    if chain != "crop":
        found.append(v2.RandomRotation(DEGREES, interpolation=bilinear))
    if chain == "jitter":
        found.append(v2.ColorJitter(JITTER, JITTER, JITTER))
    return [*found, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD, inplace=True)]
