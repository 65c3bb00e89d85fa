"""Makes a run, its report, the page of optimizers and the pages of two landscapes, for a look in a browser.

python tests/browser/make.py FOLDER
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onepass.demo.data import mnist
from onepass.monitor import Monitor
from onepass.nn import CrossEntropyLoss
from onepass.optim import AdamW, no_decay_groups
from onepass.optim.lr_scheduler import ScheduleLR
from onepass.visualize import landscape

EPOCHS, BATCH, IMAGES = 12, 50, 500


def network() -> nn.Sequential:
    """Makes a small network with batch norm for digits."""
    layers = (nn.Flatten(), nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
    return nn.Sequential(*layers)


def train(model: nn.Module, file: Path) -> list[dict[str, Tensor]]:
    """Trains on digits with a monitor; returns the weights of each epoch."""
    data = mnist()
    order = torch.randperm(len(data.train_labels))[:IMAGES]
    inputs, targets = data.train_images[order], data.train_labels[order]
    optimizer = AdamW(no_decay_groups(model, 0.01)[0], lr=3e-3)
    steps = EPOCHS * (IMAGES // BATCH)
    scheduler = ScheduleLR(optimizer, f"warmup(10) >> cosine({steps - 10})")
    loss_of = CrossEntropyLoss(return_stats=True)
    weights: list[dict[str, Tensor]] = []
    with Monitor(model, optimizer, scheduler, file=file, layers_every=10) as monitor:
        for _ in range(EPOCHS):
            model.train()
            for part in torch.randperm(IMAGES).split(BATCH):
                optimizer.zero_grad()
                loss, stats = loss_of(model(inputs[part]), targets[part])
                loss.backward()
                optimizer.step()
                monitor.log(loss=loss, stats=stats)
                scheduler.step()
            model.eval()
            with torch.no_grad():
                loss, stats = loss_of(model(data.validation_images), data.validation_labels)
            error = float(stats.expected_calibration_error())
            seen: dict[str, Any] = {"val_accuracy": float(stats.accuracy), "val_calibration_error": error}
            monitor.log_epoch(val_loss=float(loss), **seen)
            weights.append({name: value.clone() for name, value in model.state_dict().items()})
    return weights


def main() -> None:
    """Makes everything in the folder that the command names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model, run = network(), folder / "run.jsonl"
    run.unlink(missing_ok=True)
    weights = train(model, run)
    command = [sys.executable, "-m", "onepass"]
    subprocess.run([*command, "report", str(run), "-o", str(folder / "report.html")], check=True)
    # A report of the same run, killed in the middle of a line, after a loss that is not finite.
    broken = folder / "broken.jsonl"
    text = run.read_text()
    lines = text[: len(text) // 2].splitlines()
    lines[20] = lines[20].replace('"loss": ', '"loss": "nan", "was": ', 1)
    broken.write_text("\n".join(lines))
    subprocess.run([*command, "report", str(broken), "-o", str(folder / "broken.html")], check=True)
    subprocess.run([*command, "visualize", "optimizers", "-o", str(folder)], check=True)
    data = mnist()
    batch = [(data.validation_images[:250], data.validation_labels[:250])]
    for name, options in (("random", {}), ("principal", {"trajectory": weights})):
        scene = landscape(model, nn.functional.cross_entropy, batch, resolution=33, **options)  # type: ignore[arg-type]
        for write, ending in ((scene.write_html, "html"), (scene.write_json, "json"), (scene.plot, "png")):
            write(folder / f"landscape-{name}.{ending}")


if __name__ == "__main__":
    main()
