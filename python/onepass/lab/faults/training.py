"""Runs one small training under a monitor: what the planted faults and the healthy runs are made of."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onepass.lab.faults.data import Images
from onepass.monitor import History, Monitor
from onepass.nn.functional import cross_entropy

__all__ = ["Fault", "Training", "name_of", "record"]

_EVALUATION_BATCH = 500


@dataclass(frozen=True)
class Training:
    """Says how a network is trained; the defaults plant nothing."""

    network: Callable[[int], nn.Module]
    """Makes the network, given the pixels along an edge."""
    optimizer: Callable[[nn.Module], Optimizer]
    """Makes the optimizer."""
    epochs: int = 10
    batch: int = 64
    schedule: Callable[[Optimizer, int], Any] | None = None
    """Makes the scheduler, given the number of steps; it is stepped after each step."""
    examples: int | None = None
    """Images to train on; None for all."""
    wrong_labels: float = 0.0
    """The share of wrong labels."""
    zero_grad: bool = True
    """Whether gradients are zeroed before each backward pass."""
    temperature: float = 1.0
    """Divides the logits of the training's loss, but not those of the evaluation."""
    smoothing: float = 0.0
    """Label smoothing."""
    dtype: torch.dtype = torch.float32
    """Dtype of weights and images; normalisations stay float32."""
    autocast: torch.dtype | None = None
    scaler: Callable[[], torch.amp.GradScaler] | None = None
    augment: bool = False
    """Whether images are moved by up to one pixel."""
    clip: float | None = None
    """Largest norm of all gradients, for optimizers that do not clip in their step."""


@dataclass(frozen=True)
class Fault:
    """Holds a training with one fault, and the same one with a cure that its finding names."""

    faulty: Training
    cured: Training | None = None


def name_of(key: str) -> str:
    """Returns the name of the finding that is planted: a key may have a variant behind a dot."""
    return key.partition(".")[0]


def record(training: Training, images: Images, seed: int) -> History:
    """Runs a training, and returns what the monitor recorded.

    Args:
        training: What is trained, and how.
        images: The data.
        seed: Seeds the weights, the order of images, the choice of images and labels.
    """
    data = images.subset(training.examples, training.wrong_labels, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = training.network(images.size)
        if training.dtype != torch.float32:
            for module in model.modules():
                if isinstance(module, (nn.Linear, nn.Conv2d)):
                    module.to(training.dtype)
        optimizer = training.optimizer(model)
        steps = training.epochs * (len(data.train_labels) // training.batch)
        scheduler = None if training.schedule is None else training.schedule(optimizer, steps)
        scaler = None if training.scaler is None else training.scaler()
        with Monitor(model, optimizer, scheduler, scaler, layers_every=10) as monitor:
            for _ in range(training.epochs):
                seen = _epoch(training, data, model, optimizer, scheduler, scaler, monitor)
                scores = _scores(data.validation, data.validation_labels, training.dtype, model)
                monitor.log_epoch(**seen, **scores)
    return monitor.history


def _epoch(
    training: Training,
    data: Images,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: Any,
    scaler: Any,
    monitor: Monitor,
) -> dict[str, Any]:
    """Trains an epoch; returns the means of loss and accuracy of its steps, in training mode as they are."""
    order = torch.randperm(len(data.train_labels))
    losses, accuracies = [], []
    for start in range(0, len(order) - training.batch + 1, training.batch):
        chosen = order[start : start + training.batch]
        inputs, labels = data.train[chosen], data.train_labels[chosen]
        if training.augment:
            inputs = torch.roll(inputs, tuple(torch.randint(-1, 2, (2,)).tolist()), (2, 3))
        if training.zero_grad:
            optimizer.zero_grad()
        amp = nullcontext() if training.autocast is None else torch.autocast("cpu", training.autocast)
        with amp:
            logits = model(inputs.to(training.dtype)).float() / training.temperature
        loss, stats = cross_entropy(logits, labels, label_smoothing=training.smoothing, return_stats=True)
        (loss if scaler is None else scaler.scale(loss)).backward()
        if training.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        monitor.log(loss=loss, stats=stats)
        losses.append(float(loss.detach()))
        accuracies.append(float(stats.accuracy))
        if scheduler is not None:
            scheduler.step()
    return {"train_loss": fmean(losses), "train_accuracy": fmean(accuracies)}


@torch.no_grad()
def _scores(images: Tensor, labels: Tensor, dtype: torch.dtype, model: nn.Module) -> dict[str, Any]:
    """Scores the model in evaluation mode."""
    model.eval()
    logits = torch.cat([model(some.to(dtype)).float() for some in torch.split(images, _EVALUATION_BATCH)])
    model.train()
    loss, seen = cross_entropy(logits, labels, return_stats=True)
    return {
        "val_loss": float(loss),
        "val_accuracy": float(seen.accuracy),
        "val_confidence": float(logits.softmax(1).max(1).values.mean()),
        "val_calibration_error": float(seen.expected_calibration_error()),
    }
