"""Normalize and ToDtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from onepass._arguments import told
from onepass.augment._arrays import Bools
from onepass.augment._checks import check_alone, check_flag, to_fill
from onepass.augment._plan import COMMUTES
from onepass.augment._records import OPS
from onepass.augment._transform import Drawn, Geometry, Transform, check_fill

__all__ = ["FLOATS", "Normalize", "ToDtype"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
SMALLEST = 2.0**-126
"""The least normal number of float32; 1 divided by a smaller one may be infinite."""


class Normalize(Transform):
    """Subtracts a mean and divides by a standard deviation, for each channel.

    Args:
        mean: A number, or one for each channel.
        std: Likewise, not 0.
        inplace: Must be False: the images stay as they are.

    Raises:
        TypeError: An argument has another type.
        ValueError: A number is not finite, std is 0, or inplace is True. At a call: there are more numbers than 1,
            but not as many as channels.

    Convention: (v - mean) / std in float32, each step rounded to nearest. v of uint8 images is x / 255, so that a
    chain of crops, flips and this equals ``(x.float() / 255 - mean) / std`` bit by bit. Fills, thresholds and
    values of transforms that follow are in the units of the result.

    Differs from torch: uint8 images are taken, and divided by 255. (torchvision's ToDtype multiplies by 1 / 255.)

    Source: torchvision.transforms.v2.Normalize.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> A.Compose([A.Normalize(0.5, 0.25)], train=False)(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8))
        tensor([[[[2.]]]])
    """

    random = False

    def __init__(self, mean: float | Sequence[float], std: float | Sequence[float], inplace: bool = False) -> None:
        self.mean, self.std, self.inplace = mean, std, inplace
        self._mean = to_fill("Normalize", mean, optional=False, argument="mean") or ()
        self._std = to_fill("Normalize", std, optional=False, argument="std") or ()
        if any(abs(one) < SMALLEST for one in self._std):
            small = "" if 0 in self._std else " in float32"
            raise ValueError(f"Normalize: std must not be 0{small}, got {told(std)}")
        check_alone("Normalize", "inplace", inplace, False)

    def _check(self, channels: int) -> None:
        check_fill("Normalize", self._mean, channels, "mean")
        check_fill("Normalize", self._std, channels, "std")

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        plan.unit = 1.0
        mean, std, channels = self._mean, self._std, plan.channels
        values = mean * (channels // len(mean)) + std * (channels // len(std))
        plan.op(OPS["normalize"], (), on, COMMUTES, values)


class ToDtype(Transform):
    """Makes the values of uint8 images numbers from 0 to 1, and says the dtype of the output.

    Args:
        dtype: torch.float32, bfloat16 or float16.
        scale: Whether 255 of uint8 images becomes 1. It must be True for uint8 images.

    Raises:
        TypeError: scale is not True or False.
        ValueError: The dtype is another one. At a call: images are uint8, and scale is False.

    Convention: x / 255, rounded to nearest. Fills, thresholds and values of transforms that follow are in units of
    the result. Nothing is rounded to the dtype before the end of the chain.

    Differs from torch: only floating dtypes; ``Compose(..., dtype=torch.uint8)`` gives uint8. torchvision
    multiplies by float32(1 / 255), which is up to one unit in the last place apart.

    Source: torchvision.transforms.v2.ToDtype.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> A.Compose([A.ToDtype(torch.float16, scale=True)], train=False)(torch.ones(1, 1, 1, 1)).dtype
        torch.float16
    """

    random = False

    def __init__(self, dtype: torch.dtype, scale: bool = False) -> None:
        if dtype not in FLOATS:
            raise ValueError(f"ToDtype: dtype must be torch.float32, bfloat16 or float16, got {told(dtype)}")
        self.dtype, self.scale = dtype, check_flag("ToDtype", "scale", scale)

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        if plan.unit == 255.0 and not self.scale:
            raise ValueError("ToDtype: scale must be True for uint8 images, got False")
        plan.unit = 1.0
