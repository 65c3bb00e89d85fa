"""Tables and pictures of `onepass lab --long`, from benchmarks/results/lab-*.json."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from _site.markdown import FOLDER, grid, load
from onepass.lab import Result, find
from onepass.lab.experiment import SECTIONS

__all__ = ["NAMES", "TABLES", "draw", "result"]

# The experiments whose results are there, in alphabetical order.
NAMES = sorted(path.stem.removeprefix("lab-") for path in FOLDER.glob("lab-*.json"))
# A table of more rows is left to the picture and to the JSON file.
_ROWS = 8


def result(name: str) -> Result:
    """The result of one experiment."""
    return Result.from_json(load(f"lab-{name}"))


def draw(name: str, path: Path) -> None:
    """Draws the picture of one experiment."""
    made = load(f"lab-{name}")
    versions = made["versions"]
    result(name).plot(path, f"{made['machine']['cpu']}, onepass {versions['onepass']}, torch {versions['torch']}")


def verdicts() -> str:
    """All experiments: verdict, how many checks hold, seeds and time."""
    rows = []
    for name in NAMES:
        found = result(name)
        held = f"{sum(check.holds for check in found.checks)} of {len(found.checks)}"
        cells = [f"**{found.verdict}**", held, str(len(found.seeds)), f"{found.cpu_seconds:.0f}"]
        rows.append([f"[{name}](#{name})", *cells])
    return grid(["experiment", "verdict", "checks that hold", "seeds", "CPU seconds"], rows)


def one(name: str) -> str:
    """One experiment: what it claims, by which criterion, every check, and the rows where they are few."""
    found, made = result(name), load(f"lab-{name}")
    # Of the docstring: limits are written after a run. A test compares claim and criterion with those of the file.
    claim, criterion, limits, source = (_code(find(name).said(title)) for title in SECTIONS)
    checks = grid(*map(_escaped, found.check_cells()))
    verdict = f"**Verdict: {found.verdict}** ({len(found.seeds)} seeds). **Limits.** {limits}"
    commit = made["commit"][:7]
    link = f"[lab-{name}.json](../benchmarks/results/lab-{name}.json), {made['date'][:10]}, commit `{commit}`"
    return "\n\n".join(
        [
            f"**Claim.** {claim}",
            f"**Criterion.** {criterion}",
            checks,
            verdict,
            f"Source: {source} Numbers: {link}.",
        ]
    )


def rows(name: str) -> str:
    """The means of one experiment, and half of their intervals."""
    return grid(*map(_escaped, result(name).cells()))


def _code(text: str) -> str:
    """Names of the docstring between single backquotes or double ones, as Markdown has them."""
    return text.replace("``", "`")


def _escaped(cells: list[str] | list[list[str]]) -> list[str] | list[list[str]]:
    """Cells without bars, which would end them."""
    return [c.replace("|", "\\|") if isinstance(c, str) else [one.replace("|", "\\|") for one in c] for c in cells]


def _underscored(name: str) -> str:
    return name.replace("-", "_")


TABLES: dict[str, Callable[[], str]] = {
    "lab": verdicts,
    **{f"lab_{_underscored(name)}": partial(one, name) for name in NAMES},
    **{f"lab_rows_{_underscored(name)}": partial(rows, name) for name in NAMES if len(result(name).rows) <= _ROWS},
}
