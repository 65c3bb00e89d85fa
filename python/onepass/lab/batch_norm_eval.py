"""Batch norm's two modes: what a forgotten eval() does, by batch size."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from onepass.demo.model import evaluate
from onepass.lab.data import digits8
from onepass.lab.experiment import Case, Experiment, Point, Points
from onepass.lab.pictures import line
from onepass.lab.statistics import Check, estimate
from onepass.lab.training import fit, mlp
from onepass.nn import CrossEntropyLoss
from onepass.optim import SGD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onepass.lab.result import Result

EVAL, TRAIN, SORTED = "eval()", "train()", "train(), sorted by digit"
ACCURACY, LOSS, DIFFERS, AFTER = (
    "accuracy, %",
    "loss",
    "predictions unlike those of one batch, %",
    "accuracy of eval() afterwards, %",
)


@dataclass(frozen=True)
class BatchNormEval(Experiment):
    """Trains a network with batch norm at several batch sizes, and evaluates it in both modes at several others.

    In evaluation mode batch norm uses its running statistics. In training mode it uses those of the batch, so that
    a prediction depends on the other images of its batch, and it moves the running statistics. These remember
    about 1 / momentum = 10 batches: after a pass in small batches that are sorted by digit, they are those of one
    digit.

    Claim: A forgotten eval() costs accuracy in small batches and in batches of one class, is hardly seen in large
    mixed batches, and spoils the running statistics for later; in evaluation mode the batch size changes nothing.

    Criterion: For the network of the largest training batch: train() loses more than 5 points of accuracy in
    batches of the least size, less than 2 points in those of the largest, and more than 20 points in batches
    sorted by digit; after a pass in the smallest sorted batches eval() has lost more than 5 points; in eval() less
    than 0.1 % of the predictions depend on the batch size (all 95 % intervals).

    Limits: One network with two batch norms. A batch of one cannot be run: batch norm needs two values a channel.

    Source: Ioffe and Szegedy 2015, section 3.1; torch.nn.Module.eval.
    """

    name: ClassVar[str] = "batch-norm-eval"
    train_batches: tuple[int, ...] = (4, 16, 64)
    batches: tuple[int, ...] = (2, 4, 8, 32, 128)
    sorted_batches: tuple[int, ...] = (6, 32)
    epochs: int = 8
    lr: float = 0.02
    width: int = 64

    def cases(self) -> Sequence[Case]:
        """Lists the batch sizes of the trainings."""
        return [{"training batch": size} for size in self.train_batches]

    def measure(self, case: Case, seed: int) -> Iterator[Point]:
        """Trains once, and evaluates in every way.

        Args:
            case: The batch size of the training.
            seed: Seeds the weights and the order of the images.
        """
        data = digits8()
        model = mlp(64, self.width, 2, norm=True)
        optimizer = SGD(model.parameters(), lr=self.lr, momentum=0.9)
        size = case["training batch"]
        steps = self.epochs * (len(data.train_labels) // size)
        fit(model, data.train_images, data.train_labels, optimizer, batch=size, steps=steps, seed=seed)
        images, labels = data.validation_images, data.validation_labels
        mixed = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        ordered = torch.argsort(labels, stable=True)
        whole = _logits(model, images, mixed, len(labels), training=False).argmax(1)
        ways = [(mode, batch, mixed) for batch in self.batches for mode in (EVAL, TRAIN)]
        by_digit = [(SORTED, batch, ordered) for batch in self.sorted_batches]
        for mode, batch, order in [*ways, *by_digit]:
            tried = copy.deepcopy(model)
            logits = _logits(tried, images, order, batch, training=mode != EVAL)
            predicted = logits.argmax(1)
            values = {
                ACCURACY: 100 * float((predicted == labels).float().mean()),
                LOSS: float(CrossEntropyLoss()(logits, labels)),
                DIFFERS: 100 * float((predicted != whole).float().mean()),
                AFTER: 100 * evaluate(tried, images, labels).accuracy,
            }
            yield Point(seed, {**case, "evaluation batch": batch, "mode": mode}, values)

    def checks(self, points: Points) -> list[Check]:
        """Computes what train() loses, and what depends on the batch size in eval().

        Args:
            points: The measurements.
        """
        large = points.where(**{"training batch": max(self.train_batches)})
        first, last = min(self.batches), max(self.batches)

        def accuracy(mode: str, batch: int, name: str = ACCURACY) -> np.ndarray:
            return np.asarray(large.of(name, mode=mode, **{"evaluation batch": batch}))

        small, big = (accuracy(EVAL, batch) - accuracy(TRAIN, batch) for batch in (first, last))
        right = accuracy(EVAL, last)
        by_digit = right - accuracy(SORTED, max(self.sorted_batches))
        spoiled = right - accuracy(SORTED, min(self.sorted_batches), AFTER)
        depends = np.max([accuracy(EVAL, batch, DIFFERS) for batch in self.batches], axis=0)
        return [
            Check(f"points lost by train() in batches of {first}", estimate(small.tolist()), above=5.0),
            Check(f"points lost by train() in batches of {last}", estimate(big.tolist()), below=2.0),
            Check("points lost by train() in batches sorted by digit", estimate(by_digit.tolist()), above=20.0),
            Check("points that eval() has lost afterwards", estimate(spoiled.tolist()), above=5.0),
            Check(
                "largest share of predictions that depend on the batch size in eval(), %",
                estimate(depends.tolist()),
                below=0.1,
            ),
        ]

    def draw(self, result: Result, figure: Figure) -> None:
        """Draws the accuracies by batch size, for each training batch.

        Args:
            result: What was found.
            figure: An empty figure.
        """
        sizes = list(dict.fromkeys(row.case["training batch"] for row in result.rows))
        for axes, size in zip(np.atleast_1d(figure.subplots(1, len(sizes), sharey=True)), sizes, strict=True):
            rows = [row for row in result.rows if row.case["training batch"] == size]
            for i, mode in enumerate((TRAIN, EVAL, SORTED)):
                chosen = [row for row in rows if row.case["mode"] == mode]
                places = [row.case["evaluation batch"] for row in chosen]
                line(axes, places, [row.values[ACCURACY] for row in chosen], mode, i)
            axes.set(xlabel="evaluation batch", xscale="log", title=f"trained in batches of {size}")
        figure.axes[0].set_ylabel(ACCURACY)
        figure.axes[-1].legend(frameon=False)


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor, order: Tensor, batch: int, *, training: bool) -> Tensor:
    """Computes the logits of all images in batches; a last batch of one image joins the one before."""
    model.train(training)
    found = torch.empty(len(images), 10)
    parts = list(torch.split(order, batch))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    for part in parts:
        found[part] = model(images[part])
    return found


EXPERIMENT = BatchNormEval
