"""What `landscape` returns: the values, as pictures, pages and JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.visualize._refine import Refined, heights

__all__ = ["Landscape"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Landscape:
    """Holds the loss in a plane through a model's weights.

    Example:
        >>> import torch
        >>> from onepass.visualize import landscape
        >>> x = torch.ones(4, 2)
        >>> scene = landscape(torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, [(x, x[:, :1])], resolution=17)
        >>> written = scene.to_json()
        >>> len(written["loss"]), written["asked"]["batch_norm"], written["full"]
        (17, 'running', 289)
    """

    x: Floats
    """The places along the first direction, (n,)."""
    y: Floats
    """The places along the second direction, (n,)."""
    refined: Refined
    """The losses, which of them were evaluated, and the errors of the others."""
    asked: dict[str, Any]
    """The arguments, and a digest of the weights."""
    read: int
    """How many points came from the file."""
    path: Floats | None
    """The trajectory's places in the plane, (k, 2); None for random directions."""

    @property
    def losses(self) -> Floats:
        """The losses, (n, n), a row for each y: evaluated or filled in."""
        return self.refined.losses

    @property
    def evaluations(self) -> int:
        """How many points were evaluated, those of the file included."""
        return int(self.refined.evaluated.sum())

    @property
    def heights(self) -> Floats:
        """What pictures show: the losses, or their base-10 logarithms where they differ by more than 10 times."""
        return heights(self.losses, self.refined.log)

    def to_json(self) -> dict[str, Any]:
        """Returns everything as JSON takes it: numbers that are not finite are None."""
        one = self.refined
        return {
            "asked": self.asked,
            "x": self.x.tolist(),
            "y": self.y.tolist(),
            "loss": [[v if math.isfinite(v) else None for v in row] for row in self.losses.tolist()],
            "evaluated": one.evaluated.astype(int).tolist(),
            "evaluations": self.evaluations,
            "full": int(self.losses.size),
            "log": one.log,
            "error": {"checked": one.checked, "largest": one.largest_error, "estimate": one.estimate},
            "path": None if self.path is None else self.path.tolist(),
        }

    def write_json(self, path: Path | str) -> None:
        """Writes `to_json` to a file.

        Args:
            path: The file.
        """
        Path(path).write_text(json.dumps(self.to_json(), allow_nan=False) + "\n", encoding="utf-8")

    def plot(self, path: Path | str | None = None) -> Any:
        """Draws the contours, the weights in the middle and the trajectory.

        Args:
            path: The file that the picture is written to, in the format of its suffix; None to write nothing.

        Returns:
            The figure, of matplotlib.
        """
        from onepass.visualize._picture import draw_scene

        figure = draw_scene(self)
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure

    def write_html(self, path: Path | str) -> None:
        """Writes one HTML file with contours and a surface to turn; it needs no network.

        Args:
            path: The file.

        Raises:
            ModuleNotFoundError: plotly or jinja2 is not installed.
        """
        from onepass.visualize._pages import scene_page

        Path(path).write_text(scene_page(self), encoding="utf-8")
