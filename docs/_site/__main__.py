"""Draws the figures of README.md again: ``python docs/_site``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from _site.results import ROOT, redraw

path = ROOT / "README.md"
path.write_text(redraw(path.read_text()))
