"""The augmentation of the demo's digits: moved, turned and scaled a little, so that each is still itself."""

from __future__ import annotations

from onepass import augment as A
from onepass.demo.data import Data

__all__ = ["augmentation"]


def augmentation(data: Data, seed: int) -> A.Compose:
    """Makes the augmentation of normalised images.

    Args:
        data: The images, whose least value is the background.
        seed: Seed of the parameters.

    Returns:
        What takes a batch (n, 1, 28, 28), and gives one of the same shape and dtype.
    """
    background = float(data.train_images.min())
    affine = A.RandomAffine(10, translate=(0.1, 0.1), scale=(0.9, 1.1), interpolation="bilinear", fill=background)
    return A.Compose([affine], seed=seed, layout="NCHW", dtype=data.train_images.dtype)
