"""Pictures of trajectories, by matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["COLOURS", "draw_paths", "draw_scene", "levels_of"]

# Told apart on the dark and the light parts of a surface, and by people who do not see red and green.
COLOURS = ("#d1495b", "#edae49", "#00798c", "#6a4c93", "#2e2e2e", "#8ac926", "#ff70a6", "#4f9dc4")
# The share of the median gap that is added to every gap: the logarithm is finite at the minimum.
_FLOOR = 1e-2
_SMALLEST = 1e-16

Floats = NDArray[np.float64]


def levels_of(values: Floats) -> Floats:
    """Computes heights for contours: the logarithm of the gap to the least value, scaled to go from 0 to 1.

    Args:
        values: Values of a function; those that are not finite stay so.
    """
    finite = values[np.isfinite(values)]
    if not finite.size or finite.max() == finite.min():
        return np.where(np.isfinite(values), 0.0, np.nan)
    gaps = np.where(np.isfinite(values), values, np.nan) - finite.min()
    heights = np.log10(gaps + _FLOOR * float(np.nanmedian(gaps)) + 1e-300)
    low, high = np.nanmin(heights), np.nanmax(heights)
    scaled: Floats = (heights - low) / (high - low)
    return scaled


def draw_paths(runs: Any) -> Any:
    """Draws the paths over the contours, and the losses; returns the figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    x, y, values = runs.grid
    heights = levels_of(values)
    left.contourf(x, y, heights, levels=24, cmap="Blues_r", alpha=0.85)
    left.contour(x, y, heights, levels=12, colors="white", linewidths=0.4, linestyles="solid", alpha=0.6)
    log = runs.least is not None or all((path.losses > 0).all() for path in runs.paths)
    for colour, path in zip(_colours(len(runs.paths)), runs.paths, strict=True):
        left.plot(*path.points.T, color=colour, linewidth=1.4, marker=".", markersize=3)
        left.plot(*path.points[-1], color=colour, marker="o", markersize=8, markeredgecolor="white")
        losses = path.losses - (runs.least or 0.0)
        losses = np.maximum(losses, _SMALLEST) if log else losses
        right.plot(losses, color=colour, label=f"{path.label}, {path.lr:.3g}")
    left.plot(*runs.descent.start, color="white", marker="s", markersize=7, markeredgecolor="#222222")
    if runs.surface:
        left.plot(*np.array(runs.surface.minima).T, "*", color="#ffffff", markeredgecolor="#222222", markersize=13)
    left.set(xlim=runs.window[0], ylim=runs.window[1], xlabel="x", ylabel="y", title=runs.title)
    right.set(xlabel="step", ylabel="loss" if runs.least is None else "loss above the minimum")
    right.set_yscale("log" if log else "linear")
    right.spines[["top", "right"]].set_visible(False)
    right.legend(title="optimizer, rate", frameon=False)
    return figure


def _colours(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def draw_scene(scene: Any) -> Any:
    """Draws the contours of a landscape; returns the figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    shown = scene.heights
    filled = axes.contourf(scene.x, scene.y, shown, levels=32, cmap="viridis")
    axes.contour(scene.x, scene.y, shown, levels=16, colors="white", linewidths=0.5, linestyles="solid", alpha=0.6)
    if scene.path is not None:
        axes.plot(*scene.path.T, color="white", marker=".", linewidth=1.2)
    axes.plot(0, 0, "*", color="white", markeredgecolor="#222222", markersize=14)
    kind = scene.asked["directions"]
    names = ["first", "second"]
    if kind["kind"] == "principal":
        names = [f"{name} principal ({share:.0%})" for name, share in zip(names, kind["explained"], strict=True)]
    axes.set(xlabel=f"{names[0]} direction", ylabel=f"{names[1]} direction")
    bar = figure.colorbar(filled, label="loss")
    if scene.refined.log:
        low, high = float(shown.min()), float(shown.max())
        ticks = np.linspace(low, high, 7)
        bar.set_ticks(ticks.tolist(), labels=[f"{10**tick:.3g}" for tick in ticks])
    return figure
