"""What label smoothing does to confidence and calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from onepass.lab.data import few_of_mnist, with_wrong_labels
from onepass.lab.experiment import Case, Experiment, Point, Points
from onepass.lab.pictures import COLOURS, line
from onepass.lab.statistics import Check, estimate
from onepass.lab.training import fit, mlp
from onepass.nn import CrossEntropyLoss
from onepass.optim import Adam
from onepass.optim.lr_scheduler import ScheduleLR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onepass.lab.result import Result

CONFIDENCE, ACCURACY, ERROR, EXCESS, LOSS = (
    "confidence, %",
    "accuracy, %",
    "calibration error, points",
    "confidence less accuracy, points",
    "loss",
)


@dataclass(frozen=True)
class LabelSmoothing(Experiment):
    """Trains a network on few images of MNIST with some wrong labels, by heart, with several label smoothings.

    A fifth of all labels is drawn at random, for training and for validation alike, so that no network can be
    right as often as one is sure that has learnt its images by heart.

    Confidence and calibration are by-products of the loss on the validation images (`onepass.nn.CrossEntropyLoss`
    with ``return_stats=True``); the calibration error is the expected one over 15 bins.

    Claim: A network that knows its training images by heart is too confident on others; label smoothing of 0.1
    makes it less confident and better calibrated; too much smoothing makes it too cautious, and the error grows
    again.

    Criterion: Without smoothing, confidence less accuracy is above 0; with 0.1 the confidence and the calibration
    error are lower than without; with the largest smoothing the calibration error is higher than with 0.1 (all 95
    % intervals of the differences).

    Limits: One network, 500 images, wrong labels. The set-up was chosen because the network without smoothing is
    far too confident. Where it is only a little so, smoothing of 0.1 makes the calibration worse: without wrong
    labels and with 100 images, for instance (docs/decisions/lab.md).

    Source: Szegedy et al. 2016, section 7; Müller et al. 2019, "When Does Label Smoothing Help?"; Guo et al. 2017
    (calibration error).
    """

    name: ClassVar[str] = "label-smoothing"
    smoothings: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)
    judged: float = 0.1
    images: int = 500
    wrong_labels: float = 0.2
    batch: int = 50
    steps: int = 600
    width: int = 128
    lr: float = 0.003

    def cases(self) -> Sequence[Case]:
        """Lists the smoothings."""
        return [{"label smoothing": smoothing} for smoothing in self.smoothings]

    def measure(self, case: Case, seed: int) -> Iterator[Point]:
        """Trains with a smoothing.

        Args:
            case: The smoothing.
            seed: Chooses the images and the wrong labels, and seeds weights and order.
        """
        data = with_wrong_labels(few_of_mnist(self.images, seed), self.wrong_labels, seed)
        model = mlp(28 * 28, self.width, 2)
        optimizer = Adam(model.parameters(), lr=self.lr)
        scheduler = ScheduleLR(optimizer, f"cosine({self.steps})")
        fit(
            model,
            data.train_images,
            data.train_labels,
            optimizer,
            batch=self.batch,
            steps=self.steps,
            seed=seed,
            loss=CrossEntropyLoss(label_smoothing=case["label smoothing"]),
            after=lambda step, loss: scheduler.step(),
        )
        model.eval()
        with torch.no_grad():
            loss, seen = CrossEntropyLoss(return_stats=True)(model(data.validation_images), data.validation_labels)
        rows = seen.bin_rows
        confidence = float((seen.bin_confidence.nan_to_num() * rows).sum() / rows.sum())
        accuracy = float(seen.accuracy)
        values = {
            CONFIDENCE: 100 * confidence,
            ACCURACY: 100 * accuracy,
            EXCESS: 100 * (confidence - accuracy),
            ERROR: 100 * float(seen.expected_calibration_error()),
            LOSS: float(loss),
        }
        curves = {
            "rows of the bin": rows.tolist(),
            "accuracy of the bin": seen.bin_accuracy.nan_to_num().tolist(),
            "confidence of the bin": seen.bin_confidence.nan_to_num().tolist(),
        }
        yield Point(seed, case, values, curves)

    def checks(self, points: Points) -> list[Check]:
        """Computes four differences.

        Args:
            points: The measurements.
        """

        def of(name: str, smoothing: float) -> list[float]:
            return points.of(name, **{"label smoothing": smoothing})

        def less(name: str, one: float, other: float) -> list[float]:
            return [a - b for a, b in zip(of(name, one), of(name, other), strict=True)]

        chosen, most = self.judged, max(self.smoothings)
        return [
            Check(f"{EXCESS}, without smoothing", estimate(of(EXCESS, 0.0)), above=0.0),
            Check(f"{CONFIDENCE}, {chosen:g} less 0", estimate(less(CONFIDENCE, chosen, 0.0)), below=0.0),
            Check(f"{ERROR}, {chosen:g} less 0", estimate(less(ERROR, chosen, 0.0)), below=0.0),
            Check(f"{ERROR}, {most:g} less {chosen:g}", estimate(less(ERROR, most, chosen)), above=0.0),
        ]

    def draw(self, result: Result, figure: Figure) -> None:
        """Draws confidence, accuracy and calibration error by smoothing, and a reliability diagram.

        Args:
            result: What was found.
            figure: An empty figure.
        """
        left, middle, right = figure.subplots(1, 3)
        smoothings = [row.case["label smoothing"] for row in result.rows]
        for i, name in enumerate((CONFIDENCE, ACCURACY)):
            line(left, smoothings, [row.values[name] for row in result.rows], name, i)
        line(middle, smoothings, [row.values[ERROR] for row in result.rows], ERROR, 2)
        for axes in (left, middle):
            axes.set_xlabel("label smoothing")
            axes.legend(frameon=False)
        right.plot([0, 1], [0, 1], color="#b0b0b0", linewidth=1)
        for i, smoothing in enumerate((smoothings[0], result.settings["judged"], smoothings[-1])):
            found = [p.curves for p in result.points.where(**{"label smoothing": smoothing})]
            rows = np.asarray([curves["rows of the bin"] for curves in found])
            total = np.maximum(rows.sum(0), 1)
            names = ("confidence of the bin", "accuracy of the bin")
            x, y = ((rows * [curves[name] for curves in found]).sum(0) / total for name in names)
            some = rows.sum(0) > 0
            right.plot(x[some], y[some], "o-", color=COLOURS[i], markersize=3, label=f"smoothing {smoothing:g}")
        right.set(xlabel="confidence", ylabel="accuracy")
        right.legend(frameon=False)


EXPERIMENT = LabelSmoothing
