"""What pictures of experiments share: colours, bars with intervals, lines with bands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from onepass.lab.experiment import Points
from onepass.lab.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "bars", "curve_bands", "line"]

COLOURS = ("#d1495b", "#30638e", "#edae49", "#2a9d8f", "#8f5fbf", "#6b705c", "#8fbfd8", "#e07a9b")


def line(axes: Axes, x: Sequence[float], estimates: Sequence[Estimate], label: str, colour: int) -> None:
    """Draws means over x, with a band for their intervals.

    Args:
        axes: Where it goes.
        x: The places.
        estimates: A mean for each place.
        label: The name in the legend.
        colour: The number of the colour.
    """
    shade = COLOURS[colour % len(COLOURS)]
    axes.plot(x, [one.mean for one in estimates], "o-", color=shade, label=label, markersize=3.5, linewidth=1.5)
    low, high = ([getattr(one, end) for one in estimates] for end in ("low", "high"))
    axes.fill_between(x, low, high, color=shade, alpha=0.15, linewidth=0)


def bars(axes: Axes, labels: Sequence[str], estimates: Sequence[Estimate], colour: int = 0) -> None:
    """Draws a horizontal bar with its interval for each label.

    Args:
        axes: Where they go.
        labels: The names.
        estimates: A mean for each.
        colour: The number of the colour.
    """
    halves = [0.0 if math.isnan(one.low) else (one.high - one.low) / 2 for one in estimates]
    places = range(len(labels))
    shade = COLOURS[colour % len(COLOURS)]
    axes.barh(places, [one.mean for one in estimates], xerr=halves, color=shade, alpha=0.85, capsize=2)
    axes.set_yticks(list(places), list(labels))
    axes.invert_yaxis()


def curve_bands(axes: Axes, points: Points, name: str, label: str, colour: int, step: float = 1.0) -> None:
    """Draws the median over seeds of a curve, with a band from the lowest to the highest.

    Args:
        axes: Where it goes.
        points: The points of one case.
        name: The name of the curve.
        label: The name in the legend.
        colour: The number of the colour.
        step: How far two values of the curve are apart.
    """
    shade = COLOURS[colour % len(COLOURS)]
    found = np.asarray([point.curves[name] for point in points], dtype=np.float64)
    x = np.arange(found.shape[1]) * step
    axes.plot(x, np.median(found, axis=0), color=shade, label=label, linewidth=1.5)
    axes.fill_between(x, found.min(axis=0), found.max(axis=0), color=shade, alpha=0.15, linewidth=0)
