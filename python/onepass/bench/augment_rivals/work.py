"""What ours and the rivals of `onepass bench augment` compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["DEGREES", "JITTER", "MEAN", "PADDING", "SIZE", "STD", "Work", "batch_like", "over_images"]

# ImageNet's, in units of 0 to 1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, PADDING, DEGREES, JITTER = 224, 4, 15.0, 0.2

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Work:
    """Describes one chain on one batch.

    Args:
        name: Name of the case.
        chain: ``crop``: random crop with padding, flip, normalise. ``rotate``: a rotation before normalising, too.
            ``jitter``: random resized crop, flip, rotation, brightness, contrast, saturation, normalise.
            ``resize``: antialiased resize from uint8 to uint8.
        source: Height and width of the images.
        count: Images in the batch.
        channels_last: Whether the result is channels_last, otherwise contiguous.
        mixup: Whether mixup ends the chain.
        antialias: Whether the photos' crop is resized with antialias. OpenCV, Albumentations and Kornia
            resize without here: they do both works in the same way.
    """

    name: str
    chain: str
    source: tuple[int, int] = (SIZE, SIZE)
    count: int = 64
    channels_last: bool = True
    mixup: bool = False
    antialias: bool = True

    @property
    def numel(self) -> int:
        """Elements of the result."""
        return self.count * 3 * SIZE * SIZE

    def images(self) -> Bytes:
        """Makes the batch: noise on gradients, as no time depends on the content."""
        height, width = self.source
        rows, columns = np.mgrid[:height, :width]
        plane = (rows / height + columns / width)[..., None] * np.array([110.0, 90.0, 70.0])
        noise = np.random.default_rng(0).uniform(0, 35, (self.count, height, width, 3))
        images: Bytes = (plane + noise).astype(np.uint8)
        return images


def batch_like(work: Work) -> tuple[Tensor, NDArray[np.float32]]:
    """Makes the batch that a rival writes: a float32 tensor (n, 3, h, w), and a view of its memory.

    Args:
        work: What is done.

    Returns:
        The tensor, and a view (n, h, w, 3) for numpy.
    """
    shape = (work.count, 3, SIZE, SIZE)
    layout = torch.channels_last if work.channels_last else torch.contiguous_format
    batch = torch.zeros(shape).contiguous(memory_format=layout)
    return batch, batch.permute(0, 2, 3, 1).numpy()


def over_images(one: Callable[[int], object], count: int) -> Callable[[], None]:
    """Makes a call that does all images, in as many threads as torch has, each with one thread of its own.

    Python threads are what serves libraries without threads of their own best: their kernels release the
    interpreter's lock. Threads inside of one image's kernels gain less.

    Args:
        one: Does an image.
        count: How many there are.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return lambda: _some(one, range(count))
    # torch keeps the number of a thread that exists: a later number for the process does not change it.
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    parts = [range(count * i // threads, count * (i + 1) // threads) for i in range(threads)]
    with _kept_threads():
        list(pool.map(lambda part: _some(one, part), parts))

    def step() -> None:
        list(pool.map(lambda part: _some(one, part), parts))

    return step


def _some(one: Callable[[int], object], part: range) -> None:
    for i in part:
        one(i)


@contextmanager
def _kept_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
