"""Options that several commands have: their names, bounds and help texts, once.

Help texts begin with a verb, as `--help` reads them out: "--threads: Use this many CPU threads ...".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onepass._implementation import OPTIMIZERS as OPTIMIZER_RULES
from onepass.cli import one_of
from onepass.demo.train import OPTIMIZERS

__all__ = [
    "As",
    "BatchSize",
    "Compare",
    "Device",
    "Folder",
    "Impl",
    "JsonFile",
    "Kwargs",
    "OptimizerName",
    "Picture",
    "Threads",
]

OptimizerName = Annotated[
    str,
    typer.Option(
        parser=one_of("optimizer", OPTIMIZERS), help=f"Train with one of: {', '.join(OPTIMIZERS)}.", metavar="NAME"
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Take this many images in a training step.")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=1024, help="Use this many CPU threads, instead of torch's number.")
]
Device = Annotated[
    str, typer.Option(parser=one_of("device", ("cpu", "cuda")), help="Run on cpu or cuda.", metavar="DEVICE")
]
Folder = Annotated[Path, typer.Option(file_okay=False, help="Write the picture and the figures to this folder.")]
JsonFile = Annotated[Path | None, typer.Option(dir_okay=False, help="Write all figures to this JSON file.")]
Picture = Annotated[Path | None, typer.Option(dir_okay=False, help="Draw the figures into this file.")]
Impl = Annotated[
    str | None,
    typer.Option(
        help="Take this implementation, a class or function of any package: module:Name.", metavar="MODULE:NAME"
    ),
]
Kwargs = Annotated[
    list[str] | None,
    typer.Option(help="Give the implementation this argument: name=value. May be repeated.", metavar="NAME=VALUE"),
]
As = Annotated[
    str | None,
    typer.Option(
        "--as",
        help=f"Take the implementation for this rule: {', '.join(OPTIMIZER_RULES)}. Its name may say it.",
    ),
]
Compare = Annotated[
    Path | None, typer.Option(dir_okay=False, help="Print what changed since this JSON file was written.")
]
