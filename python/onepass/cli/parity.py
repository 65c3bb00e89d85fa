"""`onepass parity`: errors against float64, next to torch's."""

from __future__ import annotations

import importlib
import json
from itertools import groupby
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from onepass.bench import machine
from onepass.cli import check_place, device_of, one_of, writing
from onepass.parity import OPS
from onepass.parity.harness import Row
from onepass.parity.rule import FACTOR


def parity(
    op: Annotated[
        str, typer.Argument(parser=one_of("op", OPS), help=f"Measure one of: {', '.join(OPS)}.", metavar="OP")
    ],
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="Measure only this dtype: float32, bfloat16 or float16. May be repeated."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Take this many steps in each run.")] = 20,
    device: Annotated[
        str,
        # --backend stands in the commands of recorded results.
        typer.Option(
            "--device",
            "--backend",
            parser=one_of("device", ("cpu", "cuda")),
            help="Run on cpu or cuda.",
            metavar="DEVICE",
        ),
    ] = "cpu",
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Write the table to this JSON file.")
    ] = None,
) -> None:
    """Compare our errors with those of torch's plain loop; exit with 1 if ours break the rule.

    The rule: our error against float64 is at most twice torch's plus one unit in the last place (ulp). The table
    shows the largest errors after any step, and the step in which ours came nearest to its limit.
    """
    where = device_of("device", device)
    if json_file is not None:
        check_place("json", json_file)
    module = importlib.import_module(OPS[op])
    known = {str(one).removeprefix("torch."): one for one in module.DTYPES}
    dtypes = [known[one_of("dtype", known)(name)] for name in dtype or known]
    console = Console()
    rows: list[Row] = []
    for (rule, name), some in groupby(module.rows(dtypes, steps, where), key=_rule_and_dtype):
        table_rows = list(some)
        console.print(_table(f"{rule} {name}", table_rows))
        rows += table_rows
    broken = sum(not row.ok for row in rows)
    console.print(
        f"{len(rows)} rows, {broken} of them break err(ours) <= {FACTOR} err(torch) + 1 ulp, both against float64."
    )
    if json_file is not None:
        written = {
            **machine.record(torch.get_num_threads()),
            "op": op,
            "device": device,
            "steps": steps,
            "rows": [row.to_json() for row in rows],
        }
        with writing("json", json_file):
            json_file.write_text(json.dumps(written, indent=1) + "\n")
    if broken:
        raise typer.Exit(1)


def _rule_and_dtype(row: Row) -> tuple[str, str]:
    return row.rule, row.dtype


def _table(title: str, rows: list[Row]) -> Table:
    """Makes the table of one rule and dtype, narrow enough for 80 columns."""
    shown = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    shown.add_column("options")
    shown.add_column("tensor", no_wrap=True)
    for heading in ("ulp\nours", "\ntorch", "absolute\nours", "\ntorch", "worst\nstep", "% of\nlimit", "\nok"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for options, group in groupby(rows, key=lambda row: row.options):
        # One row of the table for each set of options, so that long options wrap next to their tensors.
        cells = zip(*map(_cells, group), strict=True)
        shown.add_row(options, *("\n".join(lines) for lines in cells))
    return shown


def _cells(row: Row) -> list[str]:
    return [
        row.tensor,
        f"{row.ours_ulp:.2f}",
        f"{row.torch_ulp:.2f}",
        f"{row.ours_abs:.1e}",
        f"{row.torch_abs:.1e}",
        str(row.worst_step),
        f"{100 * row.share_of_limit:.0f}",
        "yes" if row.ok else "[bold red]NO[/]",
    ]
