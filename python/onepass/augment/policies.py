"""RandAugment and TrivialAugmentWide: policies whose operations become parameters of the same pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from onepass.augment._arrays import Bools, Floats
from onepass.augment._checks import check_channels, check_count, to_fill, to_interpolation
from onepass.augment._plan import POINTWISE, WHOLE
from onepass.augment._records import OPS
from onepass.augment._transform import Canvas, Drawn, Geometry, Transform, check_fill
from onepass.augment.color import posterize, solarize
from onepass.augment.geometry import affine, rotate

__all__ = ["OPERATIONS", "RandAugment", "TrivialAugmentWide"]

OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
)
"""The operations of both policies, in torchvision's order; the parameter operation is an index of it."""

_SIGNED = np.array([1 <= k <= 9 for k in range(len(OPERATIONS))])
_FACTORS = {"Brightness": "brightness", "Color": "saturation", "Contrast": "contrast", "Sharpness": "sharpness"}
_WHOLE_IMAGE = {"AutoContrast": "autocontrast", "Equalize": "equalize"}


class _Policy(Transform):
    """What both policies have in common: operations, each drawn for each sample."""

    def __init__(self, interpolation: Any, fill: Any) -> None:
        name = type(self).__name__
        self.interpolation = to_interpolation(name, interpolation)
        self.fill = fill
        self._fill = to_fill(name, fill)

    def _check(self, channels: int) -> None:
        check_channels(type(self).__name__, channels)
        check_fill(type(self).__name__, self._fill, channels)

    def _perform(self, plan: Geometry, operation: Floats, magnitude: Floats, on: Bools | None) -> None:
        """Plans one operation for each sample."""
        rows = np.ones(plan.n, bool) if on is None else on
        of = {name: rows & (operation == k) for k, name in enumerate(OPERATIONS)}
        self._move(plan, of, magnitude)
        kinds, factors = np.zeros(plan.n), np.ones(plan.n)
        for name, kind in (*_FACTORS.items(), *_WHOLE_IMAGE.items()):
            kinds[of[name]] = OPS[kind]
            if name in _FACTORS:
                factors[of[name]] = 1 + magnitude[of[name]]
        if plan.channels == 1:
            kinds[of["Color"]] = 0
        levels = np.where((kinds == OPS["brightness"]) | (kinds == OPS["saturation"]), POINTWISE, WHOLE)
        if (kinds != 0).any():
            plan.op(kinds, (factors,), kinds != 0, levels)
        if of["Posterize"].any():
            posterize(plan, np.trunc(magnitude), of["Posterize"])
        if of["Solarize"].any():
            solarize(plan, magnitude, of["Solarize"])

    def _move(self, plan: Geometry, of: dict[str, Bools], magnitude: Floats) -> None:
        """Plans the geometric operations."""
        zeros, ones = np.zeros(plan.n), np.ones(plan.n)
        bilinear, fill = self.interpolation, self._fill
        shears = of["ShearX"] | of["ShearY"]
        if shears.any():
            angle = np.degrees(np.arctan(magnitude))
            shear = np.where(of["ShearX"], angle, 0.0), np.where(of["ShearY"], angle, 0.0)
            affine(plan, zeros, (zeros, zeros), ones, shear, bilinear, fill, shears, (0.0, 0.0))
        moves = of["TranslateX"] | of["TranslateY"]
        if moves.any():
            pixels = np.trunc(magnitude)
            shift = np.where(of["TranslateX"], pixels, 0.0), np.where(of["TranslateY"], pixels, 0.0)
            affine(plan, zeros, shift, ones, (zeros, zeros), bilinear, fill, moves)
        if of["Rotate"].any():
            rotate(plan, magnitude, bilinear, fill, of["Rotate"])


def _magnitudes(bins: int, wide: bool, canvas: Canvas, place: Floats) -> Floats:
    """Returns the magnitude of each operation for each sample, whose bin is its place, (n, operations)."""
    # As np.linspace(0, 1, bins), which would be long for many bins.
    steps = np.where(place == bins - 1, 1.0, place * (1.0 / (bins - 1)))
    most = np.zeros((canvas.n, len(OPERATIONS)))
    most[:, 1:3] = 0.99 if wide else 0.3
    most[:, 3] = 32.0 if wide else 150.0 / 331.0 * canvas.width
    most[:, 4] = 32.0 if wide else 150.0 / 331.0 * canvas.height
    most[:, 5] = 135.0 if wide else 30.0
    most[:, 6:10] = 0.99 if wide else 0.9
    table: Floats = most * steps[:, None]
    # As torchvision: 8 bits down to 4, or to 2.
    table[:, 10] = np.rint(8 - place / max((bins - 1) / (6 if wide else 4), 1e-300))
    table[:, 11] = 1 - steps
    return table


