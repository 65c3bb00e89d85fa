"""The experiments by name."""

from __future__ import annotations

import importlib

from onepass.lab.experiment import Experiment

__all__ = ["EXPERIMENTS", "find"]

# The module of each experiment, which is loaded when it is asked for.
EXPERIMENTS: dict[str, str] = {
    "activations": "onepass.lab.activations",
    "batch-norm-rates": "onepass.lab.batch_norm_rates",
    "batch-norm-eval": "onepass.lab.batch_norm_eval",
    "dropout-ensemble": "onepass.lab.dropout_ensemble",
    "dropout-scaling": "onepass.lab.dropout_scaling",
    "gap": "onepass.lab.gap",
    "label-smoothing": "onepass.lab.label_smoothing",
    "schedules": "onepass.lab.schedules",
    "adam-sgd": "onepass.lab.adam_sgd",
    "zero-grad": "onepass.lab.zero_grad",
    "rates": "onepass.lab.rates",
    "diagnose": "onepass.lab.diagnose",
}


def find(name: str) -> Experiment:
    """Returns an experiment with its regular settings.

    Args:
        name: A name in `EXPERIMENTS`.

    Raises:
        ValueError: There is no such experiment.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"lab: name must be one of {', '.join(EXPERIMENTS)}, got {name}")
    kind: type[Experiment] = importlib.import_module(EXPERIMENTS[name]).EXPERIMENT
    return kind()
