"""Estimates over seeds, and the checks that a verdict is made of. scipy gives the intervals."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Check", "Estimate", "decoded", "encoded", "estimate", "ratio"]

# The level of all intervals that have no reason for another one.
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """Holds the mean over seeds, and the ends of its confidence interval.

    The ends are nan where one seed, or a value that is not finite, allows no interval.
    """

    mean: float
    low: float
    high: float
    count: int
    """How many seeds there are."""

    def __str__(self) -> str:
        if not math.isfinite(self.low):
            return f"{self.mean:.4g}"
        return f"{self.mean:.4g} ± {(self.high - self.low) / 2:.2g}"

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers as strict JSON takes them."""
        return {"mean": encoded(self.mean), "low": encoded(self.low), "high": encoded(self.high), "n": self.count}

    @staticmethod
    def from_json(written: dict[str, Any]) -> Estimate:
        """Reads what `to_json` returned.

        Args:
            written: The numbers.
        """
        mean, low, high = (decoded(written[name]) for name in ("mean", "low", "high"))
        return Estimate(mean, low, high, written["n"])


@dataclass(frozen=True)
class Check:
    """Holds one effect that a criterion is about, and the bounds that its whole interval must keep."""

    text: str
    """What the effect is, with its unit."""
    effect: Estimate
    above: float | None = None
    """The interval must be above this number."""
    below: float | None = None
    """The interval must be below this number."""

    @property
    def holds(self) -> bool:
        """Whether the interval keeps the bounds. Without an interval it does not."""
        low, high = self.effect.low, self.effect.high
        inside = math.isfinite(low) and math.isfinite(high)
        return inside and (self.above is None or low > self.above) and (self.below is None or high < self.below)

    @property
    def wanted(self) -> str:
        """The bounds in words."""
        bounds = ((self.above, "above"), (self.below, "below"))
        return " and ".join(f"{word} {bound:.4g}" for bound, word in bounds if bound is not None)

    def to_json(self) -> dict[str, Any]:
        """Returns the check as strict JSON takes it."""
        bounds = {"above": self.above, "below": self.below}
        return {"text": self.text, "effect": self.effect.to_json(), **bounds, "holds": self.holds}

    @staticmethod
    def from_json(written: dict[str, Any]) -> Check:
        """Reads what `to_json` returned.

        Args:
            written: The check.
        """
        return Check(written["text"], Estimate.from_json(written["effect"]), written["above"], written["below"])


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Estimates a mean and its confidence interval, from Student's t distribution.

    Args:
        values: A value for each seed.
        level: The level of the interval.
    """
    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean())
    if not np.isfinite(found).all():
        return Estimate(mean, math.nan, math.nan, len(found))
    if len(found) == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    if np.ptp(found) == 0.0:
        # scipy gives nan for a scale of 0.
        return Estimate(mean, mean, mean, len(found))
    stats = _scipy_stats()
    low, high = stats.t.interval(level, len(found) - 1, loc=mean, scale=stats.sem(found))
    return Estimate(mean, float(low), float(high), len(found))


def ratio(over: Sequence[float], under: Sequence[float], level: float = LEVEL) -> Estimate:
    """Estimates the geometric mean of the ratio of two values of each seed.

    Args:
        over: A positive value for each seed.
        under: The values that these are divided by.
        level: The level of the interval.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        logs = estimate(np.log(np.asarray(over, np.float64) / np.asarray(under, np.float64)).tolist(), level)
        mean, low, high = (float(np.exp(value)) for value in (logs.mean, logs.low, logs.high))
        return Estimate(mean, low, high, logs.count)


def encoded(value: float) -> float | str:
    """Returns a number as strict JSON takes it: the string "nan", "inf" or "-inf" where it is not finite.

    Args:
        value: The number.
    """
    return value if math.isfinite(value) else str(float(value))


def decoded(value: float | str) -> float:
    """Reads what `encoded` returned.

    Args:
        value: The number or the string.
    """
    return float(value)


def _scipy_stats() -> Any:
    try:
        return importlib.import_module("scipy.stats")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'lab: the intervals must come from the package scipy (pip install "onepass[lab]"), got: {error}'
        ) from error
