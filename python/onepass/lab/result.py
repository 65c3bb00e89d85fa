"""The result of an experiment: its table, its picture, its JSON and its verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onepass.lab.experiment import Case, Experiment, Point, Points
from onepass.lab.statistics import Check, Estimate, decoded, encoded, estimate

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["NOT_SHOWN", "SHOWN", "Result", "Row", "text_of"]

SHOWN, NOT_SHOWN = "shown", "not shown here"


@dataclass(frozen=True)
class Row:
    """Holds the estimates of a case over all seeds."""

    case: Case
    values: dict[str, Estimate]


@dataclass(frozen=True)
class Result:
    """Holds everything that a run of an experiment found."""

    experiment: str
    said: dict[str, str]
    """The sections of the docstring by title: claim, criterion, limits, source."""
    settings: dict[str, Any]
    points: Points
    rows: list[Row]
    """The table: a row for each case."""
    checks: list[Check]
    seconds: float = 0.0
    """The wall clock."""
    cpu_seconds: float = 0.0

    @staticmethod
    def of(experiment: Experiment, points: Points) -> Result:
        """Computes rows and checks.

        Args:
            experiment: The experiment.
            points: What it measured.
        """
        from onepass.lab.experiment import SECTIONS

        said = {title: experiment.said(title) for title in SECTIONS}
        rows = list(_rows(points))
        return Result(experiment.name, said, experiment.settings(), points, rows, experiment.checks(points))

    @property
    def seeds(self) -> list[int]:
        """The seeds of the run."""
        return sorted({point.seed for point in self.points})

    @property
    def verdict(self) -> str:
        """`SHOWN` if every check holds, else `NOT_SHOWN`."""
        return SHOWN if self.checks and all(check.holds for check in self.checks) else NOT_SHOWN

    def row(self, **case: Any) -> Row:
        """Finds the row of a case.

        Args:
            **case: Conditions that leave one row.

        Raises:
            LookupError: None or several rows have these conditions.
        """
        found = [row for row in self.rows if all(row.case.get(name) == v for name, v in case.items())]
        if len(found) != 1:
            raise LookupError(f"row: {case} must leave one row, got {len(found)}")
        return found[0]

    def to_json(self) -> dict[str, Any]:
        """Returns the result as strict JSON takes it."""
        rows = [
            {"case": row.case, "values": {name: one.to_json() for name, one in row.values.items()}}
            for row in self.rows
        ]
        return {
            "experiment": self.experiment,
            "verdict": self.verdict,
            **{title.lower(): text for title, text in self.said.items()},
            "settings": self.settings,
            "seeds": self.seeds,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "checks": [check.to_json() for check in self.checks],
            "rows": rows,
            "points": [point.to_json() for point in self.points],
        }

    @staticmethod
    def from_json(written: dict[str, Any]) -> Result:
        """Reads what `to_json` returned. It needs no scipy.

        Args:
            written: The result; what else a file holds is left out.
        """
        from onepass.lab.experiment import SECTIONS

        rows = [
            Row(row["case"], {name: Estimate.from_json(one) for name, one in row["values"].items()})
            for row in written["rows"]
        ]
        return Result(
            written["experiment"],
            {title: written[title.lower()] for title in SECTIONS},
            written["settings"],
            Points(Point.from_json(point) for point in written["points"]),
            rows,
            [Check.from_json(check) for check in written["checks"]],
            decoded(written["seconds"]),
            decoded(written["cpu_seconds"]),
        )

    def timed(self, seconds: float, cpu_seconds: float) -> Result:
        """Returns the result with the time that its run took.

        Args:
            seconds: By the wall clock.
            cpu_seconds: Of all cores together.
        """
        return replace(self, seconds=float(encoded(seconds)), cpu_seconds=float(encoded(cpu_seconds)))

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """Returns the heads and the rows of the table as text: means, and half of their intervals."""
        conditions = list(dict.fromkeys(name for row in self.rows for name in row.case))
        names = list(dict.fromkeys(name for row in self.rows for name in row.values))
        lines = [
            [text_of(row.case.get(name, "")) for name in conditions]
            + [str(row.values[name]) if name in row.values else "" for name in names]
            for row in self.rows
        ]
        return [*conditions, *names], lines

    def check_cells(self) -> tuple[list[str], list[list[str]]]:
        """Returns the heads and the rows of the table of checks as text."""
        lines = []
        for check in self.checks:
            interval = f"{check.effect.low:.4g} to {check.effect.high:.4g}"
            lines.append(
                [check.text, f"{check.effect.mean:.4g}", interval, check.wanted, "yes" if check.holds else "no"]
            )
        return ["effect", "mean", "interval", "must be", "holds"], lines

    def table(self) -> Table:
        """Returns the table for the terminal."""
        return _grid(*self.cells())

    def check_table(self) -> Table:
        """Returns the table of checks for the terminal."""
        return _grid(*self.check_cells())

    def plot(self, path: Path | str, caption: str = "") -> None:
        """Draws the picture into a file.

        Args:
            path: The file; its suffix chooses the format.
            caption: A line below the picture: the machine and the versions.
        """
        from matplotlib.figure import Figure

        from onepass.lab.registry import find

        figure = Figure(figsize=(11, 4), layout="constrained")
        find(self.experiment).draw(self, figure)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
        figure.suptitle(f"{self.experiment}: {self.verdict} ({len(self.seeds)} seeds)", fontsize=11)
        if caption:
            figure.supxlabel(caption, fontsize=7)
        figure.savefig(path, dpi=150)


def text_of(value: Any) -> str:
    """Writes a condition for a table.

    Args:
        value: A string or a number.
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rows(points: Points) -> Iterator[Row]:
    for case in points.cases():
        found = [point for point in points if point.case == case]
        yield Row(case, {name: estimate([p.values[name] for p in found]) for name in found[0].values})


def _grid(heads: list[str], lines: list[list[str]]) -> Table:
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    shown = Table(box=SIMPLE)
    texts = {i for line in lines for i, cell in enumerate(line) if not _is_number(cell)}
    for i, head in enumerate(heads):
        shown.add_column(head, justify="left" if i in texts else "right", overflow="fold")
    for line in lines:
        shown.add_row(*(escape(cell) for cell in line))
    return shown


def _is_number(cell: str) -> bool:
    try:
        return bool(float(cell.partition(" ± ")[0] or 0) + 1)
    except ValueError:
        return False
