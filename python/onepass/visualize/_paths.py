"""What `trajectories` returns: the paths, as tables, pictures, pages and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from onepass.visualize._trajectory import Floats, Trajectory
from onepass.visualize.surfaces import Surface

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table
    from torch import Tensor

    from onepass.visualize._descent import Descent

__all__ = ["Trajectories"]

Window = tuple[tuple[float, float], tuple[float, float]]
# Points of the grid of values along each axis.
_GRID = 121
# The share of the points' extent that a window adds at each side.
_MARGIN = 0.15


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Holds the paths of some optimizers on one function.

    Example:
        >>> from onepass.visualize import trajectories
        >>> runs = trajectories("ravine", "sgd,lion", steps=20, lr=0.01)
        >>> [row["label"] for row in runs.to_json()["paths"]], runs.window
        (['sgd', 'lion'], ((-3.0, 3.0), (-1.0, 1.0)))
    """

    function: Callable[[Tensor], Tensor]
    """The function."""
    surface: Surface | None
    """The function, if it is one of this package's surfaces."""
    paths: list[Trajectory]
    """A path for each optimizer."""
    given_window: Window | None
    """The window that was asked for, or the surface's."""
    descent: Descent
    """Start, steps, schedule, noise and seed."""

    @cached_property
    def window(self) -> Window:
        """The smallest and largest x and y that pictures show."""
        if self.given_window is not None:
            return self.given_window
        points = np.concatenate([path.points for path in self.paths])
        points = points[np.isfinite(points).all(1)]
        low, high = points.min(0), points.max(0)
        # One scale for both axes' margins: a path along one axis would have no height.
        margin = _MARGIN * max(float((high - low).max()), 1e-3)
        (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
        return (left, right), (bottom, top)

    @property
    def title(self) -> str:
        """The function's name."""
        name = self.surface.name if self.surface else getattr(self.function, "__name__", "function")
        return str(name).replace("_", " ")

    @cached_property
    def least(self) -> float | None:
        """The function's minimum, where it is known."""
        if self.surface is None:
            return None
        return float(self.surface(torch.tensor(self.surface.minima[0], dtype=torch.float64)))

    @cached_property
    def grid(self) -> tuple[Floats, Floats, Floats]:
        """The function's values in the window: x (n,), y (n,), values (n, n), a row for each y."""
        x, y = (np.linspace(low, high, _GRID) for low, high in self.window)
        rows, columns = np.meshgrid(y, x, indexing="ij")
        points = torch.from_numpy(np.stack([columns, rows], -1))
        with torch.no_grad():
            if self.surface is not None:
                values = self.surface(points)
            else:
                each = [float(self.function(point)) for point in points.view(-1, 2)]
                values = torch.tensor(each, dtype=torch.float64).view(_GRID, _GRID)
        return x, y, values.numpy()

    def table(self) -> Table:
        """Returns a table for the terminal, with a line for each optimizer."""
        from rich.table import Table

        shown = Table("optimizer", "rate", "steps", "loss at the end", "smallest loss", "ended")
        for path in self.paths:
            rate = f"{path.lr:.3g}" + (" (auto)" if path.tried else "")
            finite = path.losses[np.isfinite(path.losses)]
            numbers = (rate, str(len(path.rates)), f"{path.losses[-1]:.3g}", f"{finite.min():.3g}")
            shown.add_row(path.label, *numbers, path.ended or "all steps")
        return shown

    def to_json(self) -> dict[str, Any]:
        """Returns settings and paths as JSON takes them: numbers that are not finite are None."""
        schedule = self.descent.schedule
        return {
            "function": self.title,
            "formula": self.surface.formula if self.surface else None,
            "start": list(self.descent.start),
            "steps": self.descent.steps,
            "schedule": None if schedule is None else repr(schedule),
            "noise": self.descent.noise,
            "seed": self.descent.seed,
            "window": [list(side) for side in self.window],
            "paths": [path.to_json() for path in self.paths],
        }

    def plot(self, path: Path | str | None = None) -> Any:
        """Draws the paths over the contours of the function, and the losses.

        Args:
            path: The file that the picture is written to, in the format of its suffix; None to write nothing.

        Returns:
            The figure, of matplotlib.
        """
        from onepass.visualize._picture import draw_paths

        figure = draw_paths(self)
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure

    def write_html(self, path: Path | str) -> None:
        """Writes one HTML file that plays the steps; it needs no network.

        Args:
            path: The file.

        Raises:
            ModuleNotFoundError: plotly or jinja2 is not installed.
        """
        from onepass.visualize._pages import paths_page

        Path(path).write_text(paths_page(self), encoding="utf-8")
