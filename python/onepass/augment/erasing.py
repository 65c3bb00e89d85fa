"""RandomErasing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onepass._arguments import told
from onepass.augment._arrays import Bools, Floats
from onepass.augment._checks import check_alone, to_fill, to_pair
from onepass.augment._plan import FIXED
from onepass.augment._records import ERASE_MODES, OPS
from onepass.augment._transform import Canvas, Drawn, Geometry, RandomTransform, check_fill, chosen
from onepass.augment.crops import TRIES, log_uniform, positive_pair

__all__ = ["RandomErasing"]


class RandomErasing(RandomTransform):
    """Erases a box of random place, area and aspect ratio, with probability p.

    Args:
        p: The probability, from 0 to 1.
        scale: Least and greatest area of the box, as a share of the image's, 0 to 1.
        ratio: Least and greatest height / width of the box.
        value: What the box becomes: a number, or one for each channel, in units of the image at this place of the
            chain (0 .. 255 for uint8 images before ToDtype and Normalize); or ``"random"`` for standard normal
            noise.
        inplace: Must be False: the images stay as they are.

    Raises:
        TypeError: An argument has another type.
        ValueError: p or scale is not in [0, 1]; a range is not in order; value is another word; inplace is True.
            At a call: value has more numbers than 1, but not as many as channels.

    Parameters: applied; top, left, height, width. Ten times an area (uniform) and a ratio (log-uniform) are drawn;
    the first box with sides round(sqrt(area * ratio)) and round(sqrt(area / ratio)), ties to even, that is lower
    and narrower than the image is taken at a uniform place. If none is, nothing is erased. The noise is a function
    of the seed, the epoch, the sample, this place of the chain and the element of the box.

    Convention: a choice at the store, no value outside of the box changes.

    Differs from torch: each sample has its own box and noise, where torchvision has one for a batch.

    Source: torchvision.transforms.v2.RandomErasing; Zhong et al. 2020.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> train = A.Compose([A.RandomErasing(p=1.0, scale=(0.25, 0.25), ratio=(1, 1), value=-1.0)], seed=0)
        >>> int((train(torch.ones(1, 8, 8, 1)) == -1).sum())
        16
    """

    words = 1 + 2 * TRIES + 4

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: Any = 0.0,
        inplace: bool = False,
    ) -> None:
        super().__init__(p)
        self.scale = to_pair("RandomErasing", "scale", scale, 0, 1)
        self.ratio = positive_pair("RandomErasing", "ratio", ratio)
        if isinstance(value, str) and value != "random":
            raise ValueError(f"RandomErasing: value must be numbers or 'random', got {told(value)}")
        self.value = value
        self._value = None if isinstance(value, str) else to_fill("RandomErasing", value, False, "value")
        self.inplace = inplace
        check_alone("RandomErasing", "inplace", inplace, False)

    def _check(self, channels: int) -> None:
        check_fill("RandomErasing", self._value, channels, "value")

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        full_height, full_width = canvas.height, canvas.width
        low, high = self.scale
        area = (full_height * full_width)[:, None] * (low + (high - low) * u[:, 1 : 1 + TRIES])
        ratio = log_uniform(u[:, 1 + TRIES : 1 + 2 * TRIES], self.ratio)
        height, width = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (height < full_height[:, None]) & (width < full_width[:, None])
        rows, first = np.arange(canvas.n), fits.argmax(1)
        found = fits[rows, first]
        height, width = np.where(found, height[rows, first], 0.0), np.where(found, width[rows, first], 0.0)
        return {
            "applied": self._applied(u) * found,
            "top": np.floor(u[:, -4] * (full_height - height + 1)),
            "left": np.floor(u[:, -3] * (full_width - width + 1)),
            "height": height,
            "width": width,
            "key0": u[:, -2] * 2.0**32,
            "key1": u[:, -1] * 2.0**32,
        }

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        top, left = drawn["top"], drawn["left"]
        bottom, right = top + drawn["height"], left + drawn["width"]
        rows = chosen(drawn["applied"], on) & (bottom > top) & (right > left)
        mode = ERASE_MODES["noise" if self._value is None else "value"]
        noise = (drawn["key0"], drawn["key1"], 0.0, 0.0, 0.0, 0.0)
        value = [number / plan.unit for number in self._value or (0.0,)]
        plan.op(OPS["erase"], (left, top, right, bottom, float(mode), *noise), rows, FIXED, value)
