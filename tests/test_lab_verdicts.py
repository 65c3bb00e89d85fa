"""Verdicts of the lab, fed numbers: those that show each claim, and those of which one effect does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest

from onepass import lab
from onepass.lab import (
    activations,
    adam_sgd,
    batch_norm_eval,
    batch_norm_rates,
    dropout_ensemble,
    dropout_scaling,
    gap,
    label_smoothing,
    rates,
    schedules,
    zero_grad,
)
from onepass.lab.experiment import Case, Point, Points
from onepass.lab.result import Result

SEEDS = 4


def activations_values(case: Case) -> dict[str, float]:
    depth = case["depth"]
    kept = {activations.TORCH: 16.0 * depth, activations.NO_GRAD: 1.0}.get(case["way"], 8.0 * depth)
    peak = {activations.CHECKPOINTS: 8.0 * depth**0.5, activations.NO_GRAD: 3.0}.get(case["way"], kept)
    return {activations.KEPT: kept, activations.PEAK: peak, activations.OFF: 0.0}


def batch_norm_rates_values(case: Case) -> dict[str, float]:
    with_norm = case["network"] == batch_norm_rates.WITH
    accuracy = 95.0 if case["rate"] <= (3.0 if with_norm else 0.3) else 10.0
    return {batch_norm_rates.ACCURACY: accuracy, batch_norm_rates.SMOOTHNESS: 1.0 if with_norm else 3.0}


def batch_norm_eval_cases() -> Iterator[Case]:
    for batch in lab.find("batch-norm-eval").batches:
        for mode in (batch_norm_eval.EVAL, batch_norm_eval.TRAIN):
            yield {"training batch": 64, "evaluation batch": batch, "mode": mode}
    for batch in (6, 32):
        yield {"training batch": 64, "evaluation batch": batch, "mode": batch_norm_eval.SORTED}


def batch_norm_eval_values(case: Case) -> dict[str, float]:
    right = case["mode"] == batch_norm_eval.EVAL or case["evaluation batch"] == 128
    by_digit = case["mode"] == batch_norm_eval.SORTED
    return {
        batch_norm_eval.ACCURACY: 97.0 if right else 20.0 if by_digit else 50.0,
        batch_norm_eval.DIFFERS: 0.0 if right else 50.0,
        batch_norm_eval.AFTER: 80.0 if by_digit else 97.0,
    }


def dropout_ensemble_values(case: Case) -> dict[str, float]:
    values = {dropout_ensemble.GEOMETRIC: 1e-15, dropout_ensemble.MATCH: 30.0}
    return values | {dropout_ensemble.SCALED: 95.0, dropout_ensemble.EXACT: 95.0}


def dropout_scaling_cases() -> Iterator[Case]:
    for scaling in (dropout_scaling.INVERTED, dropout_scaling.TEST_TIME, dropout_scaling.FORGOTTEN):
        yield {"p": 0.5, "scaling": scaling}


def dropout_scaling_values(case: Case) -> dict[str, float]:
    forgotten = case["scaling"] == dropout_scaling.FORGOTTEN
    return {
        dropout_scaling.ACCURACY: 96.0,
        dropout_scaling.LOSS: 0.2 if forgotten else 0.1,
        dropout_scaling.SIGNAL: 2.0 if forgotten else 1.0,
        dropout_scaling.SAME: 1e-7,
    }


def gap_values(case: Case) -> dict[str, float]:
    return {gap.GAP: 0.5, gap.VALIDATION: 0.5} if case["cure"] == gap.NONE else {gap.GAP: 0.2, gap.VALIDATION: 0.3}


def label_smoothing_values(case: Case) -> dict[str, float]:
    smoothing = case["label smoothing"]
    return {
        label_smoothing.EXCESS: 20.0 - 200 * smoothing,
        label_smoothing.CONFIDENCE: 90.0 - 200 * smoothing,
        label_smoothing.ERROR: abs(20.0 - 200 * smoothing),
    }


def schedules_values(case: Case) -> dict[str, float]:
    falls = case["schedule"] in (schedules.COSINE, schedules.PLATEAU)
    usable = case["rate"] <= (0.02 if case["schedule"] == schedules.CONSTANT else 0.045)
    return {schedules.LOSS: 0.3 if falls else 0.4, schedules.ACCURACY: 90.0 if usable else 40.0}


def adam_sgd_values(case: Case) -> dict[str, float]:
    adam = case["optimizer"] == adam_sgd.ADAM
    return {
        adam_sgd.LOSS: 0.1 if case["rate"] == 0.1 else 1.0,
        adam_sgd.SPREAD: 30.0 if adam else 1.0,
        adam_sgd.SPARSE: 3.0 if adam else 0.1,
        adam_sgd.DENSE: 0.1,
        adam_sgd.RARE: 80.0 if adam else 20.0,
    }


def zero_grad_cases() -> Iterator[Case]:
    for name in (zero_grad.ONE, zero_grad.MICRO, zero_grad.UNDIVIDED, zero_grad.RATE, zero_grad.FORGOTTEN):
        yield {"training": name}


def zero_grad_values(case: Case) -> dict[str, float]:
    forgotten = case["training"] == zero_grad.FORGOTTEN
    return {zero_grad.DISTANCE: 1e-15, zero_grad.LOSS: 50.0 if forgotten else 0.1}


def rates_cases() -> Iterator[Case]:
    for multiple in lab.find("rates").multiples:
        yield {MULTIPLE: multiple}


def rates_values(case: Case) -> dict[str, float]:
    multiple = case["multiple of the suggestion"]
    good = multiple == 1.0
    way = 0.5 if multiple < 1 else 1.0 if good else 100.0
    return {rates.LOSS: 0.1 if good else 2.0, rates.ACCURACY: 97.0 if good else 60.0, rates.WAY: way}


SMOOTHING, MULTIPLE = "label smoothing", "multiple of the suggestion"
# What shows each claim, and values one of which is changed: conditions of its points, its name, the value, and the
# number of the check that must then fail.
FED: dict[str, tuple[Callable[[Case], dict[str, float]], list[tuple[Case, str, float, set[int]]]]] = {
    "activations": (
        activations_values,
        [
            ({"way": activations.OURS, "depth": 4}, activations.KEPT, 400.0, {0}),
            ({"way": activations.CHECKPOINTS, "depth": 64}, activations.PEAK, 512.0, {1}),
            ({"way": activations.CHECKPOINTS, "depth": 16}, activations.OFF, 1e-3, {2}),
            ({"way": activations.NO_GRAD, "depth": 64}, activations.PEAK, 6.0, {3}),
            ({"way": activations.TORCH, "depth": 64}, activations.KEPT, 600.0, {4}),
        ],
    ),
    "batch-norm-rates": (
        batch_norm_rates_values,
        [
            ({"network": batch_norm_rates.WITHOUT, "rate": 3.0}, batch_norm_rates.ACCURACY, 95.0, {0}),
            ({"network": batch_norm_rates.WITH}, batch_norm_rates.ACCURACY, 10.0, {0}),
            ({"network": batch_norm_rates.WITH}, batch_norm_rates.SMOOTHNESS, 4.0, {1}),
        ],
    ),
    "batch-norm-eval": (
        batch_norm_eval_values,
        [
            ({"mode": batch_norm_eval.TRAIN, "evaluation batch": 2}, batch_norm_eval.ACCURACY, 94.0, {0}),
            ({"mode": batch_norm_eval.TRAIN, "evaluation batch": 128}, batch_norm_eval.ACCURACY, 90.0, {1}),
            ({"mode": batch_norm_eval.SORTED, "evaluation batch": 32}, batch_norm_eval.ACCURACY, 90.0, {2}),
            ({"mode": batch_norm_eval.SORTED, "evaluation batch": 6}, batch_norm_eval.AFTER, 95.0, {3}),
            ({"mode": batch_norm_eval.EVAL, "evaluation batch": 4}, batch_norm_eval.DIFFERS, 1.0, {4}),
        ],
    ),
    "dropout-ensemble": (
        dropout_ensemble_values,
        [
            ({"network": dropout_ensemble.SOFTMAX}, dropout_ensemble.GEOMETRIC, 1e-3, {0}),
            ({"dropped units": 16}, dropout_ensemble.MATCH, 2.0, {1}),
            ({"dropped units": 16}, dropout_ensemble.SCALED, 92.0, {2}),
        ],
    ),
    "dropout-scaling": (
        dropout_scaling_values,
        [
            ({"scaling": dropout_scaling.INVERTED}, dropout_scaling.SAME, 1e-3, {0}),
            ({"scaling": dropout_scaling.TEST_TIME}, dropout_scaling.ACCURACY, 90.0, {1}),
            ({"scaling": dropout_scaling.FORGOTTEN}, dropout_scaling.SIGNAL, 1.0, {2}),
            ({"scaling": dropout_scaling.FORGOTTEN}, dropout_scaling.LOSS, 0.1, {3}),
        ],
    ),
    "gap": (
        gap_values,
        [
            ({"cure": gap.DECAY}, gap.GAP, 0.6, {2}),
            ({"cure": gap.SMOOTHING}, gap.VALIDATION, 0.6, {5}),
            ({"cure": gap.ALL}, gap.VALIDATION, 0.5, {9}),
        ],
    ),
    "label-smoothing": (
        label_smoothing_values,
        [
            ({SMOOTHING: 0.0}, label_smoothing.EXCESS, -1.0, {0}),
            ({SMOOTHING: 0.1}, label_smoothing.CONFIDENCE, 95.0, {1}),
            ({SMOOTHING: 0.1}, label_smoothing.ERROR, 30.0, {2}),
            ({SMOOTHING: 0.4}, label_smoothing.ERROR, -5.0, {3}),
        ],
    ),
    "schedules": (
        schedules_values,
        [
            ({"schedule": schedules.COSINE}, schedules.LOSS, 0.4, {0}),
            ({"schedule": schedules.PLATEAU}, schedules.LOSS, 0.5, {1}),
            ({"schedule": schedules.CONSTANT, "rate": 0.045}, schedules.ACCURACY, 85.0, {2}),
        ],
    ),
    "adam-sgd": (
        adam_sgd_values,
        [
            ({"optimizer": adam_sgd.PLAIN}, adam_sgd.SPREAD, 2.0, {0}),
            ({"optimizer": adam_sgd.ADAM}, adam_sgd.SPARSE, 0.2, {1}),
            ({"optimizer": adam_sgd.PLAIN}, adam_sgd.RARE, 79.0, {2}),
            ({"optimizer": adam_sgd.MOMENTUM, "rate": 0.1}, adam_sgd.RARE, 79.0, {3}),
        ],
    ),
    "zero-grad": (
        zero_grad_values,
        [
            ({"training": zero_grad.MICRO}, zero_grad.DISTANCE, 1e-3, {0}),
            ({"training": zero_grad.UNDIVIDED}, zero_grad.DISTANCE, 1e-3, {1}),
            ({"training": zero_grad.FORGOTTEN}, zero_grad.LOSS, 0.2, {2}),
        ],
    ),
    "rates": (
        rates_values,
        [
            ({MULTIPLE: 0.03}, rates.LOSS, 0.11, {0}),
            ({MULTIPLE: 30.0}, rates.LOSS, 0.11, {1}),
            ({MULTIPLE: 0.03}, rates.WAY, 1.5, {2}),
            ({MULTIPLE: 30.0}, rates.WAY, 1.5, {3}),
            ({MULTIPLE: 3.0}, rates.ACCURACY, 99.9, {4}),
        ],
    ),
}
# Experiments one of whose cases gives several points.
POINTS = {
    "batch-norm-eval": batch_norm_eval_cases,
    "dropout-scaling": dropout_scaling_cases,
    "zero-grad": zero_grad_cases,
    "rates": rates_cases,
}


def fed(name: str, where: Case | None = None, value: str = "", number: float = 0.0) -> Result:
    """The result of numbers that show the claim, after one value is changed. Seeds differ by a thousandth."""
    values_of, _ = FED[name]
    cases = list(POINTS[name]()) if name in POINTS else lab.find(name).cases()
    points = Points()
    for seed in range(SEEDS):
        for case in cases:
            values = values_of(case)
            if where is not None and where.items() <= case.items():
                values[value] = number
            # Spread in the direction of the seed; percentages near their limit stay below it.
            points.append(Point(seed, case, {n: v * (1 - 1e-3 * seed) for n, v in values.items()}))
    return Result.of(lab.find(name), points)


def test_every_experiment_is_fed():
    assert FED.keys() == lab.EXPERIMENTS.keys()
    for name, (_, broken) in FED.items():
        touched = set().union(*(failing for *_, failing in broken))
        assert name == "gap" or touched == set(range(len(fed(name).checks))), name


@pytest.mark.parametrize("name", FED)
def test_numbers_that_show_a_claim(name):
    result = fed(name)
    assert [check.text for check in result.checks if not check.holds] == []
    assert result.verdict == lab.SHOWN


@pytest.mark.parametrize(
    ("name", "where", "value", "number", "failing"),
    [(name, *broken) for name, (_, all_broken) in FED.items() for broken in all_broken],
)
def test_numbers_that_do_not(name, where, value, number, failing):
    """One effect is missing: its check, and no other, fails."""
    result = fed(name, where, value, number)
    assert {i for i, check in enumerate(result.checks) if not check.holds} == failing
    assert result.verdict == lab.NOT_SHOWN


def test_one_seed_shows_nothing():
    result = fed("gap")
    one = Points(point for point in result.points if point.seed == 0)
    assert Result.of(lab.find("gap"), one).verdict == lab.NOT_SHOWN


def test_a_result_without_checks_shows_nothing():
    assert dataclasses.replace(fed("gap"), checks=[]).verdict == lab.NOT_SHOWN


def test_rows_are_found_by_their_case():
    result = fed("gap")
    assert result.row(cure=gap.NONE).values[gap.GAP].count == SEEDS
    with pytest.raises(LookupError, match=r"row: .* must leave one row, got 6"):
        result.row()
