"""What zero_grad is for: accumulated micro-batches, and gradients that nobody clears."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from onepass.lab.data import digits8
from onepass.lab.experiment import Case, Experiment, Point, Points
from onepass.lab.pictures import curve_bands
from onepass.lab.statistics import Check, estimate, ratio
from onepass.lab.training import batches, mlp
from onepass.nn import CrossEntropyLoss
from onepass.optim import SGD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onepass.lab.result import Result

ONE, MICRO, UNDIVIDED, RATE, FORGOTTEN = (
    "one batch",
    "micro-batches",
    "micro-batches, loss not divided",
    "one batch, rate times their number",
    "zero_grad forgotten",
)
LOSS, DISTANCE = "loss of the last quarter", "distance of the weights"


@dataclass(frozen=True)
class ZeroGrad(Experiment):
    """Trains a network on the digits in float64: by whole batches, by micro-batches, and without zero_grad.

    Backward passes add to gradients. Micro-batches use that: k backward passes of loss / k, then a step and
    zero_grad. Without zero_grad the gradient of a step is the sum over all steps so far.

    Claim: Micro-batches whose loss is divided by their number take the step of one batch; without the division the
    step is that of a rate that many times as high; without zero_grad the training fails.

    Criterion: After the last step the relative distance of the weights is below 1e-9 between micro-batches and one
    batch, and between undivided micro-batches and one batch at the higher rate; without zero_grad the mean loss
    of the last quarter is more than 10 times that of one batch (all 95 % intervals).

    Limits: Batch norm would make micro-batches differ from one batch: each has statistics of its own. Adam divides
    by the size of the gradient, so a missing division and a growing sum show less there.

    Source: torch.optim.Optimizer.zero_grad; the sum over all steps is momentum with a factor of 1.
    """

    name: ClassVar[str] = "zero-grad"
    batch: int = 64
    micro_batches: int = 4
    steps: int = 400
    lr: float = 0.1
    width: int = 64

    def cases(self) -> Sequence[Case]:
        """Lists the trainings."""
        return [{"training": "all"}]

    def measure(self, case: Case, seed: int) -> Iterator[Point]:
        """Trains copies of one network on the same batches.

        Args:
            case: There is one.
            seed: Seeds the weights and the order of the images.
        """
        start = mlp(64, self.width, 1).double()
        weights, curves = {}, {}
        for name in (ONE, MICRO, UNDIVIDED, RATE, FORGOTTEN):
            model = copy.deepcopy(start)
            curves[name] = self._train(model, name, seed)
            weights[name] = nn.utils.parameters_to_vector(model.parameters()).detach()
        compared = {MICRO: ONE, UNDIVIDED: RATE}
        for name, curve in curves.items():
            last = curve[3 * len(curve) // 4 :]
            values = {LOSS: sum(last) / len(last)}
            if name in compared:
                other = weights[compared[name]]
                values[DISTANCE] = float((weights[name] - other).norm() / other.norm())
            yield Point(seed, {"training": name}, values, {"loss": curve})

    def _train(self, model: nn.Module, name: str, seed: int) -> list[float]:
        data = digits8()
        images = data.train_images.double()
        parts = self.micro_batches if name in (MICRO, UNDIVIDED) else 1
        lr = self.lr * (self.micro_batches if name == RATE else 1)
        optimizer = SGD(model.parameters(), lr=lr)
        loss_of = CrossEntropyLoss()
        losses = []
        for chosen in batches(len(images), self.batch, self.steps, seed):
            total = 0.0
            for part in torch.chunk(chosen, parts):
                loss = loss_of(model(images[part]), data.train_labels[part])
                (loss if name == UNDIVIDED else loss / parts).backward()
                total += loss.item() / parts
            optimizer.step(zero_grad=name != FORGOTTEN)
            losses.append(total)
        return losses

    def checks(self, points: Points) -> list[Check]:
        """Computes both distances and the ratio of the losses.

        Args:
            points: The measurements.
        """
        forgotten, right = (points.of(LOSS, training=name) for name in (FORGOTTEN, ONE))
        return [
            Check(
                f"{DISTANCE}: {name}",
                estimate(points.of(DISTANCE, training=name)),
                below=1e-9,
            )
            for name in (MICRO, UNDIVIDED)
        ] + [Check(f"{LOSS}, zero_grad forgotten / called", ratio(forgotten, right), above=10.0)]

    def draw(self, result: Result, figure: Figure) -> None:
        """Draws the losses.

        Args:
            result: What was found.
            figure: An empty figure.
        """
        axes = figure.subplots()
        for i, name in enumerate((FORGOTTEN, ONE, MICRO, RATE, UNDIVIDED)):
            curve_bands(axes, result.points.where(training=name), "loss", name, i)
            # A wide pale line below a thin dashed one: where two coincide, both are visible.
            if name in (ONE, RATE):
                axes.lines[-1].set(linewidth=5, alpha=0.4)
            elif name != FORGOTTEN:
                axes.lines[-1].set(linestyle="--")
        axes.set(xlabel="step", ylabel="loss of the batch", yscale="log")
        # A swing of the training without zero_grad may pass a loss of 0 on its way.
        axes.set_ylim(bottom=1e-3)
        axes.legend(frameon=False)


EXPERIMENT = ZeroGrad
