"""`onepass schedule`: a schedule as a table and a picture, before a training uses it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from onepass.cli import check_picture, check_place, finite, writing
from onepass.cli.options import JsonFile, Picture
from onepass.optim.schedules import Schedule, parse

# How many steps are shown of a schedule without an end.
_STEPS = 1000
# The rates of more steps would take more than some hundred megabytes.
_MOST_STEPS = 10**7


def schedule(
    text: Annotated[
        str,
        typer.Argument(
            help="Read this schedule, for instance 'warmup(500) >> cosine(10000, floor=0.1)'; docs/schedules.md "
            "lists the shapes."
        ),
    ],
    lr: Annotated[float, typer.Option(min=0.0, help="Multiply the factors by this learning rate.")] = 1.0,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help=f"Show this many steps. [default: all, or {_STEPS} where there is no end]"),
    ] = None,
    rows: Annotated[int, typer.Option(min=2, max=100_000, help="Print this many lines of the table.")] = 21,
    plot: Picture = None,
    output: JsonFile = None,
) -> None:
    """Show the learning rates of a schedule as a table and a picture. Its text is parsed, never executed."""
    finite("lr", lr)
    try:
        shown = parse(text)
    except ValueError as error:
        # Not as typer.BadParameter, whose frame would move the mark below the text out of its column.
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    rates = _rates(shown, steps, lr)
    count = len(rates)
    places = sorted({round(i * (count - 1) / (rows - 1)) for i in range(rows)})
    try:
        factors = [shown(step) for step in places]
    except OverflowError as error:
        raise typer.BadParameter(f"text must have factors that a number can hold, got {shown} ({error})") from None
    if plot is not None:
        check_picture("plot", plot)
    if output is not None:
        check_place("output", output)
    console = Console()
    console.print(f"{shown}, {'no end' if shown.length is None else f'{shown.length:g} steps'}", markup=False)
    table = Table("step", "learning rate", "factor")
    for column in table.columns:
        column.justify = "right"
    for step, factor in zip(places, factors, strict=True):
        table.add_row(str(step), f"{rates[step]:.6g}", f"{factor:.6g}")
    console.print(table)
    if plot is not None:
        with writing("plot", plot):
            _draw(shown, rates, plot)
        console.print(f"Wrote {plot}.")
    if output is not None:
        written = {"schedule": repr(shown), "lr": lr, "length": shown.length, "rates": rates}
        with writing("output", output):
            output.write_text(json.dumps(written, indent=1) + "\n")
        console.print(f"Wrote {output}.")


def _rates(shown: Schedule, steps: int | None, lr: float) -> list[float]:
    count = steps or (_STEPS if shown.length is None else math.ceil(shown.length) + 1)
    if count > _MOST_STEPS:
        raise typer.BadParameter(f"steps must be at most {_MOST_STEPS}, got {count:g}; --steps shows the first")
    try:
        with np.errstate(over="ignore"):
            rates: list[float] = shown.preview(count, lr).tolist()
    except (OverflowError, MemoryError) as error:
        raise typer.BadParameter(f"text must have factors that a number can hold, got {shown} ({error})") from None
    return rates


def _draw(shown: Schedule, rates: list[float], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(len(rates)), rates, color="#d1495b")
    axes.set(xlabel="step", ylabel="learning rate", title=repr(shown), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
