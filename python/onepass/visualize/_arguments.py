"""Checks of the arguments that trajectories and landscapes share."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

from onepass._arguments import told

__all__ = ["check_count", "check_positive", "check_seed", "pair"]


def check_count(function: str, argument: str, value: Any, least: int) -> int:
    """Returns an integer that is at least `least`; raises TypeError or ValueError otherwise."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{function}: {argument} must be an integer, got {told(value)}")
    if value < least:
        raise ValueError(f"{function}: {argument} must be at least {least}, got {value}")
    return int(value)


def check_seed(function: str, value: Any) -> int:
    """Returns a seed of 64 bits; raises TypeError or ValueError otherwise."""
    seed = check_count(function, "seed", value, 0)
    if seed >= 2**64:
        raise ValueError(f"{function}: seed must be below 2**64, got {seed}")
    return seed


def check_positive(function: str, argument: str, value: Any) -> float:
    """Returns a finite number above 0; raises TypeError or ValueError otherwise."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{function}: {argument} must be a number, got {told(value)}")
    if not 0 < float(value) < math.inf:
        raise ValueError(f"{function}: {argument} must be finite and above 0, got {value}")
    return float(value)


def pair(function: str, argument: str, value: Any) -> tuple[float, float]:
    """Returns two finite numbers; raises TypeError or ValueError otherwise."""
    try:
        first, second = (float(one) for one in value)
    except (TypeError, ValueError):
        raise TypeError(f"{function}: {argument} must be two numbers, got {told(value)}") from None
    if not (math.isfinite(first) and math.isfinite(second)):
        raise ValueError(f"{function}: {argument} must be finite, got {told(value)}")
    return first, second
