"""The path of one optimizer over a surface."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Trajectory", "plain"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Holds the path of one optimizer: n steps from the start.

    Example:
        >>> from onepass.visualize import trajectories
        >>> (path,) = trajectories("ravine", {"plain": "sgd"}, steps=3, lr=0.01).paths
        >>> path.label, path.optimizer, path.lr, path.losses.shape, path.step_sizes.shape
        ('plain', 'SGD', 0.01, (4,), (3,))
    """

    label: str
    """Its name in tables and pictures."""
    optimizer: str
    """The optimizer's class."""
    lr: float
    """The learning rate, before the schedule."""
    points: Floats
    """Where it was before each step and at the end, (n + 1, 2)."""
    losses: Floats
    """The loss at each point, without noise, (n + 1,)."""
    rates: Floats
    """The learning rate of each step, (n,)."""
    grad_norms: Floats
    """The norm of the gradient at each point, without noise, (n + 1,)."""
    ended: str = ""
    """Why it has fewer steps than asked for: "not finite", or "" if it has all."""
    tried: list[tuple[float, float]] = field(default_factory=list)
    """The rates of the search and their scores; empty where the rate was given."""

    @property
    def step_sizes(self) -> Floats:
        """The distance that each step went, (n,)."""
        # The last point of a run that diverged may be infinite.
        with np.errstate(over="ignore", invalid="ignore"):
            distances: Floats = np.hypot(*np.diff(self.points, axis=0).T)
        return distances

    def to_json(self) -> dict[str, Any]:
        """Returns the path as JSON takes it: numbers that are not finite are None."""
        return {
            "label": self.label,
            "optimizer": self.optimizer,
            "lr": self.lr,
            "ended": self.ended,
            "x": plain(self.points[:, 0]),
            "y": plain(self.points[:, 1]),
            "losses": plain(self.losses),
            "rates": plain(self.rates),
            "step_sizes": plain(self.step_sizes),
            "grad_norms": plain(self.grad_norms),
            "tried": [[rate, value if math.isfinite(value) else None] for rate, value in self.tried],
        }


def plain(values: Floats) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
