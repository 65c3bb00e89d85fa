"""Schedules against a constant rate: cosine, plateau, warm-up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from onepass.demo.model import evaluate
from onepass.lab.data import digits8, with_wrong_labels
from onepass.lab.experiment import Case, Experiment, Point, Points
from onepass.lab.pictures import line
from onepass.lab.statistics import Check, ratio
from onepass.lab.training import fit, loss_on, mlp
from onepass.optim import Adam
from onepass.optim.lr_scheduler import ReduceLROnPlateau, ScheduleLR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onepass.lab.result import Result

CONSTANT, COSINE, PLATEAU, WARM_UP, BOTH = "constant", "cosine", "plateau", "warm-up", "warm-up, then cosine"
LOSS, ACCURACY = "validation loss", "validation accuracy, %"


@dataclass(frozen=True)
class Schedules(Experiment):
    """Trains a network on digits, some of which have a wrong label, with each schedule at many rates, by Adam.

    The wrong labels keep the gradients of the batches apart until the end, as in most trainings on real data;
    without them the loss falls to 0, and the noise with it. Half of the validation images, whose labels are right,
    judge the trainings; the plateau is one of the loss on the other half. Each schedule is judged at the best of
    its rates.

    Claim: A rate that falls (cosine, or on a plateau of the loss on held-out images) ends at a lower validation
    loss than the best constant rate; a warm-up allows a higher rate.

    Criterion: The validation loss at the schedule's best rate over that at the best constant rate is below 1 for
    cosine and for plateau; the highest rate with a validation accuracy of at least 80 % is higher with warm-up
    than without (95 % intervals of the ratios are below and above 1).

    Limits: One network, Adam, 600 steps. The best rate is chosen by the mean over the seeds that are judged, for
    all schedules alike. What the criterion asks of warm-up mixes two things: a constant rate behind a warm-up is
    still too high at the end. The picture suggests that a warm-up does allow a higher rate where a cosine follows,
    but the criterion did not ask for that, and a claim needs seeds that nobody has seen.

    Source: Loshchilov and Hutter 2017 (cosine); Goyal et al. 2017, section 2.2 (warm-up); torch's
    ReduceLROnPlateau.
    """

    name: ClassVar[str] = "schedules"
    rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.02, 0.03, 0.045, 0.065)
    wrong_labels: float = 0.2
    steps: int = 600
    warm_up: int = 80
    batch: int = 32
    depth: int = 4
    width: int = 64
    enough: float = 80.0

    def cases(self) -> Sequence[Case]:
        """Lists schedules and rates."""
        kinds = (CONSTANT, COSINE, PLATEAU, WARM_UP, BOTH)
        return [{"schedule": kind, "rate": rate} for kind in kinds for rate in self.rates]

    def measure(self, case: Case, seed: int) -> Iterator[Point]:
        """Trains with a schedule.

        Args:
            case: The schedule and its rate.
            seed: Seeds the weights, the order of the images and the wrong labels.
        """
        data = digits8()
        labels = with_wrong_labels(data, self.wrong_labels, seed).train_labels
        model = mlp(64, self.width, self.depth)
        optimizer = Adam(model.parameters(), lr=case["rate"])
        held_out = partial(loss_on, model, data.validation_images[1::2], data.validation_labels[1::2])
        advance = self._schedule(case["schedule"], optimizer, len(labels) // self.batch, held_out)
        options: dict[str, Any] = {"batch": self.batch, "steps": self.steps, "seed": seed}
        fit(model, data.train_images, labels, optimizer, after=lambda step, _: advance(step), **options)
        score = evaluate(model, data.validation_images[::2], data.validation_labels[::2])
        yield Point(seed, case, {LOSS: score.loss, ACCURACY: 100 * score.accuracy})

    def _schedule(
        self, kind: str, optimizer: Adam, epoch: int, held_out: Callable[[], float]
    ) -> Callable[[int], None]:
        """Makes what is called with the number of each step, after it."""
        if kind == PLATEAU:
            plateau = ReduceLROnPlateau(optimizer, factor=0.3, patience=1)

            def look(step: int) -> None:
                if (step + 1) % epoch == 0:
                    plateau.step(held_out())

            return look
        rest = self.steps - self.warm_up
        text = {
            CONSTANT: "constant(1)",
            COSINE: f"cosine({self.steps})",
            WARM_UP: f"warmup({self.warm_up}) >> constant(1)",
            BOTH: f"warmup({self.warm_up}) >> cosine({rest})",
        }[kind]
        scheduler = ScheduleLR(optimizer, text)
        return lambda step: scheduler.step()

    def checks(self, points: Points) -> list[Check]:
        """Computes the ratios.

        Args:
            points: The measurements.
        """
        constant = self._at_best(points, CONSTANT)
        found = [
            Check(
                f"validation loss, {kind} / constant, each at its best rate",
                ratio(self._at_best(points, kind), constant),
                below=1.0,
            )
            for kind in (COSINE, PLATEAU)
        ]
        warm, cold = (self._highest(points, kind) for kind in (WARM_UP, CONSTANT))
        text = f"highest rate with {self.enough:g} %, warm-up / constant"
        return [*found, Check(text, ratio(warm, cold), above=1.0)]

    def _at_best(self, points: Points, kind: str) -> list[float]:
        by_rate = [points.of(LOSS, schedule=kind, rate=rate) for rate in self.rates]
        return min(by_rate, key=lambda losses: float(np.nan_to_num(np.mean(losses), nan=np.inf)))

    def _highest(self, points: Points, kind: str) -> list[float]:
        found = points.where(schedule=kind)
        good = [point for point in found if point.values[ACCURACY] >= self.enough]
        seeds = dict.fromkeys(point.seed for point in found)
        return [max((p.case["rate"] for p in good if p.seed == seed), default=0.0) for seed in seeds]

    def draw(self, result: Result, figure: Figure) -> None:
        """Draws loss and accuracy by rate for each schedule.

        Args:
            result: What was found.
            figure: An empty figure.
        """
        for axes, name in zip(figure.subplots(1, 2), (LOSS, ACCURACY), strict=True):
            for i, kind in enumerate((CONSTANT, COSINE, PLATEAU, WARM_UP, BOTH)):
                rows = [row for row in result.rows if row.case["schedule"] == kind]
                line(axes, [row.case["rate"] for row in rows], [row.values[name] for row in rows], kind, i)
            axes.set(xlabel="rate", xscale="log", ylabel=name)
        figure.axes[0].set_yscale("log")
        figure.axes[0].legend(frameon=False)


EXPERIMENT = Schedules
