"""Kornia, on the whole batch as floats."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onepass.bench.augment_rivals.work import DEGREES, JITTER, MEAN, PADDING, SIZE, STD, Work
from onepass.bench.probe import Step

NAME = "kornia"


def load() -> Any:
    """Imports kornia.augmentation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module("kornia.augmentation")


def step(work: Work, images: NDArray[np.uint8]) -> Step | None:
    """Makes the call of one batch.

    Args:
        work: What is done.
        images: uint8, (n, height, width, 3).
    """
    package = load()
    source = torch.from_numpy(images).permute(0, 3, 1, 2)
    if work.chain == "resize" or work.mixup:
        return None
    chain = package.AugmentationSequential(*_chain(package, work.chain), data_keys=["input"])
    layout = torch.channels_last if work.channels_last else torch.contiguous_format

    def batch() -> object:
        with torch.no_grad():
            # Planes: on channels_last its transforms take three times as long.
            floats = source.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
            return chain(floats).contiguous(memory_format=layout)

    return batch


def _chain(package: Any, chain: str) -> list[Any]:
    if chain == "jitter":
        found = [package.RandomResizedCrop((SIZE, SIZE))]
    else:
        found = [package.RandomCrop((SIZE, SIZE), padding=PADDING)]
    found.append(package.RandomHorizontalFlip())
    if chain != "crop":
        found.append(package.RandomRotation(DEGREES, p=1.0))
    if chain == "jitter":
        found.append(package.ColorJitter(JITTER, JITTER, JITTER, 0.0, p=1.0))
    return [*found, package.Normalize(torch.tensor(MEAN), torch.tensor(STD))]