class RandAugment(_Policy):
    """Applies num_ops operations of a list at one magnitude, each drawn for each sample.

    Args:
        num_ops: How many operations.
        magnitude: The bin of all magnitudes, 0 to num_magnitude_bins - 1.
        num_magnitude_bins: How many bins the ranges of magnitudes have, at least 2.
        interpolation: ``"nearest"`` or ``"bilinear"``.
        fill: What stands outside of the image, as in `RandomRotation`; None blends with 0.

    Raises:
        TypeError: An argument has another type.
        ValueError: A number is out of range; the interpolation is another one. At a call: images have another
            number of channels than 1 or 3.

    Parameters: for each k below num_ops, operation k (an index of Identity, ShearX, ShearY, TranslateX,
    TranslateY, Rotate, Brightness, Color, Contrast, Sharpness, Posterize, Solarize, AutoContrast, Equalize) and
    magnitude k with its sign; uniform.

    Convention: the formulas are torchvision's for float images. Maps are those of `RandomAffine`, with the corner
    of the image fixed by shears.

    Differs from torch: each sample has its own operations. Consecutive maps are one; one that follows
    AutoContrast, Contrast, Equalize or Sharpness begins a further pass, as does a bilinear one after any operation
    on colors.

    Source: torchvision.transforms.v2.RandAugment; Cubuk et al. 2020.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> train = A.Compose([A.RandAugment()], seed=0)
        >>> train(torch.zeros(2, 16, 16, 3, dtype=torch.uint8)).shape
        torch.Size([2, 3, 16, 16])
    """

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: int = 9,
        num_magnitude_bins: int = 31,
        interpolation: Any = "nearest",
        fill: Any = None,
    ) -> None:
        super().__init__(interpolation, fill)
        self.num_ops = check_count("RandAugment", "num_ops", num_ops, 0)
        self.num_magnitude_bins = check_count("RandAugment", "num_magnitude_bins", num_magnitude_bins, 2)
        self.magnitude = check_count("RandAugment", "magnitude", magnitude, 0, num_magnitude_bins - 1)
        self.words = 2 * num_ops

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        place = np.full(canvas.n, float(self.magnitude))
        table = _magnitudes(self.num_magnitude_bins, False, canvas, place)
        drawn = {}
        for k in range(self.num_ops):
            operation = (u[:, 2 * k] * len(OPERATIONS)).astype(np.int64)
            size = table[np.arange(canvas.n), operation]
            drawn[f"operation{k}"] = operation.astype(float)
            drawn[f"magnitude{k}"] = _signed(size, operation, u[:, 2 * k + 1])
        return drawn

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        for k in range(self.num_ops):
            self._perform(plan, drawn[f"operation{k}"], drawn[f"magnitude{k}"], on)


class TrivialAugmentWide(_Policy):
    """Applies one operation of a list at a random magnitude, both drawn for each sample.

    Args:
        num_magnitude_bins: How many bins the ranges of magnitudes have, at least 2.
        interpolation: ``"nearest"`` or ``"bilinear"``.
        fill: What stands outside of the image, as in `RandomRotation`; None blends with 0.

    Raises:
        TypeError: An argument has another type.
        ValueError: There are fewer than 2 bins; the interpolation is another one. At a call: images have another
            number of channels than 1 or 3.

    Parameters: operation, an index as in `RandAugment`, and magnitude with its sign; uniform.

    Convention: as that of `RandAugment`.

    Differs from torch: each sample has its own operation.

    Source: torchvision.transforms.v2.TrivialAugmentWide; Mueller and Hutter 2021.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> train = A.Compose([A.TrivialAugmentWide()], seed=0)
        >>> train(torch.zeros(2, 16, 16, 3, dtype=torch.uint8)).shape
        torch.Size([2, 3, 16, 16])
    """

    words = 3

    def __init__(self, num_magnitude_bins: int = 31, interpolation: Any = "nearest", fill: Any = None) -> None:
        super().__init__(interpolation, fill)
        self.num_magnitude_bins = check_count("TrivialAugmentWide", "num_magnitude_bins", num_magnitude_bins, 2)

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        place = np.floor(u[:, 1] * self.num_magnitude_bins)
        table = _magnitudes(self.num_magnitude_bins, True, canvas, place)
        operation = (u[:, 0] * len(OPERATIONS)).astype(np.int64)
        size = table[np.arange(canvas.n), operation]
        return {"operation": operation.astype(float), "magnitude": _signed(size, operation, u[:, 2])}

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        self._perform(plan, drawn["operation"], drawn["magnitude"], on)


def _signed(size: Floats, operation: Any, u: Floats) -> Floats:
    negative: Floats = np.where(_SIGNED[operation] & (u < 0.5), -size, size)
    return negative
