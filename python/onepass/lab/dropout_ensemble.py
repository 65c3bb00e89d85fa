"""Dropout as an ensemble: the weight-scaled network against the exact average of all thinned ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import onepass.nn
from onepass.lab.data import digits8
from onepass.lab.experiment import Case, Experiment, Point, Points
from onepass.lab.pictures import COLOURS, line
from onepass.lab.statistics import Check, estimate
from onepass.lab.training import fit, mlp
from onepass.optim import Adam

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onepass.lab.result import Result

SOFTMAX, HIDDEN = "dropout on the inputs of a softmax", "dropout in front of a hidden layer"
KL, GEOMETRIC, MATCH, SCALED, EXACT = (
    "KL to the exact average, weight-scaled",
    "difference from the geometric mean",
    "Monte-Carlo networks as near as the weight-scaled one",
    "accuracy of the weight-scaled network, %",
    "accuracy of the exact average, %",
)
# Thinned networks that are evaluated at a time: their activations on 200 images are to fit the cache.
_AT_A_TIME = 2**9


@dataclass(frozen=True)
class DropoutEnsemble(Experiment):
    """Enumerates all 2^N thinned networks of a trained network with dropout on N units, in float64.

    The exact average is the mean of their probabilities. The weight-scaled network is the trained one in
    evaluation mode. Monte Carlo is the mean of k sampled networks of `onepass.nn.mc_dropout`.

    Claim: One pass of the weight-scaled network is the exact geometric mean where dropout is on the inputs of a
    softmax, and elsewhere a good approximation of the average of all thinned networks: nearer than ten of them.

    Criterion: On the inputs of a softmax the weight-scaled probabilities and the normalised geometric mean differ
    by less than 1e-9; for the largest hidden layer the mean KL divergence from the exact average to the
    weight-scaled network is that of more than 10 Monte-Carlo networks; its accuracy is within 1 point of the exact
    average's (all 95 % intervals).

    Limits: Enumeration allows about 16 dropped units in one layer; networks in use have hundreds. With few units
    half of which are dropped, thinned networks differ much: their average is cautious, and weight scaling, which
    is near the geometric mean, is confident. Its lag in accuracy shrinks as the number of units grows.

    Source: Srivastava et al. 2014, section 7.5; Baldi and Sadowski 2013; Goodfellow et al. 2016, section 7.12.
    """

    name: ClassVar[str] = "dropout-ensemble"
    units: tuple[int, ...] = (4, 8, 12, 16)
    p: float = 0.5
    steps: int = 600
    lr: float = 0.01
    images: int = 200
    width: int = 32
    draws: int = 512

    def cases(self) -> Sequence[Case]:
        """Lists the networks."""
        hidden = [{"network": HIDDEN, "dropped units": units} for units in self.units]
        return [{"network": SOFTMAX, "dropped units": 16}, *hidden]

    def measure(self, case: Case, seed: int) -> Iterator[Point]:
        """Trains, enumerates and samples.

        Args:
            case: The network.
            seed: Seeds the weights, the order of the images and dropout.
        """
        data = digits8()
        # Images of 4 x 4 pixels, so that there are 16 inputs.
        shrink: list[nn.Module] = [nn.AvgPool2d(2)] if case["network"] == SOFTMAX else []
        units = case["dropped units"]
        before: list[nn.Module] = [nn.Linear(64, units), nn.ReLU()] if case["network"] == HIDDEN else []
        body = nn.Sequential(*shrink, nn.Flatten(), *before)
        # Behind the dropout: without a ReLU there, weight scaling is the geometric mean exactly.
        behind = mlp(units, self.width, 1) if case["network"] == HIDDEN else nn.Sequential(nn.Linear(units, 10))
        model = nn.Sequential(body, onepass.nn.Dropout(self.p), behind)
        optimizer = Adam(model.parameters(), lr=self.lr)
        fit(model, data.train_images, data.train_labels, optimizer, batch=64, steps=self.steps, seed=seed)
        model.double().eval()
        images, labels = data.validation_images[: self.images].double(), data.validation_labels[: self.images]
        with torch.no_grad():
            exact, geometric = self._enumerated(body(images), behind, units)
            scaled = model(images).softmax(1)
            sampled = self._sampled(model, images, seed)
        counts, errors = _monte_carlo(exact, sampled)
        kl = _kl(exact, scaled)
        values = {
            KL: kl,
            MATCH: _matching(counts, errors, kl),
            SCALED: 100 * float((scaled.argmax(1) == labels).double().mean()),
            EXACT: 100 * float((exact.argmax(1) == labels).double().mean()),
            GEOMETRIC: float((scaled - geometric).abs().max()),
        }
        yield Point(seed, case, values, {"KL, Monte Carlo": errors, "networks": [float(n) for n in counts]})

    def _enumerated(self, features: Tensor, behind: nn.Module, units: int) -> tuple[Tensor, Tensor]:
        """Computes the weighted arithmetic and the normalised geometric mean over all 2^units networks."""
        mean = torch.zeros(len(features), 10, dtype=torch.float64)
        log_mean = torch.zeros_like(mean)
        for numbers in torch.split(torch.arange(2**units), _AT_A_TIME):
            kept = ((numbers[:, None] >> torch.arange(units)) & 1).double()
            count = kept.sum(1)
            weight = (1 - self.p) ** count * self.p ** (units - count)
            thinned = (kept[:, None] * features / (1 - self.p)).flatten(0, 1)
            logs = behind(thinned).unflatten(0, (len(numbers), -1)).log_softmax(2)
            mean += torch.einsum("m,mnc->nc", weight, logs.exp())
            log_mean += torch.einsum("m,mnc->nc", weight, logs)
        return mean, log_mean.softmax(1)

    def _sampled(self, model: nn.Module, images: Tensor, seed: int) -> Tensor:
        with onepass.nn.mc_dropout(model, seed=seed):
            return torch.stack([model(images).softmax(1) for _ in range(self.draws)])

    def checks(self, points: Points) -> list[Check]:
        """Computes what the criterion names.

        Args:
            points: The measurements.
        """
        largest = points.where(network=HIDDEN, **{"dropped units": max(self.units)})
        lost = np.subtract(largest.of(SCALED), largest.of(EXACT)).tolist()
        return [
            Check(f"{SOFTMAX}: {GEOMETRIC}", estimate(points.of(GEOMETRIC, network=SOFTMAX)), below=1e-9),
            Check(f"{MATCH}, {max(self.units)} units", estimate(largest.of(MATCH)), above=10.0),
            Check("accuracy, weight-scaled less exact, points", estimate(lost), above=-1.0, below=1.0),
        ]

    def draw(self, result: Result, figure: Figure) -> None:
        """Draws the divergence by the number of Monte-Carlo networks, and by the number of units.

        Args:
            result: What was found.
            figure: An empty figure.
        """
        left, right = figure.subplots(1, 2)
        rows = [row for row in result.rows if row.case["network"] == HIDDEN]
        for i, row in enumerate(rows):
            found = result.points.where(**row.case)
            errors = np.exp(np.mean(np.log([point.curves["KL, Monte Carlo"] for point in found]), axis=0))
            shade, units = COLOURS[i % len(COLOURS)], row.case["dropped units"]
            left.plot(found[0].curves["networks"], errors, "o-", color=shade, markersize=3, label=f"{units} units")
            left.axhline(row.values[KL].mean, color=shade, linestyle="--", linewidth=1)
        left.set(xscale="log", yscale="log", xlabel="Monte-Carlo networks (dashed: the weight-scaled network)")
        left.set_ylabel("KL to the exact average")
        left.legend(frameon=False)
        units_of = [row.case["dropped units"] for row in rows]
        for i, name in enumerate((SCALED, EXACT)):
            line(right, units_of, [row.values[name] for row in rows], name, i)
        right.set(xlabel="dropped units")
        right.legend(frameon=False)


def _kl(exact: Tensor, other: Tensor) -> float:
    return float((exact * (exact.log() - other.log())).sum(1).mean())


def _monte_carlo(exact: Tensor, sampled: Tensor) -> tuple[list[int], list[float]]:
    """Returns numbers of networks, and the mean divergence of averages of that many."""
    counts = [2**i for i in range(len(sampled).bit_length() - 2)]
    errors = []
    for count in counts:
        groups = sampled[: len(sampled) // count * count].reshape(-1, count, *sampled.shape[1:]).mean(1)
        errors.append(float(np.mean([_kl(exact, group) for group in groups])))
    return counts, errors


def _matching(counts: list[int], errors: list[float], wanted: float) -> float:
    """Finds the number of networks with the divergence that is wanted, by the line through all in logarithms."""
    slope, constant = np.polyfit(np.log(errors), np.log(counts), 1)
    return float(np.exp(constant + slope * np.log(wanted)))


EXPERIMENT = DropoutEnsemble
