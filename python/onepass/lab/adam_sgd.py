"""What Adam does that SGD does not: the effective rate of each parameter, on dense and sparse features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from onepass.lab.data import digits8
from onepass.lab.experiment import Case, Experiment, Point, Points
from onepass.lab.pictures import line
from onepass.lab.statistics import Check, estimate, ratio
from onepass.lab.training import batches
from onepass.nn import CrossEntropyLoss
from onepass.optim import SGD, Adam

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onepass.lab.result import Result

PLAIN, MOMENTUM, ADAM = "SGD", "SGD, momentum 0.9", "Adam"
LOSS, RARE, OTHER, DENSE, SPARSE, SPREAD = (
    "training loss",
    "accuracy on rows with a rare feature, %",
    "accuracy on the other rows, %",
    "effective rate, dense",
    "effective rate, sparse",
    "effective rate, sparse / dense",
)


@dataclass(frozen=True)
class AdamSgd(Experiment):
    """Trains a linear classifier whose inputs are pixels and rare features, with three optimizers at many rates.

    The dense features are the 64 pixels of the digits. A sparse feature is 1 in about one of a hundred rows, else
    0; where it is, it decides the label. The effective rate of a parameter is the length of its way, the sum of
    all |updates|, over the sum of all |gradients|. Each optimizer is judged at the rate with the least training
    loss.

    Claim: SGD moves every parameter at the same rate; Adam moves those of rare features at a much higher one, and
    so learns rare features in steps in which SGD does not.

    Criterion: The effective rate of sparse over dense features is between 0.99 and 1.01 for SGD, and above 3 for
    Adam; the accuracy on validation rows with a rare feature is more than 5 points higher for Adam than for SGD
    and for SGD with momentum (95 % intervals).

    Limits: The rare features are made, as no small data set has such; the pixels are real. The gradients of dense
    features change their sign, and cancel in the sums of momentum; so momentum favours sparse ones a little, too.
    One linear layer; with enough steps SGD learns them, too.

    Source: Duchi et al. 2011, section 1.1 (rare features); Kingma and Ba 2015.
    """

    name: ClassVar[str] = "adam-sgd"
    rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    features: int = 20
    share: float = 0.01
    steps: int = 300
    batch: int = 32

    def cases(self) -> Sequence[Case]:
        """Lists optimizers and rates."""
        kinds = (PLAIN, MOMENTUM, ADAM)
        return [{"optimizer": kind, "rate": rate} for kind in kinds for rate in self.rates]

    def measure(self, case: Case, seed: int) -> Iterator[Point]:
        """Trains, and adds up updates and gradients.

        Args:
            case: The optimizer and its rate.
            seed: Seeds the rare features, the weights and the order of the rows.
        """
        data = digits8()
        draws = torch.Generator().manual_seed(seed)
        decided = torch.randint(0, 10, (self.features,), generator=draws)
        inputs, labels, _ = self._rows(data.train_images, data.train_labels, decided, draws)
        model = nn.Linear(inputs.shape[1], 10)
        options: dict[str, Any] = {"momentum": 0.9} if case["optimizer"] == MOMENTUM else {}
        kind = Adam if case["optimizer"] == ADAM else SGD
        optimizer = kind(model.parameters(), lr=case["rate"], **options)
        moved, pulled = (torch.zeros_like(model.weight) for _ in range(2))
        loss_of = CrossEntropyLoss()
        for chosen in batches(len(labels), self.batch, self.steps, seed):
            loss_of(model(inputs[chosen]), labels[chosen]).backward()
            before = model.weight.detach().clone()
            assert model.weight.grad is not None
            pulled += model.weight.grad.abs()
            optimizer.step(zero_grad=True)
            moved += (model.weight.detach() - before).abs()
        rates = (moved.sum(0) / pulled.sum(0)).double()
        # Pixels that are the same in all images have no gradient.
        rates = torch.where(pulled.sum(0) > 0, rates, torch.nan)
        dense, sparse = rates[:64].nanmean(), rates[64:].nanmean()
        with torch.no_grad():
            values = {LOSS: float(loss_of(model(inputs), labels))}
            inputs, labels, rare = self._rows(data.validation_images, data.validation_labels, decided, draws)
            right = (model(inputs).argmax(1) == labels).double()
        values |= {
            RARE: 100 * float(right[rare].mean()),
            OTHER: 100 * float(right[~rare].mean()),
            DENSE: float(dense),
            SPARSE: float(sparse),
            SPREAD: float(sparse / dense),
        }
        yield Point(seed, case, values)

    def _rows(
        self, images: Tensor, labels: Tensor, decided: Tensor, draws: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns pixels with rare features, labels, and which rows have a rare feature: one at most."""
        which = torch.randint(0, self.features, labels.shape, generator=draws)
        has = torch.rand(len(labels), generator=draws) < self.share * self.features
        rare = nn.functional.one_hot(which, self.features).float() * has[:, None]
        return torch.cat([images.flatten(1), rare], 1), torch.where(has, decided[which], labels), has

    def checks(self, points: Points) -> list[Check]:
        """Computes spreads and differences of accuracy.

        Args:
            points: The measurements.
        """
        best = {kind: self._best(points, kind) for kind in (PLAIN, MOMENTUM, ADAM)}
        found = [
            Check(f"{SPREAD}, SGD", estimate(best[PLAIN].of(SPREAD)), above=0.99, below=1.01),
            Check(f"{SPREAD}, Adam", ratio(best[ADAM].of(SPARSE), best[ADAM].of(DENSE)), above=3.0),
        ]
        for kind in (PLAIN, MOMENTUM):
            gain = np.subtract(best[ADAM].of(RARE), best[kind].of(RARE)).tolist()
            found.append(Check(f"{RARE.rpartition(',')[0]}, Adam less {kind}, points", estimate(gain), above=5.0))
        return found

    def _best(self, points: Points, kind: str) -> Points:
        """The points of the rate with the least training loss, in the mean over seeds."""
        by_rate = [points.where(optimizer=kind, rate=rate) for rate in self.rates]
        return min(by_rate, key=lambda some: float(np.nan_to_num(np.mean(some.of(LOSS)), nan=np.inf)))

    def draw(self, result: Result, figure: Figure) -> None:
        """Draws accuracies and effective rates by rate.

        Args:
            result: What was found.
            figure: An empty figure.
        """
        for axes, name in zip(figure.subplots(1, 3), (LOSS, RARE, SPREAD), strict=True):
            for i, kind in enumerate((ADAM, PLAIN, MOMENTUM)):
                rows = [row for row in result.rows if row.case["optimizer"] == kind]
                line(axes, [row.case["rate"] for row in rows], [row.values[name] for row in rows], kind, i)
            axes.set(xlabel="rate", xscale="log", ylabel=name)
        figure.axes[0].set_yscale("log")
        figure.axes[2].set_yscale("log")
        figure.axes[0].legend(frameon=False)


EXPERIMENT = AdamSgd
