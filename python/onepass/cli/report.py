"""`onepass report`: the file that a monitor wrote as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from onepass.cli import check_place, writing
from onepass.report import write_report


def report(
    run: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, help="Read this run file, which onepass.monitor.Monitor wrote."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="Write the report to this HTML file.")
    ] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Give the report this title.")] = "",
) -> None:
    """Write the report of a training: curves, findings, schedule, norms and calibration in one HTML file.

    The file needs no network. A run file that breaks off is read up to its last whole line.
    """
    check_place("output", output)
    console = Console()
    with writing("output", output):
        try:
            notices = write_report(run, output, title)
        except (ValueError, ModuleNotFoundError) as error:
            # Not as typer.BadParameter, whose frame would break paths and commands in two.
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
    for notice in notices:
        console.print(notice, markup=False)
    console.print(f"Wrote {output}.", markup=False)
