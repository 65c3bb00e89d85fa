"""Opens each page of build/docs in Chromium: nothing may be wider than the screen, fail, or ask another server.

python docs/_site/browser.py [FOLDER]: also keeps a picture of each page there.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

SITE = Path(__file__).parents[2] / "build" / "docs"
WIDTHS = (1280, 390)
# What reaches beyond the right edge and is not in a box that scrolls.
WIDE = """width => [...document.querySelectorAll("article *")]
  .filter(e => e.getBoundingClientRect().right > width + 1 && !e.closest(".table-wrapper, pre, div.math"))
  .map(e => `${e.tagName} is too wide: ${e.textContent.trim().slice(0, 60)}`)"""


def faults(page: Page, path: Path, width: int) -> list[str]:
    """What is wrong with one page at one width."""
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda made: None if made.url.startswith(("file:", "data:")) else told.append(made.url))
    page.goto(path.as_uri())
    if page.evaluate("document.documentElement.scrollWidth") > width:
        told.append("the page scrolls sideways")
    return told + page.evaluate(WIDE, width)


def main() -> int:
    """Prints what is wrong with which page; 1 if anything is."""
    pictures = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    found = 0
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for path in sorted(SITE.rglob("*.html")):
            name = path.relative_to(SITE).as_posix()
            for width in WIDTHS if not name.startswith("_") else ():
                page = browser.new_page(viewport={"width": width, "height": 900})
                for fault in faults(page, path, width):
                    found += 1
                    print(f"{name}, {width} pixels: {fault}")
                if pictures:
                    height = min(page.evaluate("document.documentElement.scrollHeight"), 12_000)
                    area = {"x": 0, "y": 0, "width": width, "height": height}
                    picture = pictures / f"{name[:-5].replace('/', '_')}-{width}.png"
                    page.screenshot(path=picture, full_page=True, clip=area)
                page.close()
    print(f"{found} faults")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
