"""`onepass lab`: experiments that show claims about training, each with a verdict computed from its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from onepass.bench import machine
from onepass.cli import check_picture, check_place, one_of, torch_threads, writing
from onepass.cli.options import Threads
from onepass.lab import EXPERIMENTS, SHOWN, Experiment, Result, find, run

# Where files go that no option names.
_FOLDER = Path("onepass-lab")


def lab(
    name: Annotated[
        str | None,
        typer.Argument(
            parser=one_of("name", EXPERIMENTS),
            help=f"Run one of: {', '.join(EXPERIMENTS)}. Without a name, list them.",
            metavar="NAME",
        ),
    ] = None,
    long: Annotated[bool, typer.Option("--long", help="Take the experiment's larger number of seeds.")] = False,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Take this many seeds, from 0; one seed gives no interval."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Write all numbers to this JSON file. [default: onepass-lab/NAME.json]"),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Draw the picture into this file. [default: onepass-lab/NAME.png]"),
    ] = None,
    threads: Threads = None,
) -> None:
    """Run an experiment that shows a claim about training, or says that it is not shown here.

    Each takes at most two minutes on two cores, and at least a few seeds. The table shows means and half of their
    95 % intervals. The verdict follows from the numbers by a criterion that was written before the first run.
    """
    console = Console()
    if name is None:
        _refuse_without_a_name(long=long, seeds=seeds, output=output, picture=picture, threads=threads)
        console.print(_listed())
        return
    experiment = find(name)
    json_file, drawn = output or _FOLDER / f"{name}.json", picture or _FOLDER / f"{name}.png"
    check_place("output", json_file)
    check_picture("picture", drawn)
    count = seeds or (experiment.long_seeds if long else experiment.seeds)
    with torch_threads(threads):
        facts = machine.record(torch.get_num_threads())
        result = _run(console, experiment, count)
    _print(console, result)
    with writing("output", json_file):
        json_file.write_text(json.dumps({**facts, **result.to_json()}, indent=1, allow_nan=False) + "\n")
    with writing("picture", drawn):
        result.plot(drawn, _caption(facts))
    console.print(f"Wrote {drawn} and {json_file}.")


def _refuse_without_a_name(**options: Any) -> None:
    """No option is ignored: a list takes none."""
    for option, value in options.items():
        if value:
            raise typer.BadParameter(f"{option} must come with a name ({', '.join(EXPERIMENTS)}), got no name")


def _listed() -> Table:
    shown = Table("name", "claim", box=SIMPLE)
    for name in EXPERIMENTS:
        shown.add_row(name, escape(find(name).said("Claim")))
    return shown


def _run(console: Console, experiment: Experiment, count: int) -> Result:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"{experiment.name}, {count} seeds", total=count * len(experiment.cases()))
        try:
            return run(experiment, range(count), lambda: progress.update(task, advance=1))
        except ModuleNotFoundError as error:
            raise typer.BadParameter(str(error)) from None


def _print(console: Console, result: Result) -> None:
    console.print(result.table())
    for title in ("Claim", "Criterion"):
        console.print(f"[bold]{title}[/bold]: {escape(result.said[title])}\n")
    console.print(result.check_table())
    style = "green" if result.verdict == SHOWN else "yellow"
    console.print(f"[bold]Verdict[/bold]: [{style}]{result.verdict}[/{style}] ({len(result.seeds)} seeds).")
    if len(result.seeds) == 1:
        console.print("One seed gives no interval, so nothing is shown; use --seeds 2 or more.")
    console.print(f"[bold]Limits[/bold]: {escape(result.said['Limits'])}\n")
    console.print(f"{result.seconds:.1f} s, {result.cpu_seconds:.1f} s of CPU time.")


def _caption(facts: dict[str, Any]) -> str:
    versions = facts["versions"]
    return f"{facts['machine']['cpu']}, onepass {versions['onepass']}, torch {versions['torch']}"
