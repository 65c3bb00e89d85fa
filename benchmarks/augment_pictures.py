"""Draws the pictures of docs/augment.md into docs/pictures: a grid of digits, and a chain of two maps.

    python benchmarks/augment_pictures.py

torchvision must be installed for the chain (`nox -s augment_bench` installs it).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from onepass import _torchvision
from onepass import augment as A
from onepass.parity import augment_torch as formulas

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
SIDE = 160
TURN, BACK, ZOOM, SHEAR = 25.0, 25.0, 0.85, 12.0
ENLARGED = 8

Bytes = NDArray[np.uint8]


def chart() -> Bytes:
    """Makes a test chart (side, side, 3): rings and wedges, whose finest lines show what resampling loses."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    radius, angle = np.hypot(rows, columns), np.arctan2(rows, columns)
    rings = 0.5 + 0.5 * np.cos(radius**2 / SIDE * 1.1)
    wedges = (np.sin(24 * angle) > 0).astype(float)
    plane = np.where(radius < 0.28 * SIDE, rings, np.where(radius < 0.45 * SIDE, wedges, 0.85))
    tint = np.stack([plane, 0.15 + 0.75 * plane, 1 - 0.6 * plane], -1)
    return np.round(255 * tint).astype(np.uint8)


def results(image: Bytes) -> dict[str, torch.Tensor]:
    """Carries out the two maps: in float64 as one resampling, by ours, and by torchvision's chain.

    Args:
        image: The chart.

    Returns:
        The results by name, float64 from 0 to 1, (3, side, side).
    """
    exact = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
    turned = formulas.affine_map((SIDE, SIDE), -TURN)
    back = formulas.affine_map((SIDE, SIDE), BACK, ZOOM, SHEAR)
    options: dict[str, Any] = {"scale": (ZOOM, ZOOM), "shear": (SHEAR, SHEAR), "interpolation": "bilinear"}
    chain = A.Compose(
        [A.RandomRotation((TURN, TURN), interpolation="bilinear"), A.RandomAffine((BACK, BACK), **options)],
        seed=0,
        dtype=torch.uint8,
    )
    v2 = _torchvision.load()
    bilinear = v2.InterpolationMode.BILINEAR
    planes = torch.from_numpy(image).permute(2, 0, 1)
    step = v2.functional.rotate(planes, TURN, interpolation=bilinear, fill=0)
    theirs = v2.functional.affine(step, BACK, [0, 0], ZOOM, [SHEAR, 0.0], interpolation=bilinear, fill=0)
    return {
        "float64, one resampling": formulas.compose_warps(exact, turned, back)[0],
        "onepass": chain(image[None], ids=[0])[0].double() / 255,
        "torchvision's chain": theirs.double() / 255,
    }


def draw_chain(path: Path) -> None:
    """Draws the results above their errors.

    Args:
        path: The file.
    """
    from matplotlib.figure import Figure

    found = results(chart())
    exact = next(iter(found.values()))
    figure = Figure(figsize=(7.2, 5), layout="constrained")
    grid: Any = figure.subplots(2, len(found))
    for column, (name, pixels) in zip(grid.T, found.items(), strict=True):
        error = (pixels - exact).abs()
        column[0].set_title(name, fontsize=9)
        column[0].imshow(pixels.permute(1, 2, 0))
        column[1].set_title(f"error x {ENLARGED}, mean {255 * float(error.mean()):.2f} of 255", fontsize=8)
        column[1].imshow((ENLARGED * error).clamp(0, 1).permute(1, 2, 0))
        for axes in column:
            axes.set_axis_off()
    figure.savefig(path, dpi=90)
    with Image.open(path) as drawn:
        # A palette makes the file a third as large.
        drawn.convert("RGB").quantize(128).save(path, optimize=True)


def main() -> None:
    """Draws both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=PICTURES, help="the folder")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    grid = str(folder / "augment-grid.png")
    subprocess.run([sys.executable, "-m", "onepass", "augment", "--preview", grid, "--rows", "4"], check=True)
    draw_chain(folder / "augment-chain.png")


if __name__ == "__main__":
    main()
