"""Draws the pictures of docs/visualize.md and docs/report.md into docs/pictures.

    python benchmarks/visualize_pictures.py FOLDER

FOLDER holds what tests/browser/make.py made. Playwright and Chromium take the picture of the report.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from PIL import Image

from onepass.visualize import trajectories

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
OPTIONS = ["--no-sandbox"]


def smaller(path: Path) -> None:
    """Gives a picture a palette, which makes the file a third as large.

    Args:
        path: The file.
    """
    with Image.open(path) as drawn:
        drawn.convert("RGB").quantize(128).save(path, optimize=True)


def photograph(page_file: Path, path: Path, height: int) -> None:
    """Takes a picture of a page in Chromium.

    Args:
        page_file: The HTML file.
        path: The picture.
        height: How many pixels of the page are shown.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        page = browser.new_page(viewport={"width": 1000, "height": height})
        page.goto(page_file.resolve().as_uri())
        page.wait_for_timeout(1500)
        page.screenshot(path=path)


def main() -> None:
    """Draws all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what tests/browser/make.py made")
    parser.add_argument("--output", type=Path, default=PICTURES, help="the folder of the pictures")
    arguments = parser.parse_args()
    made: Path = arguments.folder
    output: Path = arguments.output
    trajectories("rosenbrock").plot(output / "visualize-rosenbrock.png")
    shutil.copy(made / "landscape-principal.png", output / "visualize-landscape.png")
    photograph(made / "report.html", output / "report.png", 640)
    for path in output.glob("*.png"):
        if path.stem.startswith(("visualize", "report")):
            smaller(path)


if __name__ == "__main__":
    main()
