"""Where dropout scales: in training (inverted) or in evaluation (test-time), and what forgetting it costs."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import onepass.nn
from onepass.demo.data import Data
from onepass.demo.model import evaluate
from onepass.lab.data import digits8
from onepass.lab.experiment import Case, Experiment, Point, Points
from onepass.lab.pictures import line
from onepass.lab.statistics import Check, estimate, ratio
from onepass.lab.training import fit
from onepass.optim import Adam

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onepass.lab.result import Result

INVERTED, TEST_TIME, FORGOTTEN = "inverted", "test-time", "test-time, scaling forgotten"
ACCURACY, LOSS, SIGNAL, SAME = (
    "validation accuracy, %",
    "validation loss",
    "mean activation, evaluation / training",
    "difference of the two forms of one network",
)


@dataclass(frozen=True)
class DropoutScaling(Experiment):
    """Trains one network with both scalings, and evaluates the test-time one also without its factor of 1 - p.

    Inverted dropout divides what it keeps by 1 - p in training. Test-time scaling, the original form, keeps it as
    it is and multiplies by 1 - p in evaluation. A network of one form is one of the other whose next weights are
    divided by 1 - p.

    Claim: Both scalings describe the same networks and reach the same accuracy; a test-time network that is
    evaluated without its factor gets activations that are 1 / (1 - p) too large, and a higher loss.

    Criterion: At p = 0.5: both forms of one trained network differ by less than 1e-5 of the largest logit, in both
    modes with the same masks; their accuracies after training differ by less than 1.5 points; without the factor
    the mean activation in evaluation is between 1.9 and 2.1 times that in training, and the validation loss more
    than 1.05 times that with it (all 95 % intervals).

    Limits: Within 1.5 points is not the same: for one function the next weights of the test-time form are 1 / (1 -
    p) times as large, and Adam's steps do not grow with them, so it learns more slowly. At p = 0.8 that shows.

    Source: Srivastava et al. 2014, sections 4 and 10; torch.nn.Dropout is inverted.
    """

    name: ClassVar[str] = "dropout-scaling"
    probabilities: tuple[float, ...] = (0.2, 0.5, 0.8)
    judged: float = 0.5
    width: int = 128
    steps: int = 300
    lr: float = 0.003

    def cases(self) -> Sequence[Case]:
        """Lists the probabilities of dropout."""
        return [{"p": p} for p in self.probabilities]

    def measure(self, case: Case, seed: int) -> Iterator[Point]:
        """Trains both forms from the same weights and with the same masks.

        Args:
            case: The probability of dropout.
            seed: Seeds the weights, the order of the images and dropout.
        """
        data, p = digits8(), case["p"]
        start = nn.Sequential(
            nn.Flatten(), nn.Linear(64, self.width), nn.ReLU(), onepass.nn.Dropout(p), nn.Linear(self.width, 10)
        )
        inverted, test_time = copy.deepcopy(start), copy.deepcopy(start)
        test_time[3] = onepass.nn.Dropout(p, scaling="test_time")
        for model in (inverted, test_time):
            torch.manual_seed(seed)
            optimizer = Adam(model.parameters(), lr=self.lr)
            fit(model, data.train_images, data.train_labels, optimizer, batch=64, steps=self.steps, seed=seed)
        forgotten = copy.deepcopy(test_time)
        # Inverted dropout does nothing in evaluation.
        forgotten[3] = onepass.nn.Dropout(p)
        images = data.validation_images
        same = max(_difference(inverted, p, images, seed, training=training) for training in (True, False))
        yield Point(seed, {**case, "scaling": INVERTED}, {**_scores(inverted, inverted, data, seed), SAME: same})
        yield Point(seed, {**case, "scaling": TEST_TIME}, _scores(test_time, test_time, data, seed))
        yield Point(seed, {**case, "scaling": FORGOTTEN}, _scores(forgotten, test_time, data, seed))

    def checks(self, points: Points) -> list[Check]:
        """Computes what the criterion names.

        Args:
            points: The measurements.
        """
        found = points.where(p=self.judged)
        accuracies = [found.of(ACCURACY, scaling=scaling) for scaling in (TEST_TIME, INVERTED)]
        losses = [found.of(LOSS, scaling=scaling) for scaling in (FORGOTTEN, TEST_TIME)]
        between: dict[str, Any] = {"above": 1.9, "below": 2.1}
        return [
            Check(SAME, estimate(found.of(SAME, scaling=INVERTED)), below=1e-5),
            Check(
                "accuracy, test-time less inverted, points",
                estimate(np.subtract(accuracies[0], accuracies[1]).tolist()),
                above=-1.5,
                below=1.5,
            ),
            Check(f"{SIGNAL}, scaling forgotten", estimate(found.of(SIGNAL, scaling=FORGOTTEN)), **between),
            Check("validation loss, scaling forgotten / test-time", ratio(losses[0], losses[1]), above=1.05),
        ]

    def draw(self, result: Result, figure: Figure) -> None:
        """Draws accuracy, loss and activations by p.

        Args:
            result: What was found.
            figure: An empty figure.
        """
        for axes, name in zip(figure.subplots(1, 3), (ACCURACY, LOSS, SIGNAL), strict=True):
            for i, scaling in enumerate((FORGOTTEN, INVERTED, TEST_TIME)):
                rows = [row for row in result.rows if row.case["scaling"] == scaling]
                line(axes, [row.case["p"] for row in rows], [row.values[name] for row in rows], scaling, i)
            axes.set(xlabel="p", ylabel=name)
        figure.axes[1].set_yscale("log")
        figure.axes[-1].legend(frameon=False)


@torch.no_grad()
def _scores(model: nn.Sequential, trained: nn.Sequential, data: Data, seed: int) -> dict[str, float]:
    """Scores a model, and compares what follows its dropout in evaluation with the trained form in training."""
    score = evaluate(model, data.validation_images, data.validation_labels)
    features = model[:3](data.validation_images)
    there = trained[3].train()(features, seed=seed).mean()
    here = model[3].eval()(features).mean()
    return {ACCURACY: 100 * score.accuracy, LOSS: score.loss, SIGNAL: float(here / there)}


@torch.no_grad()
def _difference(inverted: nn.Sequential, p: float, images: Tensor, seed: int, *, training: bool) -> float:
    """Returns the largest difference of the logits of both forms of a network, over the largest logit."""
    other = copy.deepcopy(inverted)
    other[3] = onepass.nn.Dropout(p, scaling="test_time")
    weight = other[4].weight
    assert isinstance(weight, Tensor)
    weight /= 1 - p
    logits = []
    for model in (inverted, other):
        model.train(training)
        logits.append(model[4](model[3](model[:3](images), seed=seed)))
    return float((logits[0] - logits[1]).abs().max() / logits[0].abs().max())


EXPERIMENT = DropoutScaling
