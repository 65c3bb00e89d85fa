"""`onepass visualize`: pictures of what optimizers do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from onepass._page import check_installed
from onepass.cli import check_place, one_of, writing
from onepass.visualize import SURFACES, trajectories
from onepass.visualize._descent import OPTIMIZERS

app = typer.Typer(
    name="visualize", help="Draw what optimizers do.", no_args_is_help=True, rich_markup_mode="markdown"
)


@app.callback()
def visualize() -> None:
    """Draw what optimizers do: their paths on known surfaces."""


@app.command()
def optimizers(
    on: Annotated[
        str,
        typer.Option(
            parser=one_of("on", SURFACES), help=f"Take the surface: {', '.join(SURFACES)}.", metavar="NAME"
        ),
    ] = "rosenbrock",
    optim: Annotated[
        str,
        typer.Option(help=f"Run these optimizers, separated by commas: {', '.join(OPTIMIZERS)}.", metavar="NAMES"),
    ] = "sgd,momentum,adam,adamw,lion",
    lr: Annotated[
        str,
        typer.Option(
            help="Take this learning rate, or the best of 31 (auto); for single optimizers: sgd=0.001,adam=auto.",
            metavar="RATE",
        ),
    ] = "auto",
    schedule: Annotated[
        str | None,
        typer.Option(help="Multiply the rates by this schedule, for instance 'warmup(20) >> cosine(180)'."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=100_000, help="Take this many steps.")] = 200,
    start: Annotated[
        str | None, typer.Option(help="Begin at this point, for instance -1.5,2. [default: the surface's own]")
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(min=0.0, help="Give gradients noise of this deviation. [default: the surface's own]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed the noise.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Write PNG, HTML and JSON to this folder.")
    ] = Path("onepass-visualize"),
    html: Annotated[
        bool, typer.Option("--html/--no-html", help="Write the HTML page, too, which needs plotly.")
    ] = True,
) -> None:
    """Draw the paths of optimizers on a surface: a picture, and a page that plays the steps without network.

    The rate auto is the best of 31 rates from 1e-4 to 10: the whole run is tried with each, and the median of the
    last tenth of its losses is its score. A rate whose run leaves the picture does not count.
    """
    check_place("output", output)
    console = Console()
    try:
        if html:
            check_installed("visualize")
        runs = trajectories(
            on, optim, _point(start), steps, lr=_rate(lr), schedule=schedule, noise=noise, seed=seed
        )
    except (ValueError, TypeError, RuntimeError, ModuleNotFoundError) as error:
        # Not as typer.BadParameter, whose frame would break commands in two.
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    console.print(runs.table())
    picture, page, figures = (output / f"{on}.{ending}" for ending in ("png", "html", "json"))
    with writing("output", picture):
        runs.plot(picture)
        figures.write_text(json.dumps(runs.to_json(), allow_nan=False) + "\n", encoding="utf-8")
        if html:
            runs.write_html(page)
    written = [picture, figures, *([page] if html else [])]
    console.print(f"Wrote {', '.join(map(str, written))}.", markup=False, soft_wrap=True)


def _rate(text: str) -> float | str | dict[str, float | str]:
    """Reads a rate, auto, or a list of name=rate."""
    if "=" not in text:
        return _one_rate(text)
    found: dict[str, float | str] = {}
    for part in text.split(","):
        name, sign, value = part.partition("=")
        if not sign:
            raise ValueError(f"visualize: lr must be a number, auto or name=number, got {part}")
        found[name.strip()] = _one_rate(value)
    return found


def _one_rate(text: str) -> float | str:
    if text.strip() == "auto":
        return "auto"
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not math.isfinite(rate):
        raise ValueError(f"visualize: lr must be a number, auto or name=number, got {text}")
    return rate


def _point(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"visualize: start must be two numbers, as in -1.5,2, got {text}") from None
    return x, y
