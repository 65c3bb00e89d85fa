"""Trains the demo's network with and without augmentation, and writes benchmarks/results/demo-augment.json.

    python benchmarks/demo_augment.py

The pairs have one seed, one order of images and the same dropout masks. Only onepass.optim trains: `onepass demo`
compares optimizers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from onepass.bench import machine
from onepass.demo.data import mnist
from onepass.demo.train import OURS, Plan, contenders, train

RESULTS = Path(__file__).parent / "results" / "demo-augment.json"


def measure(seeds: Sequence[int], epochs: int, batch_size: int) -> list[dict[str, Any]]:
    """Trains each seed with and without.

    Args:
        seeds: The seeds.
        epochs: How often each training goes over the images.
        batch_size: Images in a step.

    Returns:
        A dict for each training: the validation accuracies after each epoch, and the seconds of its steps.
    """
    data = mnist()
    makers = {OURS: contenders("adamw", None)[OURS]}
    found = []
    for seed, augment in track([(seed, augment) for seed in seeds for augment in (False, True)]):
        plan = Plan(epochs, batch_size, seed, torch.device("cpu"), layers="onepass", augment=augment)
        run = train(data, plan, makers)[OURS]
        assert run.train is not None
        accuracies = [score.accuracy for score in run.validation]
        found.append(
            {
                "seed": seed,
                "augment": augment,
                "validation_accuracy": accuracies,
                "train_accuracy": run.train.accuracy,
                "step_seconds_total": sum(run.step_seconds),
            }
        )
    return found


def main() -> None:
    """Measures, and writes the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    facts = {**machine.record(torch.get_num_threads()), "command": " ".join(["python", *sys.argv])}
    facts |= {"epochs": given.epochs, "batch_size": given.batch_size}
    results = measure(range(given.seeds), given.epochs, given.batch_size)
    given.output.write_text(json.dumps({**facts, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
