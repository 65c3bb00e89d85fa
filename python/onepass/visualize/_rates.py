"""The search for a learning rate, as `--lr auto` does it."""

from __future__ import annotations

import math

import numpy as np

from onepass.visualize._descent import Contender, Descent, Window, descend

__all__ = ["RATES", "score", "search"]

RATES: tuple[float, ...] = tuple(float(rate) for rate in np.geomspace(1e-4, 10.0, 31))
"""The rates that are tried: six in each factor of ten."""
_LAST = 10


def score(losses: np.ndarray) -> float:
    """Returns the median of the last tenth of the losses: one lucky step of a swinging run does not win."""
    return float(np.median(losses[-max(1, len(losses) // _LAST) :]))


def search(descent: Descent, contender: Contender, window: Window | None) -> list[tuple[float, float]]:
    """Tries all rates.

    Args:
        descent: Function, start, steps, schedule, noise.
        contender: The optimizer.
        window: A rate whose run leaves it does not count; None for no window.

    Returns:
        Each rate with its score, which is infinite where the rate does not count.

    Raises:
        RuntimeError: No rate counts.
    """
    found = []
    for rate in RATES:
        run = descend(descent, contender, rate, within=window)
        found.append((rate, math.inf if run.ended else score(run.losses)))
    if not any(math.isfinite(value) for _, value in found):
        raise RuntimeError(
            f"trajectories: lr must be given for {contender.label}, because no rate from {RATES[0]:g} to "
            f"{RATES[-1]:g} stays finite and in the window"
        )
    return found
