"""ColorJitter, RandomGrayscale, RandomInvert, RandomSolarize and RandomPosterize."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onepass.augment._arrays import Bools, Floats
from onepass.augment._checks import check_channels, check_count, check_finite, to_pair
from onepass.augment._plan import COMMUTES, POINTWISE, WHOLE
from onepass.augment._records import OPS
from onepass.augment._transform import Canvas, Drawn, Geometry, RandomTransform, Transform, between, chosen

__all__ = [
    "ColorJitter",
    "RandomGrayscale",
    "RandomInvert",
    "RandomPosterize",
    "RandomSolarize",
    "posterize",
    "solarize",
]

_JITTERS = ("brightness", "contrast", "saturation", "hue")
_ORDERS = np.array(list(itertools.permutations(range(4))))
_OF_COLORS = (OPS["saturation"], OPS["hue"])


class ColorJitter(Transform):
    """Changes brightness, contrast, saturation and hue at random, in random order.

    Args:
        brightness: One number b for factors from max(0, 1 - b) to 1 + b, or (least, greatest); None for no change.
        contrast: Likewise.
        saturation: Likewise.
        hue: One number h for shifts from -h to h, at most 0.5, or (least, greatest); None for no change.

    Raises:
        TypeError: An argument has another type.
        ValueError: A number is negative, or a range is not in order or out of bounds. At a call: images have
            another number of channels than 1 or 3.

    Parameters: order (0 to 23, the place in the sorted list of orders of brightness, contrast, saturation, hue),
    and the four factors, uniform.

    Convention: clamp(f * v + (1 - f) * g) to 0 .. 1, where g is 0 for brightness, the mean of grey of the whole
    image at this place for contrast, and the pixel's grey for saturation; grey is 0.2989 r + 0.587 g + 0.114 b.
    Hue turns by f of a circle in HSV. Images of one channel have no saturation and no hue.

    Contrast needs all pixels before it can change one: the core keeps the image of the sample in the cache and
    goes over it once more. A crop that follows contrast begins a further pass, so put crops first.

    Differs from torch: each sample has its own factors and order. uint8 images are not rounded between the steps.

    Source: torchvision.transforms.v2.ColorJitter.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> train = A.Compose([A.ColorJitter(brightness=(2.0, 2.0))], seed=0)
        >>> train(torch.full((1, 1, 1, 3), 0.25)).flatten()
        tensor([0.5000, 0.5000, 0.5000])
    """

    words = 5

    def __init__(
        self,
        brightness: float | Sequence[float] | None = None,
        contrast: float | Sequence[float] | None = None,
        saturation: float | Sequence[float] | None = None,
        hue: float | Sequence[float] | None = None,
    ) -> None:
        self.brightness = _factors("brightness", brightness)
        self.contrast = _factors("contrast", contrast)
        self.saturation = _factors("saturation", saturation)
        self.hue = _factors("hue", hue, 0.0, (-0.5, 0.5))

    def _check(self, channels: int) -> None:
        check_channels("ColorJitter", channels)

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        drawn = {"order": np.floor(u[:, 0] * 24)}
        for k, name in enumerate(_JITTERS):
            bounds = getattr(self, name)
            if bounds is not None:
                drawn[name] = between(u[:, 1 + k], *bounds)
        return drawn

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        used = [k for k, name in enumerate(_JITTERS) if name in drawn and (plan.channels == 3 or k < 2)]
        if not used:
            return
        orders = _ORDERS[drawn["order"].astype(np.int64)]
        # Only the order of those that are used counts: one column of operations for each of them.
        orders = orders[np.isin(orders, used)].reshape(plan.n, len(used))
        factors = np.stack([drawn.get(name, np.ones(plan.n)) for name in _JITTERS], axis=1)
        for order in orders.T:
            factor = factors[np.arange(plan.n), order]
            plan.op(OPS["brightness"] + order, (factor,), on, np.where(order == 1, WHOLE, POINTWISE))


def _factors(
    argument: str, value: Any, center: float = 1.0, bounds: tuple[float, float] = (0.0, math.inf)
) -> tuple[float, float] | None:
    if value is None:
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        low, high = to_pair("ColorJitter", argument, value, *bounds)
    else:
        number = check_finite("ColorJitter", argument, value)
        if number < 0:
            raise ValueError(f"ColorJitter: {argument} must be at least 0 if it is one number, got {value}")
        least = center - number if bounds[0] < 0 else max(center - number, 0.0)
        low, high = to_pair("ColorJitter", argument, (least, center + number), *bounds)
    return None if low == high == center else (low, high)


class RandomGrayscale(RandomTransform):
    """Makes images grey with probability p; all channels stay.

    Args:
        p: The probability, from 0 to 1.

    Raises:
        TypeError: p is no number.
        ValueError: p is not in [0, 1]. At a call: images have another number of channels than 1 or 3.

    Convention: 0.2989 r + 0.587 g + 0.114 b in all channels; images of one channel do not change.

    Differs from torch: each sample has its own draw. torchvision truncates the grey of uint8 images; ours is
    rounded where it is stored.

    Source: torchvision.transforms.v2.RandomGrayscale.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> A.Compose([A.RandomGrayscale(p=1.0)], seed=0)(torch.tensor([[[[1.0, 0.0, 0.0]]]])).flatten()
        tensor([0.2989, 0.2989, 0.2989])
    """

    def __init__(self, p: float = 0.1) -> None:
        super().__init__(p)

    def _check(self, channels: int) -> None:
        check_channels("RandomGrayscale", channels)

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        return {"applied": self._applied(u)}

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        if plan.channels == 3:
            plan.op(OPS["grayscale"], (), chosen(drawn["applied"], on), COMMUTES)


class RandomInvert(RandomTransform):
    """Inverts images with probability p.

    Args:
        p: The probability, from 0 to 1.

    Raises:
        TypeError: p is no number.
        ValueError: p is not in [0, 1].

    Convention: v becomes 1 - v (255 - v of uint8).

    Differs from torch: each sample has its own draw.

    Source: torchvision.transforms.v2.RandomInvert.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> A.Compose([A.RandomInvert(p=1.0)], seed=0)(torch.tensor([[[[0.25]]]]))
        tensor([[[[0.7500]]]])
    """

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        return {"applied": self._applied(u)}

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        plan.op(OPS["invert"], (), chosen(drawn["applied"], on), COMMUTES)


class RandomSolarize(RandomTransform):
    """Inverts values from a threshold on, with probability p.

    Args:
        threshold: In units of the image at this place of the chain: 0 .. 255 for uint8 images before ToDtype and
            Normalize, else 0 .. 1.
        p: The probability, from 0 to 1.

    Raises:
        TypeError: An argument is no number.
        ValueError: p is not in [0, 1]. At a call: the threshold exceeds 255 or 1.

    Convention: v >= threshold becomes 1 - v (255 - v of uint8).

    Differs from torch: each sample has its own draw.

    Source: torchvision.transforms.v2.RandomSolarize.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> A.Compose([A.RandomSolarize(0.5, p=1.0)], seed=0)(torch.tensor([[[[0.25], [0.75]]]]))
        tensor([[[[0.2500, 0.2500]]]])
    """

    def __init__(self, threshold: float, p: float = 0.5) -> None:
        super().__init__(p)
        self.threshold = check_finite("RandomSolarize", "threshold", threshold)

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        if self.threshold > canvas.unit:
            raise ValueError(
                f"RandomSolarize: threshold must be at most {canvas.unit:g} at this place of the chain, got "
                f"{self.threshold:g}"
            )
        return {"applied": self._applied(u)}

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        threshold = np.full(plan.n, self.threshold / plan.unit)
        solarize(plan, threshold, chosen(drawn["applied"], on))


def solarize(plan: Geometry, threshold: Floats, on: Bools) -> None:
    """Plans a solarisation, thresholds from 0 to 1."""
    plan.op(OPS["solarize"], (threshold,), on)


class RandomPosterize(RandomTransform):
    """Keeps the first bits of values, with probability p.

    Args:
        bits: How many, 0 to 8.
        p: The probability, from 0 to 1.

    Raises:
        TypeError: bits is no integer, or p no number.
        ValueError: bits is not in 0 .. 8, or p not in [0, 1].

    Convention: floor(v * 2^bits) / 2^bits, with at most (2^bits - 1) / 2^bits. uint8 images keep all 8 bits as
    they are.

    Differs from torch: each sample has its own draw. uint8 images have torchvision's formula of float images,
    which is at most 1 apart.

    Source: torchvision.transforms.v2.RandomPosterize.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> A.Compose([A.RandomPosterize(1, p=1.0)], seed=0)(torch.tensor([[[[0.25], [0.75]]]]))
        tensor([[[[0.0000, 0.5000]]]])
    """

    def __init__(self, bits: int, p: float = 0.5) -> None:
        super().__init__(p)
        self.bits = check_count("RandomPosterize", "bits", bits, 0, 8)

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        return {"applied": self._applied(u)}

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        posterize(plan, np.full(plan.n, float(self.bits)), chosen(drawn["applied"], on))


def posterize(plan: Geometry, bits: Floats, on: Bools) -> None:
    """Plans a posterisation; uint8 images have no more than 8 bits."""
    if plan.unit != 1.0:
        on = on & (bits < 8)
    plan.op(OPS["posterize"], (2.0**bits,), on)
