"""The adaptive grid: which points of a landscape are evaluated, and how the others are filled in.

The grid is a ladder of lattices with strides 8, 4, 2 and 1. The first two are evaluated whole. A point of a finer
lattice is predicted by cubic interpolation from the coarser one. What a prediction misses at points that are
evaluated (the surplus of an interpolating wavelet; Deslauriers and Dubuc 1989, Donoho 1992) says where the next
lattice needs evaluations: the surplus of a smooth function falls by 16 from one lattice to the next, that of a
kink by 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["STRIDES", "Refined", "heights", "predict", "refine"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Evaluate = Callable[[int, int], float]

STRIDES = (8, 4, 2, 1)
# A prediction's error is taken for this share of the surplus of its surroundings: between that of a smooth
# function (1/16) and that of a kink (1/2).
_DECAY = 0.25
# Of the points that were not evaluated, this share of the whole grid is evaluated at the end, as a check.
_CHECKED = 0.02
# Above this ratio of the largest to the smallest loss, the picture's heights are logarithms.
_RATIO = 10.0


@dataclass(frozen=True)
class Refined:
    """What the refinement found."""

    losses: Floats
    """The losses, evaluated or filled in."""
    evaluated: Bools
    """Which points were evaluated."""
    log: bool
    """Whether heights are logarithms of the losses."""
    checked: int
    """How many points were evaluated at the end, as a check of what had been filled in."""
    largest_error: float
    """The largest error at these points, as a share of the picture's range of heights."""
    estimate: float
    """The largest error that was expected at a point that was not evaluated, likewise."""


