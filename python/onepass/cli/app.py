"""The command `onepass`, put together from its subcommands."""

from __future__ import annotations

from typing import Annotated

import typer

import onepass
from onepass.cli.augment import augment
from onepass.cli.bench import bench
from onepass.cli.demo import demo
from onepass.cli.info import info
from onepass.cli.lab import lab
from onepass.cli.lr_range import lr_range
from onepass.cli.parity import parity
from onepass.cli.report import report
from onepass.cli.schedule import schedule
from onepass.cli.visualize import app as visualize

app = typer.Typer(
    name="onepass",
    help="Show, time and check onepass: the memory-bound parts of a training step, each in one pass over memory.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
)
app.command()(info)
app.command()(demo)
app.command()(bench)
app.command()(parity)
app.command()(schedule)
app.command()(lr_range)
app.command()(lab)
app.command()(augment)
app.command()(report)
app.add_typer(visualize)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onepass {onepass.__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command `onepass`."""
    app(prog_name="onepass")
