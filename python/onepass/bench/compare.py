"""What changed between two files of `onepass bench`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

__all__ = ["Change", "changes", "differences", "read", "table"]

# What a figure depends on, by its path in the file.
_SETTINGS = (
    ("machine", "cpu"),
    ("machine", "cores"),
    ("machine", "gpus"),
    ("threads",),
    ("device",),
    ("quick",),
    ("environment",),
    ("malloc", "freed_memory"),
    ("versions", "onepass"),
    ("versions", "python"),
    ("versions", "torch"),
    ("versions", "numpy"),
    ("versions", "compiler"),
    ("versions", "isa"),
    ("commit",),
)


@dataclass(frozen=True)
class Change:
    """Holds one competitor of one case in two runs.

    Args:
        case: Name of the case.
        competitor: Name of the competitor.
        old: Its seconds in the old run, below which 20, 50 and 80 % of the rounds are; None where it is missing.
        new: The same of the new run.
    """

    case: str
    competitor: str
    old: tuple[float, float, float] | None
    new: tuple[float, float, float] | None

    @property
    def ratio(self) -> float | None:
        """The new median time divided by the old one; below 1 the new run is faster."""
        return None if self.old is None or self.new is None else self.new[1] / self.old[1]

    @property
    def moved(self) -> bool:
        """Whether the spreads of the two runs, from 20 to 80 %, do not touch each other."""
        return (
            self.old is not None
            and self.new is not None
            and (self.new[0] > self.old[2] or self.new[2] < self.old[0])
        )


def read(path: Path) -> dict[str, Any]:
    """Reads a file that `onepass bench --output` wrote.

    Args:
        path: The file.

    Raises:
        ValueError: There is no such file, or it is none of `onepass bench`.
    """
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"must be a file that can be read, got {path} ({error.strerror})") from None
    except ValueError as error:
        raise ValueError(f"must be a JSON file, got {path} ({error})") from None
    results = found.get("results") if isinstance(found, dict) else None
    if not isinstance(results, list) or not all(
        isinstance(one, dict) and isinstance(one.get("competitors"), dict) and "case" in one for one in results
    ):
        raise ValueError(f"must be a JSON file of onepass bench, got {path}")
    return dict(found)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Lists every competitor of every case of the new run, and those of these cases that are gone.

    Cases that only the old run has are left out: `--case` may have left them out.

    Args:
        old: The file of the old run.
        new: The file of the new run.
    """
    before, after = _figures(old), _figures(new)
    cases = dict.fromkeys(case for case, _ in after)
    wanted = [*after, *(key for key in before if key not in after and key[0] in cases)]
    order = list(cases)
    wanted.sort(key=lambda key: order.index(key[0]))
    return [Change(*key, before.get(key), after.get(key)) for key in wanted]


def _figures(run: Mapping[str, Any]) -> dict[tuple[str, str], tuple[float, float, float]]:
    return {
        (result["case"], name): (times["seconds_20"], times["seconds_50"], times["seconds_80"])
        for result in run["results"]
        for name, times in result["competitors"].items()
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Names what else differs between two runs, a line each: a change of time may come from it.

    Args:
        old: The file of the old run.
        new: The file of the new run.
    """
    for path in _SETTINGS:
        before, after = _at(old, path), _at(new, path)
        if before != after:
            yield f"{' '.join(path)}: {before} before, {after} now"


def _at(run: Mapping[str, Any], path: tuple[str, ...]) -> object:
    found: Any = run
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def table(found: list[Change]) -> Table:
    """Makes the table of what changed.

    Args:
        found: What `changes` lists.
    """
    shown = Table(box=SIMPLE)
    shown.add_column("case")
    shown.add_column("competitor", overflow="fold")
    for heading in ("old 50 % ms", "new 50 % ms", "new/old"):
        shown.add_column(heading, justify="right")
    shown.add_column("")
    for index, one in enumerate(found):
        first = index == 0 or found[index - 1].case != one.case
        verdict = "new" if one.old is None else "gone" if one.new is None else "moved" if one.moved else ""
        shown.add_row(
            one.case if first else "",
            one.competitor,
            "" if one.old is None else f"{one.old[1] * 1e3:.3f}",
            "" if one.new is None else f"{one.new[1] * 1e3:.3f}",
            "" if one.ratio is None else f"{one.ratio:.2f}",
            verdict,
            style="bold" if verdict else None,
        )
    return shown
