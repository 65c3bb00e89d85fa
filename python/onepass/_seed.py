"""Checks seeds, alike for all that draws random numbers."""

from __future__ import annotations

from typing import Any

from onepass._arguments import told

__all__ = ["check_seed"]


def check_seed(function: str, seed: Any, wanted: str = "an int") -> None:
    """Checks that a seed is an integer of 64 bits.

    Args:
        function: The function that was called, for messages.
        seed: The seed.
        wanted: What it may be, for messages.

    Raises:
        TypeError: The seed is no integer.
        ValueError: The seed is negative, or at least 2**64.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"{function}: seed must be {wanted}, got {told(seed)}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"{function}: seed must be at least 0 and below 2**64, got {seed}")
