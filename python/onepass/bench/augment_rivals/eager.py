"""torch's own operations on the whole batch, with parameters of each sample's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from onepass.bench.augment_rivals.work import DEGREES, MEAN, PADDING, SIZE, STD, Work, batch_like
from onepass.bench.probe import Step

NAME = "torch"


def load() -> Any:
    """Imports nothing: torch is there."""
    return torch


def step(work: Work, images: NDArray[np.uint8]) -> Step | None:
    """Makes the call of one batch.

    Args:
        work: What is done.
        images: uint8, (n, height, width, 3).
    """
    pixels = torch.from_numpy(images)
    if work.chain == "resize":
        source, size = pixels.permute(0, 3, 1, 2), (SIZE, SIZE)
        return lambda: F.interpolate(source, size, mode="bilinear", antialias=True)
    if work.chain == "jitter":
        return None
    chain = _Chain(work, pixels)
    if work.chain == "rotate":
        return chain.rotated
    return chain.mixed if work.mixup else chain.cropped


class _Chain:
    """Crops and normalises sample by sample, which stay in the cache, into one batch; rotates the whole batch.

    Of the forms that were tried this is the fastest: one gather by index of the whole batch took several times as
    long, and so did one multiplication over it.
    """

    def __init__(self, work: Work, pixels: Tensor) -> None:
        self.work, self.pixels = work, pixels
        padded = SIZE + 2 * PADDING
        self.padded = torch.zeros(work.count, padded, padded, 3, dtype=torch.uint8)
        self.batch, _ = batch_like(work)
        mean, std = torch.tensor(MEAN), torch.tensor(STD)
        self.factor, self.addend = 1 / (255 * std), -mean / std

    def cropped(self) -> Tensor:
        self.padded[:, PADDING:-PADDING, PADDING:-PADDING] = self.pixels
        places = torch.randint(0, 2 * PADDING + 1, (self.work.count, 2)).tolist()
        flips = (torch.rand(self.work.count) < 0.5).tolist()
        write = self._rows() if self.work.channels_last else self._planes()
        for i, ((top, left), flip) in enumerate(zip(places, flips, strict=True)):
            cut = self.padded[i, top : top + SIZE, left : left + SIZE]
            write(i, cut.flip(1) if flip else cut)
        return self.batch

    def mixed(self) -> Tensor:
        """Adds mixup: a share of the sample before, one for each sample."""
        batch = self.cropped()
        lam = torch.distributions.Beta(0.2, 0.2).sample((self.work.count, 1, 1, 1))
        return torch.lerp(batch.roll(1, 0), batch, lam)

    def rotated(self) -> Tensor:
        """Rotates the floats by grid_sample."""
        batch = self.cropped()
        radians = torch.empty(self.work.count).uniform_(-DEGREES, DEGREES).deg2rad_()
        cos, sin, zero = radians.cos(), radians.sin(), torch.zeros(self.work.count)
        maps = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
        grid = F.affine_grid(maps, list(batch.shape), align_corners=False)
        layout = torch.channels_last if self.work.channels_last else torch.contiguous_format
        return F.grid_sample(batch, grid, align_corners=False).contiguous(memory_format=layout)

    def _rows(self) -> Callable[[int, Tensor], object]:
        """Normalises rows of width * 3 elements: three at a time, torch's loops would be slow."""
        batch = self.batch.permute(0, 2, 3, 1).view(self.work.count, SIZE, SIZE * 3)
        factor, addend = self.factor.repeat(SIZE), self.addend.repeat(SIZE)
        return lambda i, cut: torch.mul(cut.reshape(SIZE, SIZE * 3), factor, out=batch[i]).add_(addend)

    def _planes(self) -> Callable[[int, Tensor], object]:
        batch, factor, addend = self.batch, self.factor[:, None, None], self.addend[:, None, None]

        def write(i: int, cut: Tensor) -> None:
            plane = batch[i].copy_(cut.permute(2, 0, 1))
            torch.addcmul(addend, plane, factor, out=plane)

        return write
