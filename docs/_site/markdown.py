"""What tables are written with: files of benchmarks/results, Markdown grids, numbers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks" / "results"


def load(name: str) -> dict[str, Any]:
    """One file of benchmarks/results."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def grid(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(heads), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ratio(value: float | None) -> str:
    """Three digits, at most two of them behind the point."""
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def percent(share: float | None) -> str:
    """A share of the bandwidth."""
    return "" if share is None else f"{share:.0%}".replace("%", " %")
