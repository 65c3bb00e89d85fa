"""HTML pages of trajectories and landscapes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass._page import render
from onepass.visualize._evaluate import BATCH_NORM
from onepass.visualize._picture import COLOURS, levels_of

__all__ = ["paths_page", "scene_page"]


def paths_page(runs: Any) -> str:
    """Makes the page that plays the steps of optimizers."""
    x, y, values = runs.grid
    found = runs.to_json()
    paths = [{**path, "colour": COLOURS[i % len(COLOURS)]} for i, path in enumerate(found["paths"])]
    known = runs.surface
    settings = [f"Start ({found['start'][0]:g}, {found['start'][1]:g}), {found['steps']} steps"]
    settings += [f"schedule {found['schedule']}"] if found["schedule"] else []
    settings += [f"noise {found['noise']:g} in the gradient"] if found["noise"] else []
    data = {
        **found,
        "paths": paths,
        "least": runs.least,
        "minima": list(known.minima) if known else [],
        "grid": {"x": x, "y": y, "heights": levels_of(values)},
    }
    return render(
        "trajectories",
        "trajectories",
        f"Optimizers on {runs.title}",
        data,
        formula=known.formula if known else "",
        lesson=known.lesson if known else "",
        settings=f"{'; '.join(settings)}.",
        steps=max(len(path["rates"]) for path in paths),
        paths=paths,
        tried=any(path["tried"] for path in paths),
    )


def scene_page(scene: Any) -> str:
    """Makes the page of a landscape."""
    one, asked = scene.refined, scene.asked
    kind = asked["directions"]
    names = ["first direction", "second direction"]
    if kind["kind"] == "principal":
        names = [
            f"{name} principal ({share:.0%})"
            for name, share in zip(("first", "second"), kind["explained"], strict=True)
        ]
    data: dict[str, Any] = {
        "x": scene.x,
        "y": scene.y,
        "heights": scene.heights,
        "log": one.log,
        "names": names,
        "points": np.argwhere(one.evaluated),
        "path": [] if scene.path is None else scene.path,
        "path_heights": [] if scene.path is None else _on_surface(scene, scene.path),
    }
    share = scene.evaluations / scene.losses.size
    facts = [
        ("directions", "random, each filter with the model's norm" if kind["kind"] == "random" else "principal"),
        (
            "seed" if kind["kind"] == "random" else "weights of the trajectory",
            kind.get("seed", kind.get("weights")),
        ),
        ("batch norm", BATCH_NORM[asked["batch_norm"]]),
        (
            "evaluations",
            f"{scene.evaluations} of {scene.losses.size} points ({share:.0%}); the rest is interpolated",
        ),
        (
            "largest error found",
            f"{one.largest_error:.2%} of the picture's range, at {one.checked} points checked",
        ),
        ("least and largest loss", f"{np.nanmin(scene.losses):.4g}, {np.nanmax(scene.losses):.4g}"),
    ]
    return render(
        "landscape",
        "landscape",
        "Loss landscape",
        data,
        text="The loss in a plane through the model's weights (the star). Heights are logarithms."
        if one.log
        else "The loss in a plane through the model's weights (the star).",
        path=scene.path is not None,
        facts=facts,
    )


def _on_surface(scene: Any, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Heights of points of the plane, by bilinear interpolation."""
    shown = scene.heights
    rows = []
    for a, b in points.tolist():
        i = float(np.interp(b, scene.y, np.arange(len(scene.y))))
        j = float(np.interp(a, scene.x, np.arange(len(scene.x))))
        top, left = min(int(i), len(scene.y) - 2), min(int(j), len(scene.x) - 2)
        corner = shown[top : top + 2, left : left + 2]
        down, right = i - top, j - left
        rows.append(float(np.array([1 - down, down]) @ corner @ np.array([1 - right, right])))
    return np.array(rows)
