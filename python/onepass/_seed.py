"""Seeds, as all that draws random numbers takes them."""

from __future__ import annotations

from typing import Any

__all__ = ["check_seed"]


def check_seed(function: str, seed: Any, wanted: str = "an int") -> None:
    """Raises TypeError unless the seed is an integer, ValueError unless it is one of 64 bits.

    Args:
        function: Who asks, for messages.
        seed: The seed.
        wanted: What it may be, for messages.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"{function}: seed must be {wanted}, got {seed!r}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"{function}: seed must be at least 0 and below 2**64, got {seed}")
