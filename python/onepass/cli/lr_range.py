"""`onepass lr-range`: the learning rate range test on the demo's network."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import onepass.optim
from onepass.bench import machine
from onepass.cli import check_place, torch_threads, writing
from onepass.cli.demo import images
from onepass.cli.options import BatchSize, Folder, OptimizerName, Threads
from onepass.demo.data import Data
from onepass.demo.model import network
from onepass.demo.train import OPTIMIZERS, Plan, train
from onepass.monitor import LRRangeResult, lr_range_test

_CPU = torch.device("cpu")


def lr_range(
    optimizer: OptimizerName = "adamw",
    min_lr: Annotated[float, typer.Option(help="Begin with this rate.")] = 1e-6,
    max_lr: Annotated[float, typer.Option(help="End with this rate.")] = 10.0,
    steps: Annotated[int, typer.Option(min=10, max=1_000_000, help="Take this many updates in a sweep.")] = 100,
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Take this many sweeps, each with another order of the images.")
    ] = 3,
    batch_size: BatchSize = 64,
    grid: Annotated[
        int,
        typer.Option(min=0, help="Also train with this many rates from 1e-5 to 1, and with the suggested one."),
    ] = 0,
    epochs: Annotated[
        int, typer.Option(min=1, help="Go over the images this many times in each training of the grid.")
    ] = 10,
    output: Folder = Path("onepass-lr-range"),
    threads: Threads = None,
) -> None:
    """Find a learning rate for the demo's network: train briefly with a growing rate, several times."""
    console = Console()
    data = images()
    # Now, not after a minute of training.
    check_place("output", output)
    with torch_threads(threads):
        facts = machine.record(torch.get_num_threads())
        try:
            result = _sweep(data, optimizer, batch_size, min_lr=min_lr, max_lr=max_lr, steps=steps, seeds=seeds)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        console.print(result.table())
        suggestion = result.suggestion if "steepest" in result.suggestions else None
        compared = _compare(data, optimizer, batch_size, epochs, grid, suggestion) if grid else {}
    if suggestion is None:
        console.print("There is no suggestion, because the loss fell in no sweep.")
    for lr, accuracy in compared.items():
        mark = "  (suggested)" if lr == suggestion else ""
        console.print(f"rate {lr:.3g}: validation accuracy {accuracy:.2%}{mark}")
    figures, picture = output / "lr_range.json", output / "lr_range.png"
    settings: dict[str, Any] = {"optimizer": optimizer, "batch_size": batch_size, "suggestion": suggestion}
    if grid:
        settings |= {"epochs": epochs, "grid": [{"lr": lr, "accuracy": a} for lr, a in compared.items()]}
    with writing("output", figures):
        figures.write_text(json.dumps({**facts, **settings, **result.to_json()}, indent=1) + "\n")
        result.plot(picture)
    console.print(f"Wrote {picture} and {figures}.")


def _sweep(data: Data, optimizer: str, batch_size: int, **options: Any) -> LRRangeResult:
    name, defaults = OPTIMIZERS[optimizer]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network()
        loader: DataLoader[Any] = DataLoader(
            TensorDataset(data.train_images, data.train_labels), batch_size, shuffle=True, drop_last=True
        )
        trained = getattr(onepass.optim, name)(model.parameters(), **defaults)
        return lr_range_test(model, trained, cross_entropy, loader, **options)


def _compare(
    data: Data, optimizer: str, batch_size: int, epochs: int, grid: int, suggestion: float | None
) -> dict[float, float]:
    """Trains with each rate on the same batches; returns the validation accuracy at the end, by rate."""
    name, defaults = OPTIMIZERS[optimizer]
    rates = sorted({*np.geomspace(1e-5, 1.0, grid).tolist(), *([] if suggestion is None else [suggestion])})
    makers = {f"{lr!r}": partial(getattr(onepass.optim, name), **{**defaults, "lr": lr}) for lr in rates}
    accuracies = {}
    for lr, (label, make) in track(list(zip(rates, makers.items(), strict=True)), "training", transient=True):
        runs = train(data, Plan(epochs, batch_size, 0, _CPU), {label: make})
        accuracies[lr] = runs[label].validation[-1].accuracy
    return accuracies
