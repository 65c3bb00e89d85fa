"""The training loop that experiments share, and the networks of several of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import onepass.nn
from onepass.optim._step.fused import FusedOptimizer

__all__ = ["batches", "fit", "loss_on", "mlp", "small_convolutions"]


def batches(count: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Yields the indices of each batch: every image once before any comes again, in a new order each time.

    Args:
        count: How many images there are.
        size: How many are in a batch, at most `count`.
        steps: How many batches are wanted.
        seed: Seeds the orders.
    """
    draws = torch.Generator().manual_seed(seed)
    done = 0
    while done < steps:
        order = torch.randperm(count, generator=draws)
        for start in range(0, count - size + 1, size):
            if done == steps:
                return
            yield order[start : start + size]
            done += 1


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimizer: FusedOptimizer,
    *,
    batch: int,
    steps: int,
    seed: int,
    loss: nn.Module | None = None,
    augment: Callable[[Tensor, Tensor, int], Tensor] | None = None,
    after: Callable[[int, float], object] = lambda step, value: None,
) -> list[float]:
    """Trains a model.

    Args:
        model: The model, in training mode.
        images: All images to train on.
        labels: Their labels.
        optimizer: One of ours.
        batch: How many images a step has.
        steps: How many steps to take.
        seed: Seeds the order of the images.
        loss: Called with logits and labels; cross-entropy by default.
        augment: Called with the images of a batch, their indices and the epoch.
        after: Called after each step with its number, from 0, and its loss.

    Returns:
        The loss of each batch before its update.
    """
    loss = onepass.nn.CrossEntropyLoss() if loss is None else loss
    losses = []
    for step, chosen in enumerate(batches(len(labels), batch, steps, seed)):
        inputs = images[chosen]
        if augment is not None:
            inputs = augment(inputs, chosen, step // max(1, len(labels) // batch))
        value: Tensor = loss(model(inputs), labels[chosen])
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step(zero_grad=True)
        losses.append(value.item())
        after(step, losses[-1])
    return losses


@torch.no_grad()
def loss_on(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Computes the mean cross-entropy of a model in the mode that it is in.

    Args:
        model: The model.
        images: The images.
        labels: Their labels.
    """
    return float(onepass.nn.CrossEntropyLoss()(model(images), labels))


def mlp(
    inputs: int, width: int, depth: int, classes: int = 10, *, norm: bool = False, he: bool = False
) -> nn.Sequential:
    """Makes a network of linear layers and ReLUs.

    Args:
        inputs: How many numbers an input has.
        width: How many units each hidden layer has.
        depth: How many hidden layers there are.
        classes: How many classes there are.
        norm: Whether a batch norm precedes each ReLU.
        he: Whether weights have the variance of He et al. 2015, which keeps the size of the signal with depth.
            torch's own is a sixth of it, and gradients of deep networks without batch norm vanish.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for i in range(depth):
        layers.append(nn.Linear(width if i else inputs, width))
        layers.append(onepass.nn.BatchNorm1d(width, activation="relu") if norm else nn.ReLU())
    layers.append(nn.Linear(width if depth else inputs, classes))
    if he:
        for layer in layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(*layers)


def small_convolutions(dropout: float = 0.0) -> nn.Sequential:
    """Makes a small network for images of 28 x 28 pixels: two convolutions with batch norm, two linear layers.

    Args:
        dropout: The probability of dropout in front of both linear layers.
    """
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False),
        onepass.nn.BatchNorm2d(8, activation="relu"),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
        onepass.nn.BatchNorm2d(16, activation="relu"),
        nn.Flatten(),
        onepass.nn.Dropout(dropout),
        nn.Linear(16 * 7 * 7, 64),
        nn.ReLU(),
        onepass.nn.Dropout(dropout),
        nn.Linear(64, 10),
    )
