"""The lab: each experiment in a tiny form, its verdict fed both ways, results as JSON, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
import torch

from onepass import lab
from onepass.lab.experiment import SECTIONS, Point, Points

# Settings by which each experiment runs in about a second. A list of an experiment's numbers is no claim then.
TINY: dict[str, dict[str, Any]] = {
    "activations": {"depths": (1, 4), "batch": 2, "channels": 2, "size": 4},
    "batch-norm-rates": {"rates": (0.1, 1.0), "depth": 1, "width": 8, "steps": 12},
    "batch-norm-eval": {"train_batches": (64,), "batches": (2, 128), "epochs": 1, "width": 8},
    "dropout-ensemble": {"units": (2, 4), "steps": 20, "images": 10, "draws": 16, "width": 4},
    "dropout-scaling": {"probabilities": (0.5,), "width": 8, "steps": 20},
    "gap": {"images": 50, "steps": 3},
    "label-smoothing": {"images": 50, "smoothings": (0.0, 0.1, 0.4), "steps": 3, "width": 8},
    "schedules": {"rates": (0.001, 0.01), "steps": 40, "warm_up": 4, "depth": 1, "width": 8},
    "adam-sgd": {"rates": (0.01, 0.1), "steps": 10},
    "zero-grad": {"steps": 12, "width": 8},
    "rates": {"multiples": (0.1, 1.0, 10.0), "steps": 20, "width": 8, "sweep": 40},
    "diagnose": {"set": "tuning", "only": ("divergence", "sgd-momentum")},
}
each = pytest.mark.parametrize("name", lab.EXPERIMENTS)


def tiny(name: str) -> lab.Experiment:
    return dataclasses.replace(lab.find(name), **TINY[name])


def untimed(points: Points) -> list[Any]:
    """The points without what a clock measured."""
    return [
        (p.seed, p.case, {k: str(v) for k, v in p.values.items() if not k.endswith(", ms")}, str(p.curves))
        for p in points
    ]


def test_every_experiment_has_a_tiny_form():
    assert TINY.keys() == lab.EXPERIMENTS.keys()


@each
def test_an_experiment_says_what_it_claims(name):
    experiment = lab.find(name)
    assert experiment.name == name
    assert all(len(experiment.said(title)) > 20 for title in SECTIONS)
    assert 2 <= experiment.seeds < experiment.long_seeds
    assert len(experiment.cases()) == len({str(case) for case in experiment.cases()})


@each
def test_a_tiny_run(name, tmp_path):
    """Numbers, verdict, table and picture; the same seeds give the same numbers, whatever was drawn before."""
    experiment = tiny(name)
    steps: list[None] = []
    state = torch.get_rng_state()
    result = lab.run(experiment, [0, 1], lambda: steps.append(None))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(steps) == 2 * len(experiment.cases())
    assert result.seeds == [0, 1]
    assert result.verdict in (lab.SHOWN, lab.NOT_SHOWN)
    assert result.checks
    written = json.loads(json.dumps(result.to_json(), allow_nan=False))
    read = lab.Result.from_json(written)
    assert json.dumps(read.to_json()) == json.dumps(result.to_json())
    assert (read.verdict, untimed(read.points)) == (result.verdict, untimed(result.points))
    heads, lines = read.cells()
    assert all(len(line) == len(heads) for line in lines)
    assert len(lines) == len(result.points.cases())
    read.plot(tmp_path / "picture.png", "caption")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    torch.rand(3)
    again = lab.run(experiment, [1])
    assert untimed(again.points) == untimed(Points(p for p in result.points if p.seed == 1))


# What an estimate and a check do

# Student's quantile is given with seven digits.
QUANTILE_RTOL = 1e-6


def test_estimates():
    """The interval of Student's t: 4.303 standard errors for three values."""
    found = lab.estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.count) == (2.0, 3)
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=QUANTILE_RTOL)
    assert lab.estimate([1.0, 2.0, 3.0], 0.99).high > found.high
    assert lab.estimate([5.0, 5.0]) == lab.Estimate(5.0, 5.0, 5.0, 2)
    assert math.isnan(lab.estimate([5.0]).low)
    assert math.isnan(lab.estimate([5.0, math.inf]).low)
    assert str(found) == "2 ± 2.5"
    assert str(lab.estimate([5.0])) == "5"


def test_ratios_are_geometric():
    found = lab.ratio([2.0, 8.0], [1.0, 1.0])
    assert found.mean == pytest.approx(4.0)
    assert found.low * found.high == pytest.approx(16.0)
    assert not lab.Check("never", lab.ratio([1.0, 1.0], [0.0, 1.0]), above=0.5).holds


@pytest.mark.parametrize(
    ("ends", "bounds", "holds"),
    [
        ((1.0, 3.0), {"above": 0.5}, True),
        ((1.0, 3.0), {"above": 1.5}, False),
        ((1.0, 3.0), {"below": 3.5}, True),
        ((1.0, 3.0), {"below": 2.5}, False),
        ((1.0, 3.0), {"above": 0.5, "below": 2.5}, False),
        ((math.nan, math.nan), {"above": 0.5}, False),
        ((1.0, math.inf), {"above": 0.5}, False),
    ],
)
def test_a_check_holds_if_the_whole_interval_does(ends, bounds, holds):
    check = lab.Check("text", lab.Estimate(2.0, *ends, 3), **bounds)
    assert check.holds is holds
    assert lab.Check.from_json(json.loads(json.dumps(check.to_json(), allow_nan=False))).holds is holds
    assert all(word in check.wanted for word in bounds)


# What is refused


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match=r"lab: name must be one of activations, .*rates, diagnose, got nope"):
        lab.find("nope")


@pytest.mark.parametrize("seeds", [[], [1, 1]])
def test_seeds_are_different_numbers(seeds):
    with pytest.raises(ValueError, match="run: seeds must be different numbers, at least one, got "):
        lab.run(tiny("zero-grad"), seeds)


def test_a_value_is_that_of_one_case():
    points = Points([Point(0, {"a": 1}, {"x": 2.0}), Point(0, {"a": 2}, {"x": 3.0})])
    assert points.of("x", a=2) == [3.0]
    for case in ({}, {"a": 3}):
        with pytest.raises(LookupError, match=r"of: .* must leave one case"):
            points.of("x", **case)


def test_a_docstring_without_a_criterion_is_refused():
    class Vague(type(lab.find("gap"))):
        """Does something."""

    with pytest.raises(LookupError, match="Vague: the docstring must have the section Criterion, got none"):
        Vague.said("Criterion")
