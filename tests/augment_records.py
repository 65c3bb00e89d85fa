"""Records of onepass.augment for tests of the kernels: drawn ones, calls of the core, and the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from onepass import _native
from onepass.augment._records import BORDERS, INTERPOLATIONS, KINDS, OP, OPS, PASS, SAMPLE
from reference import augment as reference

IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)


class Case:
    """Holds the records of a batch, which tests fill."""

    def __init__(self, n: int, size: tuple[int, int], *, passes: int = 1, ops: int = 4) -> None:
        self.size = size
        self.samples = np.zeros(n, SAMPLE)
        self.passes = np.zeros((n, passes), PASS)
        self.ops = np.zeros((n, passes, ops), OP)
        self.values = np.zeros(0)

    def gather(self, i, size, map=IDENTITY, kind="bilinear", border="edge", box=None, p=0, output=None) -> None:
        """size: of the input; output: of the pass, where it is not that of the batch."""
        self._fill(i, p, "gather", size, map, kind, border, box, output)

    def resize(self, i, size, kind="bilinear", antialias=True, box=None, flip=False, p=0, output=None) -> None:
        """A box of the input to the whole output."""
        left, top, right, bottom = box or (0, 0, size[1], size[0])
        height, width = output or self.size
        sx, sy = (right - left) / width, (bottom - top) / height
        map = [sx, 0, left + sx / 2 - 0.5, 0, sy, top + sy / 2 - 0.5, 0, 0, 1]
        if flip:
            map[0], map[2] = -sx, left + sx * (width - 0.5) - 0.5
        self._fill(i, p, "resize", size, map, kind, "edge", box, output)
        self.passes[i, p]["antialias"] = antialias

    def _fill(self, i, p, pass_kind, size, map, kind, border, box, output) -> None:
        record = self.passes[i, p]
        record["kind"] = KINDS[pass_kind]
        record["height"], record["width"] = output or self.size
        record["map"] = map
        record["interpolation"] = INTERPOLATIONS[kind]
        record["border"] = BORDERS[border]
        for side, value in zip(("left", "top", "right", "bottom"), box or (0, 0, size[1], size[0]), strict=True):
            record[side] = value

    def op(self, i: int, name: str, a: Sequence[float] = (), values: Sequence[float] = (), p: int = 0) -> None:
        """Adds an operation behind those that are there."""
        k = int(np.flatnonzero(self.ops[i, p]["kind"] == 0)[0])
        record = self.ops[i, p, k]
        record["kind"] = OPS[name]
        record["first"] = len(self.values)
        record["a"][: len(a)] = a
        self.values = np.concatenate([self.values, values])

    def run(self, images: Any, layout="NHWC", dtype=torch.float32, channels_last=False, threads=1) -> torch.Tensor:
        """Calls the core. The output holds nans, or 77, before."""
        first = images[0]
        channels = first.shape[-1 if layout == "NHWC" else 0]
        output = torch.full(
            (len(images), channels, *self.size), torch.nan if dtype.is_floating_point else 77, dtype=dtype
        )
        if channels_last:
            output = output.to(memory_format=torch.channels_last)
        self.run_into(output, images, layout, threads)
        return output

    def run_into(self, output: Any, images: Any, layout: str = "NHWC", threads: int = 1) -> None:
        _native.core.augment(
            images=images,
            layout=layout,
            output=output,
            samples=self.samples,
            passes=self.passes,
            ops=self.ops,
            values=self.values,
            threads=threads,
        )

    def expected(self, images: Any, layout: str = "NHWC") -> np.ndarray:
        """Computes the same in float64."""
        return reference.augment(
            [planes(image, layout) for image in images], self.samples, self.passes, self.ops, self.values
        )


def planes(image: Any, layout: str) -> np.ndarray:
    """An image as values (C, H, W) in float64."""
    tensor = torch.as_tensor(np.array(image) if isinstance(image, np.ndarray) else image)
    values = tensor.double().numpy() / (255 if tensor.dtype == torch.uint8 else 1)
    return np.moveaxis(values, 2, 0) if layout == "NHWC" else values


def rotation(degrees: float, size: tuple[int, int], output: tuple[int, int], scale: float = 1.0) -> list[float]:
    """A map that turns the output around the middle of the input."""
    c, s = np.cos(np.deg2rad(degrees)) / scale, np.sin(np.deg2rad(degrees)) / scale
    middle, own = ((size[1] - 1) / 2, (size[0] - 1) / 2), ((output[1] - 1) / 2, (output[0] - 1) / 2)
    return [c, -s, middle[0] - c * own[0] + s * own[1], s, c, middle[1] - s * own[0] - c * own[1], 0, 0, 1]


def pictures(n: int, size: tuple[int, int], channels: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Draws images (n, h, w, C): noise on a slope."""
    draws = np.random.default_rng(seed)
    slope = np.linspace(0, 0.6, size[0] * size[1] * channels).reshape(*size, channels)
    values = torch.as_tensor(slope + 0.4 * draws.random((n, *size, channels)))
    return (values * 255).to(torch.uint8) if dtype == torch.uint8 else values.to(dtype)
