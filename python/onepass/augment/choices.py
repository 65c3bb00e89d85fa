"""RandomApply and RandomChoice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onepass._arguments import told
from onepass.augment._arrays import Bools, Floats
from onepass.augment._checks import check_finite
from onepass.augment._transform import Canvas, Drawn, RandomTransform, Transform, chosen

__all__ = ["RandomApply", "RandomChoice"]


class RandomApply(RandomTransform):
    """Applies transforms together with probability p.

    Args:
        transforms: A sequence of transforms of this module.
        p: The probability, from 0 to 1.

    Raises:
        TypeError: transforms is no sequence, or holds something else than transforms; p is no number.
        ValueError: transforms is empty, or p not in [0, 1].

    Convention: as that of the transforms.

    Differs from torch: each sample has its own draw. ToDtype and Normalize, which change the units, must stand
    outside.

    Source: torchvision.transforms.v2.RandomApply.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> train = A.Compose([A.RandomApply([A.RandomInvert(p=1.0)], p=1.0)], seed=0)
        >>> train(torch.ones(1, 1, 1, 1))
        tensor([[[[0.]]]])
    """

    def __init__(self, transforms: Sequence[Transform], p: float = 0.5) -> None:
        super().__init__(p)
        self.transforms = self.children = check_transforms("RandomApply", transforms)
        self.mixing = check_mixing("RandomApply", self.children)

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        return {"applied": self._applied(u)}

    def _child(self, k: int, drawn: Drawn, on: Bools | None) -> Bools | None:
        return chosen(drawn["applied"], on)


class RandomChoice(Transform):
    """Applies one of several transforms.

    Args:
        transforms: A sequence of transforms of this module.
        p: A weight for each, normalised to the sum 1; None for equal ones.

    Raises:
        TypeError: transforms is no sequence, or holds something else than transforms; a weight is no number.
        ValueError: transforms is empty; p has another length, or a weight is negative, or all are 0.

    Parameters: choice, the index of the transform.

    Convention: as that of the transforms.

    Differs from torch: each sample has its own draw. ToDtype and Normalize, which change the units, must stand
    outside.

    Source: torchvision.transforms.v2.RandomChoice.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> choice = A.RandomChoice([A.RandomInvert(p=1.0), A.RandomGrayscale(p=1.0)], p=[1, 0])
        >>> A.Compose([choice], seed=0)(torch.ones(1, 1, 1, 1))
        tensor([[[[0.]]]])
    """

    words = 1

    def __init__(self, transforms: Sequence[Transform], p: Sequence[float] | None = None) -> None:
        self.transforms = self.children = check_transforms("RandomChoice", transforms)
        self.mixing = check_mixing("RandomChoice", self.children)
        if p is None:
            p = [1.0] * len(transforms)
        if isinstance(p, np.ndarray):
            p = p.tolist()
        if isinstance(p, str) or not isinstance(p, Sequence):
            raise TypeError(
                f"RandomChoice: p must be a sequence of {len(transforms)} numbers or None, got {told(p)}"
            )
        if len(p) != len(transforms):
            raise ValueError(f"RandomChoice: p must have {len(transforms)} numbers, one a transform, got {len(p)}")
        weights = [check_finite("RandomChoice", "p", one) for one in p]
        if min(weights) < 0 or sum(weights) == 0:
            raise ValueError(f"RandomChoice: p must have numbers of at least 0, not all 0, got {told(p)}")
        self.p = [one / sum(weights) for one in weights]
        self._limits = np.cumsum(self.p)[:-1]

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        return {"choice": np.searchsorted(self._limits, u[:, 0], side="right").astype(float)}

    def _child(self, k: int, drawn: Drawn, on: Bools | None) -> Bools | None:
        return chosen((drawn["choice"] == k).astype(float), on)


def check_transforms(name: str, transforms: Any) -> list[Transform]:
    """Returns a list of transforms."""
    if isinstance(transforms, str) or not isinstance(transforms, Sequence):
        raise TypeError(f"{name}: transforms must be a sequence, got {told(transforms)}")
    for one in transforms:
        if not isinstance(one, Transform):
            raise TypeError(f"{name}: transforms must be transforms of onepass.augment, got {told(one)}")
    return list(transforms)


def check_mixing(name: str, transforms: Sequence[Transform]) -> bool:
    """Says whether transforms mix samples; either all do or none."""
    if not transforms:
        raise ValueError(f"{name}: transforms must have at least one, got none")
    mixing = [one.mixing for one in transforms]
    if any(mixing) and not all(mixing):
        raise ValueError(
            f"{name}: transforms must all be MixUp or CutMix, or none of them, got {told(list(transforms))}"
        )
    return any(mixing)