def heights(losses: Floats, log: bool) -> Floats:
    """Computes what a picture shows: the losses or their logarithms; those that are not finite are the top.

    Args:
        losses: The losses.
        log: Whether logarithms are shown.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        shown: Floats = np.log10(losses) if log else losses.astype(float)
    finite = shown[np.isfinite(shown)]
    top = float(finite.max()) if finite.size else 0.0
    filled: Floats = np.where(np.isfinite(shown), shown, top)
    return filled


def predict(values: Floats, stride: int) -> Floats:
    """Fills a lattice from the one of twice the stride, by cubic interpolation along rows, then along columns.

    Args:
        values: The grid; only points at multiples of 2 * stride are read.
        stride: The stride of the lattice that is filled.

    Returns:
        The values at multiples of stride, (m, m).
    """
    coarse = values[:: 2 * stride, :: 2 * stride]
    found: Floats = _doubled(_doubled(coarse).T).T
    return found


def _doubled(rows: Floats) -> Floats:
    """Puts a row between each two neighbours, from the four nearest; at the ends from the first four."""
    count = rows.shape[0]
    out = np.empty((2 * count - 1, rows.shape[1]))
    out[::2] = rows
    if count < 4:
        out[1::2] = (rows[:-1] + rows[1:]) / 2
        return out
    out[3:-3:2] = (9 * (rows[1:-2] + rows[2:-1]) - (rows[:-3] + rows[3:])) / 16
    out[1] = (5 * rows[0] + 15 * rows[1] - 5 * rows[2] + rows[3]) / 16
    out[-2] = (5 * rows[-1] + 15 * rows[-2] - 5 * rows[-3] + rows[-4]) / 16
    return out


def refine(size: int, evaluate: Evaluate, tolerance: float, seed: int) -> Refined:
    """Evaluates at most a third of a grid, where the picture needs it, and fills in the rest.

    Args:
        size: Points along each axis, a multiple of 8 plus 1.
        evaluate: Computes the loss at a row and a column.
        tolerance: The error of a filled point that is aimed at, as a share of the picture's range of heights.
        seed: Chooses the points that are checked at the end.
    """
    ladder = _Ladder(size, evaluate)
    ladder.begin()
    checks = max(1, round(_CHECKED * size * size))
    budget = size * size // 3 - checks
    for stride in STRIDES[2:]:
        ladder.descend(stride, tolerance, budget)
    errors = ladder.check(checks, seed)
    with np.errstate(over="ignore"):
        filled = 10.0**ladder.shown if ladder.log else ladder.shown
    return Refined(
        losses=np.where(ladder.evaluated, ladder.losses, filled),
        evaluated=ladder.evaluated,
        log=ladder.log,
        checked=len(errors),
        largest_error=float(errors.max(initial=0.0)) / ladder.span,
        estimate=ladder.expected / ladder.span,
    )


class _Ladder:
    """The grid while it is refined."""

    def __init__(self, size: int, evaluate: Evaluate) -> None:
        self.evaluate = evaluate
        self.losses = np.full((size, size), np.nan)
        self.evaluated = np.zeros((size, size), dtype=bool)
        self.shown = np.zeros((size, size))
        self.detail = np.zeros((size, size))
        """What predictions missed, or are expected to miss, at the points of the last lattice."""
        self.expected = 0.0

    def begin(self) -> None:
        """Evaluates the first two lattices, and decides how heights are shown."""
        _, second = STRIDES[:2]
        lattice = self._lattice(second)
        self._take(lattice)
        known = self.losses[lattice]
        finite = known[np.isfinite(known)]
        self.log = bool(finite.size and finite.min() > 0 and finite.max() > _RATIO * finite.min())
        self.top = float(heights(finite, self.log).max(initial=0.0)) if finite.size else 0.0
        self._show(lattice)
        self.span = float(np.ptp(self.shown[lattice])) or 1.0
        missed = np.abs(self.shown[::second, ::second] - predict(self.shown, second))
        self.detail[::second, ::second] = missed

    def descend(self, stride: int, tolerance: float, budget: int) -> None:
        """Fills the next lattice: by evaluations where large errors are expected, by predictions elsewhere."""
        predicted = np.zeros_like(self.shown)
        predicted[::stride, ::stride] = predict(self.shown, stride)
        new = self._lattice(stride) & ~self._lattice(2 * stride)
        expected = np.zeros_like(self.shown)
        expected[::stride, ::stride] = _DECAY * _spread(self.detail[:: 2 * stride, :: 2 * stride])
        expected[~new] = 0.0
        self.shown[new] = predicted[new]
        order = np.argsort(-expected, axis=None, kind="stable")
        order = order[expected.flat[order] > tolerance * self.span][: max(0, budget - int(self.evaluated.sum()))]
        chosen = np.zeros_like(new)
        chosen.flat[order] = True
        self._take(chosen)
        self._show(chosen)
        self.detail = np.where(chosen, np.abs(self.shown - predicted), expected)
        self.expected = max(self.expected, float(np.where(chosen, 0.0, expected).max()))

    def check(self, count: int, seed: int) -> Floats:
        """Evaluates some points that were filled in; returns the errors that they had."""
        rest = np.flatnonzero(~self.evaluated)
        drawn = np.random.Generator(np.random.Philox(seed)).permutation(rest)[:count]
        mask = np.zeros_like(self.evaluated)
        mask.flat[drawn] = True
        before = self.shown[mask]
        self._take(mask)
        self._show(mask)
        return np.abs(self.shown[mask] - before)

    def _lattice(self, stride: int) -> Bools:
        mask = np.zeros_like(self.evaluated)
        mask[::stride, ::stride] = True
        return mask

    def _take(self, mask: Bools) -> None:
        for row, column in zip(*(index.tolist() for index in np.nonzero(mask & ~self.evaluated)), strict=True):
            self.losses[row, column] = self.evaluate(row, column)
            self.evaluated[row, column] = True

    def _show(self, mask: Bools) -> None:
        """Puts evaluated losses into what is shown."""
        with np.errstate(divide="ignore", invalid="ignore"):
            shown = np.log10(self.losses[mask]) if self.log else self.losses[mask]
        finite = np.isfinite(shown)
        self.top = max(self.top, float(shown[finite].max(initial=self.top)))
        self.shown[mask] = np.where(finite, shown, self.top)


def _spread(detail: Floats) -> Floats:
    """Takes details to the next lattice: each point gets the largest one of its surroundings."""
    padded = np.pad(detail, 1)
    size = len(detail)
    around = np.max([padded[i : i + size, j : j + size] for i in range(3) for j in range(3)], axis=0)
    out = np.zeros((2 * size - 1, 2 * size - 1))
    out[::2, ::2] = around
    out[1::2, ::2] = np.maximum(around[:-1], around[1:])
    out[:, 1::2] = np.maximum(out[:, :-2:2], out[:, 2::2])
    return out
