"""Why batch norm allows higher rates: accuracy by rate, and the smoothness of the loss along the gradient."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from onepass.demo.model import evaluate
from onepass.lab.data import digits8
from onepass.lab.experiment import Case, Experiment, Point, Points
from onepass.lab.pictures import curve_bands, line
from onepass.lab.statistics import Check, ratio
from onepass.lab.training import batches, fit, mlp
from onepass.nn import CrossEntropyLoss
from onepass.optim import SGD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onepass.lab.result import Result

WITH, WITHOUT = "with batch norm", "without"
ACCURACY, SMOOTHNESS, CHANGE, RANGE = (
    "validation accuracy, %",
    "change of the gradient over the distance",
    "change of the gradient",
    "range of the loss",
)
# The distances along the gradient, in steps of the rate, as in the paper.
_STRIDES = (0.5, 1.0, 2.0, 3.0, 4.0)


@dataclass(frozen=True)
class BatchNormRates(Experiment):
    """Trains a deep network on the digits at many rates, with and without batch norm, by plain SGD.

    Weights begin as He et al. 2015 propose, so that the network without batch norm trains, too. At one rate that
    both train with, it also walks along the gradient at every tenth step, as Santurkar et al. do: 0.5 to 4 times
    the rate times the gradient. The largest change of the gradient over the distance walked estimates the
    Lipschitz constant of the gradient (the effective smoothness) in that direction.

    Claim: Batch norm lets a network train at higher rates, and makes the gradient change less along its own
    direction.

    Criterion: The highest rate with a validation accuracy of at least 90 % is more than twice as high with batch
    norm; the median over training of the largest change of the gradient over the distance is smaller with batch
    norm than without (95 % intervals of the ratios).

    Limits: One network of five hidden layers of 64 units, one small data set, plain SGD, a fixed number of steps.
    The smoothness is measured at one rate, along one direction, in training mode. In the last quarter of the
    training both networks are about as smooth. Predictions that are not finite count as wrong.

    Source: Santurkar et al. 2018, "How Does Batch Normalization Help Optimization?", section 3.1 and figure 4;
    Ioffe and Szegedy 2015.
    """

    name: ClassVar[str] = "batch-norm-rates"
    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    probed_rate: float = 0.1
    depth: int = 5
    width: int = 64
    batch: int = 64
    steps: int = 200
    enough: float = 90.0

    def cases(self) -> Sequence[Case]:
        """Lists networks and rates."""
        rates = sorted({*self.rates, self.probed_rate})
        return [{"network": network, "rate": rate} for network in (WITH, WITHOUT) for rate in rates]

    def measure(self, case: Case, seed: int) -> Iterator[Point]:
        """Trains, and walks along the gradient where the rate is the one that is probed.

        Args:
            case: The network and the rate.
            seed: Seeds the weights and the order of the images.
        """
        data = digits8()
        model = mlp(64, self.width, self.depth, norm=case["network"] == WITH, he=True)
        optimizer = SGD(model.parameters(), lr=case["rate"])
        probes: list[tuple[float, float, float]] = []
        fixed = list(batches(len(data.train_labels), self.batch, self.steps, seed))

        def walk(step: int, _: float) -> None:
            if case["rate"] == self.probed_rate and step % 10 == 0:
                chosen = fixed[step]
                probes.append(_walk(model, data.train_images[chosen], data.train_labels[chosen], case["rate"]))

        images, labels = data.train_images, data.train_labels
        fit(model, images, labels, optimizer, batch=self.batch, steps=self.steps, seed=seed, after=walk)
        score = evaluate(model, data.validation_images, data.validation_labels)
        values = {ACCURACY: 100 * score.accuracy}
        curves = {}
        if probes:
            columns = dict(zip((SMOOTHNESS, CHANGE, RANGE), map(list, zip(*probes, strict=True)), strict=True))
            values |= {name: median(column) for name, column in columns.items()}
            curves = columns
        yield Point(seed, case, values, curves)

    def checks(self, points: Points) -> list[Check]:
        """Computes both ratios.

        Args:
            points: The measurements.
        """
        high, low = (self._highest(points, network) for network in (WITH, WITHOUT))
        smooth, rough = (points.of(SMOOTHNESS, network=n, rate=self.probed_rate) for n in (WITH, WITHOUT))
        return [
            Check(f"highest rate with {self.enough:g} %, with / without", ratio(high, low), above=2.0),
            Check(f"{SMOOTHNESS}, with / without", ratio(smooth, rough), below=1.0),
        ]

    def _highest(self, points: Points, network: str) -> list[float]:
        """The highest rate of each seed that trains the network; 0 where none does."""
        found = points.where(network=network)
        seeds = dict.fromkeys(point.seed for point in found)
        good = [point for point in found if point.values[ACCURACY] >= self.enough]
        return [max((p.case["rate"] for p in good if p.seed == seed), default=0.0) for seed in seeds]

    def draw(self, result: Result, figure: Figure) -> None:
        """Draws the accuracies by rate, and the smoothness in the course of training.

        Args:
            result: What was found.
            figure: An empty figure.
        """
        left, right = figure.subplots(1, 2)
        for i, network in enumerate((WITH, WITHOUT)):
            rows = [row for row in result.rows if row.case["network"] == network]
            line(left, [row.case["rate"] for row in rows], [row.values[ACCURACY] for row in rows], network, i)
            probed = Points(point for point in result.points.where(network=network) if point.curves)
            curve_bands(right, probed, SMOOTHNESS, network, i, step=10)
        left.set(xlabel="rate", xscale="log", ylabel=ACCURACY)
        right.set(xlabel="step", ylabel=SMOOTHNESS, yscale="log")
        left.legend(frameon=False)


def _walk(model: nn.Module, images: Tensor, labels: Tensor, rate: float) -> tuple[float, float, float]:
    """Returns the largest change of the gradient over the distance, that change, and the range of the loss."""
    # Running statistics are not to see these batches.
    walker = copy.deepcopy(model)
    params = list(walker.parameters())
    loss_of = CrossEntropyLoss()

    def look() -> tuple[float, list[Tensor]]:
        loss = loss_of(walker(images), labels)
        return loss.item(), list(torch.autograd.grad(loss, params))

    first, gradient = look()
    start = [param.detach().clone() for param in params]
    length = _norm(gradient)
    losses, changes, slopes = [first], [0.0], [0.0]
    for stride in _STRIDES:
        with torch.no_grad():
            for param, begin, slope in zip(params, start, gradient, strict=True):
                param.copy_(begin - stride * rate * slope)
        loss, there = look()
        losses.append(loss)
        changes.append(_norm([a - b for a, b in zip(there, gradient, strict=True)]))
        slopes.append(changes[-1] / (stride * rate * length))
    return max(slopes), max(changes), max(losses) - min(losses)


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.cat([tensor.flatten() for tensor in tensors]).norm())


EXPERIMENT = BatchNormRates
