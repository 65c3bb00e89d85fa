"""MixUp and CutMix."""

from __future__ import annotations

import numpy as np

from onepass.augment._arrays import Bools, Floats
from onepass.augment._checks import check_count, check_finite
from onepass.augment._transform import Canvas, Drawn, Geometry, Transform

__all__ = ["CutMix", "MixUp", "Mixing"]

# The tries of a rejection of which at least 95 % pass: all fail in one of 10^10 samples.
_TRIES = 8


class Mixing(Transform):
    """What mixes two samples of the batch."""

    mixing = True

    def __init__(self, alpha: float = 1.0, num_classes: int | None = None) -> None:
        name = type(self).__name__
        self.alpha = check_finite(name, "alpha", alpha)
        if self.alpha <= 0:
            raise ValueError(f"{name}: alpha must be positive, got {alpha}")
        self.num_classes = None if num_classes is None else check_count(name, "num_classes", num_classes, 1)


class MixUp(Mixing):
    """Mixes each sample with the one before it in the batch: lam * own + (1 - lam) * other.

    Args:
        alpha: lam is drawn from Beta(alpha, alpha).
        num_classes: How many classes there are, to check labels; None for no check.

    Raises:
        TypeError: An argument has another type.
        ValueError: alpha is not positive, or num_classes below 1. At a call: a label is none of the classes.

    Parameters: lam. The partner of sample i is sample i - 1 of the batch, of the first the last one: it depends on
    the batch, and nothing else does. Both are augmented first; nothing may follow in the chain.

    Convention: the mix is made in float32 where the output is stored, and rounded once.

    Differs from torch: each sample has its own lam. Labels stay integers: the call returns (labels, labels2, lam),
    as `onepass.nn.functional.cross_entropy` takes them. ``labels_getter`` is not there: labels are an argument.

    Source: torchvision.transforms.v2.MixUp; Zhang et al. 2018.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> train = A.Compose([A.MixUp(0.2)], seed=0)
        >>> x, (labels, labels2, lam) = train(torch.rand(4, 8, 8, 3), torch.arange(4), ids=range(4))
        >>> labels2
        tensor([3, 0, 1, 2])
    """

    words = 4 * _TRIES + 2

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        return {"lam": beta(u, self.alpha)}

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        plan.mix("mixup", on, lam=drawn["lam"])


class CutMix(Mixing):
    """Pastes a box of the sample before it in the batch into each sample.

    Args:
        alpha: lam is drawn from Beta(alpha, alpha).
        num_classes: How many classes there are, to check labels; None for no check.

    Raises:
        TypeError: An argument has another type.
        ValueError: alpha is not positive, or num_classes below 1. At a call: a label is none of the classes.

    Parameters: left, top, right, bottom of the box, and lam, the share of the image that is not in it. The box has
    its centre at a uniform pixel and half sides int(r * width), int(r * height) with r = sqrt(1 - lam) / 2, and is
    cut at the edges of the image. Partners are those of `MixUp`.

    Convention: pixels are chosen where the output is stored; no value changes.

    Differs from torch: each sample has its own box. Labels stay integers, as with `MixUp`.

    Source: torchvision.transforms.v2.CutMix; Yun et al. 2019.

    Example:
        >>> import torch
        >>> from onepass import augment as A
        >>> train = A.Compose([A.CutMix()], seed=0)
        >>> x, (labels, labels2, lam) = train(torch.rand(4, 8, 8, 3), torch.arange(4), ids=range(4))
        >>> bool(((lam >= 0) & (lam <= 1)).all())
        True
    """

    words = 4 * _TRIES + 4

    def _draw(self, u: Floats, canvas: Canvas) -> Drawn:
        reach = 0.5 * np.sqrt(1 - beta(u, self.alpha))
        box = {}
        for k, (low, high, size) in enumerate((("left", "right", canvas.width), ("top", "bottom", canvas.height))):
            middle, half = np.floor(u[:, k - 2] * size), np.floor(reach * size)
            box[low], box[high] = np.maximum(middle - half, 0), np.minimum(middle + half, size)
        cut = (box["right"] - box["left"]) * (box["bottom"] - box["top"])
        return {**box, "lam": 1 - cut / (canvas.width * canvas.height)}

    def _apply(self, plan: Geometry, drawn: Drawn, on: Bools | None) -> None:
        plan.mix("cutmix", on, **drawn)


def beta(u: Floats, alpha: float) -> Floats:
    """Draws numbers of Beta(alpha, alpha), one for each row, of 4 * _TRIES + 2 numbers in [0, 1).

    Two numbers of Gamma(alpha) in logarithms, each by Marsaglia and Tsang 2000 for alpha + 1 and a power of a
    uniform number; the first try that passes counts.
    """
    n, d = len(u), alpha + 2 / 3
    # Never 0, whose logarithm there is not; never 1.
    tries = u[:, : 4 * _TRIES].reshape(n, _TRIES, 4) + 2.0**-33
    radius, turn = np.sqrt(-2 * np.log(tries[..., 0].copy())), 2 * np.pi * tries[..., 1]
    normal = np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)
    cube = (1 + normal / np.sqrt(9 * d)) ** 3
    possible = np.where(cube > 0, cube, 1.0)
    passes = np.log(tries[..., 2:].transpose(0, 2, 1).copy()) < (
        normal**2 / 2 + d * (1 - possible + np.log(possible))
    )
    passes &= cube > 0
    first = passes.argmax(2)
    gamma = np.where(passes.any(2), np.take_along_axis(possible, first[..., None], 2)[..., 0], 1.0)
    power = np.log(u[:, 4 * _TRIES : 4 * _TRIES + 2] + 2.0**-33) / alpha
    logs = np.log(gamma) + power
    lam: Floats = 1 / (1 + np.exp(np.clip(logs[:, 1] - logs[:, 0], -700, 700)))
    return lam
