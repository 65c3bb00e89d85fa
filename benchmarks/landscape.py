"""Compares the adaptive grid of loss landscapes with the full one, and writes benchmarks/results/landscape.json.

    python benchmarks/landscape.py [--picture FILE]

Every point of the full grid is evaluated once; the adaptive grid then takes its values from there. The error is
the difference of the two pictures' heights as a share of the full picture's range.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from onepass.bench import machine
from onepass.demo.data import mnist
from onepass.optim import AdamW
from onepass.visualize import Landscape, landscape
from onepass.visualize._refine import Refined, heights, refine

RESULTS = Path(__file__).parent / "results" / "landscape.json"
RESOLUTION, TOLERANCE, IMAGES, TRAINED, EPOCHS, BATCH = 41, 0.005, 100, 500, 8, 50


def networks() -> dict[str, nn.Module]:
    """Makes the networks, by name."""
    return {
        "linear layers": nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10)),
        "linear layers, batch norm": nn.Sequential(
            nn.Flatten(), nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
        ),
        "convolutions": nn.Sequential(
            *(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(16 * 36, 10)),
        ),
    }


CASES: dict[str, list[dict[str, Any]]] = {
    "linear layers": [{}, {"span": 2.0}, {"trajectory": True}],
    "linear layers, batch norm": [{}, {"batch_norm": "recomputed"}, {"trajectory": True}],
    "convolutions": [{}, {"span": 2.0}, {"trajectory": True}],
}


def train(model: nn.Module, inputs: Tensor, targets: Tensor) -> list[dict[str, Tensor]]:
    """Trains a network; returns the weights of each epoch."""
    optimizer = AdamW(model.parameters(), lr=1e-3)
    found = []
    for _ in range(EPOCHS):
        for part in torch.randperm(len(targets)).split(BATCH):
            optimizer.zero_grad()
            cross_entropy(model(inputs[part]), targets[part]).backward()
            optimizer.step()
        found.append({name: value.clone() for name, value in model.state_dict().items()})
    return found


def compare(full: Landscape) -> tuple[Refined, dict[str, Any]]:
    """Refines a landscape from the values of its full grid.

    Args:
        full: The landscape with all points evaluated.

    Returns:
        The adaptive grid, and its figures.
    """
    found = refine(len(full.x), lambda row, column: float(full.losses[row, column]), TOLERANCE, 0)
    wanted = heights(full.losses, found.log)
    errors = np.abs(heights(found.losses, found.log) - wanted) / np.ptp(wanted)
    return found, {
        "evaluations": int(found.evaluated.sum()),
        "full": int(full.losses.size),
        "largest_error": float(errors.max()),
        "mean_error": float(errors.mean()),
        "checked": found.checked,
        "largest_error_checked": found.largest_error,
        "log": found.log,
        "least_loss": float(full.losses.min()),
        "largest_loss": float(full.losses.max()),
    }


def measure(picture: Path | None) -> list[dict[str, Any]]:
    """Measures all cases; draws the first one.

    Args:
        picture: The file of the picture, or None.

    Returns:
        A dict for each case.
    """
    torch.manual_seed(0)
    data = mnist()
    order = torch.randperm(len(data.train_labels))[:TRAINED]
    batch = [(data.validation_images[::10][:IMAGES], data.validation_labels[::10][:IMAGES])]
    rows = []
    work = [(name, options) for name, cases in CASES.items() for options in cases]
    models = networks()
    weights = {
        name: train(one, data.train_images[order], data.train_labels[order]) for name, one in models.items()
    }
    for name, options in track(work):
        given = {**options, **({"trajectory": weights[name]} if "trajectory" in options else {})}
        full = landscape(
            models[name], cross_entropy, batch, resolution=RESOLUTION, adaptive=False, progress=False, **given
        )
        found, figures = compare(full)
        rows.append({"network": name, "options": {**options}, **figures})
        if picture is not None and name == "convolutions" and "span" in options:
            draw(full, found, picture)
    return rows


def draw(full: Landscape, found: Refined, path: Path) -> None:
    """Draws the full grid, the adaptive one with its points, and the difference.

    Args:
        full: The landscape with all points evaluated.
        found: The adaptive grid.
        path: The file.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    axes: Any = figure.subplots(1, 3)
    wanted, got = heights(full.losses, found.log), heights(found.losses, found.log)
    levels = np.linspace(wanted.min(), wanted.max(), 25)
    share = found.evaluated.mean()
    titles = (f"full grid, {full.losses.size} points", f"adaptive, {found.evaluated.sum()} points ({share:.0%})")
    for one, shown, title in zip(axes, (wanted, got), titles, strict=False):
        one.contourf(full.x, full.y, shown, levels=levels, cmap="viridis", extend="both")
        one.contour(full.x, full.y, shown, levels=levels, colors="white", linewidths=0.3, linestyles="solid")
        one.set_title(title, fontsize=9)
    rows, columns = np.nonzero(found.evaluated)
    axes[1].plot(full.x[columns], full.y[rows], ".", color="white", markersize=1.6)
    errors = 100 * np.abs(got - wanted) / np.ptp(wanted)
    shown = axes[2].pcolormesh(full.x, full.y, errors, cmap="magma", vmin=0)
    axes[2].set_title(f"difference, at most {errors.max():.2g} % of the range", fontsize=9)
    figure.colorbar(shown, ax=axes[2], label="%")
    for one in axes:
        one.tick_params(labelsize=7)
    figure.savefig(path, dpi=90)
    with Image.open(path) as drawn:
        # A palette makes the file a fifth as large.
        drawn.convert("RGB").quantize(128).save(path, optimize=True)


def main() -> None:
    """Measures, and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file")
    parser.add_argument("--picture", type=Path, help="the picture of one case")
    arguments = parser.parse_args()
    facts = machine.record(torch.get_num_threads())
    rows = measure(arguments.picture)
    written = {
        **facts,
        "command": f"python benchmarks/{Path(__file__).name} {' '.join(sys.argv[1:])}".strip(),
        "resolution": RESOLUTION,
        "tolerance": TOLERANCE,
        "results": rows,
    }
    arguments.output.write_text(json.dumps(written, indent=1) + "\n")
    sys.stdout.write(f"Wrote {arguments.output}.\n")


if __name__ == "__main__":
    main()
