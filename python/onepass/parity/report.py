"""Tables and the plot of `onepass parity`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from onepass.parity.case import AS_TORCH, REFUSES, RIGHT, WRONG, Finding
from onepass.parity.compare import Change
from onepass.parity.harness import Refusal, Row, is_fault

__all__ = ["changes_table", "findings_table", "is_fault", "plot", "rows_table"]

_STYLES = {RIGHT: "green", WRONG: "bold red", AS_TORCH: "yellow", REFUSES: "cyan"}


def rows_table(title: str, rows: Sequence[Row | Refusal], who: str = "ours", strict: bool = True) -> Table:
    """Makes the table of one rule and dtype, narrow enough for 80 columns.

    Args:
        title: Its title.
        rows: Its rows, those of the same options next to each other.
        who: Heading of the column of the implementation.
        strict: Whether torch's own faults count.
    """
    shown = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    shown.add_column("options")
    shown.add_column("tensor", no_wrap=True)
    for heading in (f"ulp\n{who}", "\ntorch", f"absolute\n{who}", "\ntorch", "worst\nstep", "% of\nlimit", "\nok"):
        shown.add_column(heading, justify="right", no_wrap=True)
    refused = [row for row in rows if isinstance(row, Refusal)]
    measured = [row for row in rows if isinstance(row, Row)]
    for options, group in groupby(measured, key=lambda row: row.options):
        # One row of the table for each set of options, so that long options wrap next to their tensors.
        cells = zip(*(_cells(row, strict) for row in group), strict=True)
        shown.add_row(options, *("\n".join(lines) for lines in cells))
    for refusal in refused:
        shown.add_row(refusal.options, f"[{_STYLES[REFUSES]}]{REFUSES}[/]", *[""] * 7)
    return shown


def _cells(row: Row, strict: bool) -> list[str]:
    ok = "yes" if row.ok else ("[bold red]NO[/]" if is_fault(row, strict) else f"[yellow]{AS_TORCH}[/]")
    return [
        row.tensor,
        _short(row.ours_ulp, 2),
        _short(row.torch_ulp, 2),
        f"{row.ours_abs:.1e}",
        f"{row.torch_abs:.1e}",
        str(row.worst_step),
        _short(100 * row.share_of_limit, 0),
        ok,
    ]


def _short(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if value < 10000 or not math.isfinite(value) else f"{value:.0e}"


def findings_table(findings: Sequence[Finding]) -> Table:
    """Makes the table of a trap suite.

    Args:
        findings: What was found.
    """
    shown = Table(title="traps", title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    shown.add_column("case", no_wrap=True)
    shown.add_column("verdict", no_wrap=True)
    shown.add_column("what is wrong, or the error", overflow="fold")
    for one in findings:
        shown.add_row(one.case, f"[{_STYLES.get(one.verdict, 'dim')}]{one.verdict}[/]", escape(one.detail))
    return shown


def changes_table(found: Sequence[Change], name: str) -> Table:
    """Makes the table of what changed.

    Args:
        found: The changes.
        name: Name of the earlier file.
    """
    shown = Table(
        title=f"compared with {name}", title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0)
    )
    shown.add_column("change", no_wrap=True)
    for heading in ("row or case", "old", "new"):
        shown.add_column(heading, overflow="fold")
    styles = {"worse": "bold red", "better": "green"}
    for one in found:
        shown.add_row(
            f"[{styles.get(one.kind, 'cyan')}]{one.kind}[/]", escape(one.what), escape(one.old), escape(one.new)
        )
    return shown


def plot(rows: Sequence[Row], title: str, path: Path) -> None:
    """Draws each row's share of its limit.

    Args:
        rows: The rows.
        title: Title of the picture.
        path: File to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.5 + 0.16 * len(rows)), layout="constrained")
    axes = figure.subplots()
    most = max((row.share_of_limit for row in rows if math.isfinite(row.share_of_limit)), default=1.0)
    # What is infinite goes beyond all others.
    shares = [max(row.share_of_limit, 1e-3) if math.isfinite(row.share_of_limit) else 10 * most for row in rows]
    colors = ["tab:blue" if row.ok else "tab:red" for row in rows]
    axes.barh(range(len(rows)), shares, color=colors, height=0.8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [f"{r.rule} {r.dtype} {r.options}: {r.tensor}" for r in rows], fontsize=6)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlabel("error as a part of what the rule allows")
    axes.set_title(title, fontsize=9)
    figure.savefig(path, dpi=150)
