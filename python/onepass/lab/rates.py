"""Rates that are too high, too low, and the one that the range test suggests."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from onepass.demo.model import evaluate
from onepass.lab.data import digits8
from onepass.lab.experiment import Case, Experiment, Point, Points
from onepass.lab.pictures import curve_bands, line
from onepass.lab.statistics import Check, estimate, ratio
from onepass.lab.training import fit, loss_on, mlp
from onepass.monitor import lr_range_test
from onepass.nn import CrossEntropyLoss
from onepass.optim import SGD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onepass.lab.result import Result

RATE, LOSS, WAY, ACCURACY = "rate", "training loss", "way of the loss", "validation accuracy, %"
# What a loss counts at most, so that a training that diverges has finite numbers.
_MOST = 1e3


@dataclass(frozen=True)
class Rates(Experiment):
    """Runs the learning rate range test for each seed, and trains at multiples of the rate that it suggests.

    The test has its default options: the suggestion is the median of three sweeps from 1e-6 to 10.     The
    training loss is that of all images after each step. Its way is the sum of all its changes, up and down, over
    the loss at the beginning: below 1 for a loss that only falls.

    Claim: A rate that is much too low creeps, one that is much too high oscillates, and the rate that the range
    test suggests lies in between and is as good as any of the grid.

    Criterion: The last training loss at the least and at the largest multiple is more than twice that at the
    suggestion; the way at the least multiple is below 1 and at the largest above 2; the validation accuracy at the
    suggestion is at most 2 points below that of the best multiple (95 % intervals; of losses and ways those
    of the geometric mean, as they are of many sizes).

    Limits: One network, plain SGD, 200 steps. One sweep by itself may suggest a rate that fails
    (docs/decisions/lab.md). The best multiple of each seed is chosen after the fact, which favours it.

    Source: Smith 2017, section 3.3; `onepass.monitor.lr_range_test`.
    """

    name: ClassVar[str] = "rates"
    multiples: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    steps: int = 200
    batch: int = 64
    width: int = 64
    sweep: int = 100
    sweeps: int = 3

    def cases(self) -> Sequence[Case]:
        """Lists one case: all multiples of the rate that one test suggests."""
        return [{"multiples": "all"}]

    def measure(self, case: Case, seed: int) -> Iterator[Point]:
        """Runs the range test, and trains copies of the network.

        Args:
            case: There is one.
            seed: Seeds the weights and the order of the images.
        """
        start = mlp(64, self.width, 2)
        suggestion = self._suggestion(start, seed)
        for multiple in self.multiples:
            yield self._train(copy.deepcopy(start), multiple, multiple * suggestion, seed)

    def _train(self, model: nn.Module, multiple: float, rate: float, seed: int) -> Point:
        data = digits8()
        optimizer = SGD(model.parameters(), lr=rate)
        losses = [loss_on(model, data.train_images, data.train_labels)]

        def look(step: int, _: float) -> None:
            loss = loss_on(model, data.train_images, data.train_labels)
            losses.append(loss if math.isfinite(loss) and loss < _MOST else _MOST)

        options: dict[str, Any] = {"batch": self.batch, "steps": self.steps, "seed": seed, "after": look}
        fit(model, data.train_images, data.train_labels, optimizer, **options)
        values = {
            RATE: rate,
            LOSS: float(np.mean(losses[-max(1, self.steps // 20) :])),
            WAY: float(np.abs(np.diff(losses)).sum() / losses[0]),
            ACCURACY: 100 * evaluate(model, data.validation_images, data.validation_labels).accuracy,
        }
        return Point(seed, {"multiple of the suggestion": multiple}, values, {"training loss": losses})

    def _suggestion(self, model: nn.Module, seed: int) -> float:
        data = digits8()
        loader: DataLoader[Any] = DataLoader(
            TensorDataset(data.train_images, data.train_labels), self.batch, shuffle=True, drop_last=True
        )
        optimizer = SGD(model.parameters(), lr=0.1)
        seeds = range(self.sweeps * seed, self.sweeps * (seed + 1))
        return lr_range_test(
            model, optimizer, CrossEntropyLoss(), loader, steps=self.sweep, seeds=seeds
        ).suggestion

    def checks(self, points: Points) -> list[Check]:
        """Computes the ratios, the ways and the distance from the best.

        Args:
            points: The measurements.
        """

        def of(name: str, multiple: float) -> list[float]:
            return points.of(name, **{"multiple of the suggestion": multiple})

        low, high = min(self.multiples), max(self.multiples)
        best = np.max([of(ACCURACY, multiple) for multiple in self.multiples], axis=0)
        ones = [1.0] * len(best)
        behind = np.subtract(of(ACCURACY, 1.0), best).tolist()
        return [
            Check(
                f"training loss, {low:g} times the suggestion / 1", ratio(of(LOSS, low), of(LOSS, 1.0)), above=2.0
            ),
            Check(f"training loss, {high:g} times / 1", ratio(of(LOSS, high), of(LOSS, 1.0)), above=2.0),
            Check(f"way of the loss, {low:g} times", ratio(of(WAY, low), ones), below=1.0),
            Check(f"way of the loss, {high:g} times", ratio(of(WAY, high), ones), above=2.0),
            Check("validation accuracy, suggestion less best multiple, points", estimate(behind), above=-2.0),
        ]

    def draw(self, result: Result, figure: Figure) -> None:
        """Draws the courses of the loss, and the accuracy by multiple.

        Args:
            result: What was found.
            figure: An empty figure.
        """
        left, right = figure.subplots(1, 2)
        name = "multiple of the suggestion"
        multiples = [row.case[name] for row in result.rows]
        for i, multiple in enumerate((multiples[0], 1.0, multiples[-1])):
            curve_bands(left, result.points.where(**{name: multiple}), "training loss", f"{multiple:g} times", i)
        left.set(xlabel="step", ylabel="training loss", yscale="log")
        left.legend(frameon=False)
        line(right, multiples, [row.values[ACCURACY] for row in result.rows], ACCURACY, 1)
        right.axvline(1.0, color="#b0b0b0", linewidth=1)
        right.set(xlabel=name, xscale="log", ylabel=ACCURACY)


EXPERIMENT = Rates
