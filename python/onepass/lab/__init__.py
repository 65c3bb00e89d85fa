"""Experiments that show claims about training, or say that they do not: what `onepass lab` runs.

How to add one:

1. Write a file of this folder with a frozen dataclass that inherits `Experiment`. Its docstring says what is done,
   and has the sections Claim, Criterion, Limits and Source. Commit the criterion before the first run.
2. ``cases()`` lists the cases, ``measure(case, seed)`` yields points, ``checks(points)`` computes the effects that
   the criterion names, ``draw(result, figure)`` makes the picture.
3. Set ``EXPERIMENT`` to the class, and enter the file in `EXPERIMENTS` of registry.py.
4. Add small settings to TINY in `tests/test_lab.py`, and numbers that do and do not show the claim to FED in
   `tests/test_lab_verdicts.py`.
5. Commit, run ``onepass lab NAME --long --threads 1 --output benchmarks/results/lab-NAME.json``, and add a section
   to docs/lab.md, which is drawn from that file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from onepass.lab.experiment import Case, Experiment, Point, Points
from onepass.lab.registry import EXPERIMENTS, find
from onepass.lab.result import NOT_SHOWN, SHOWN, Result, Row
from onepass.lab.statistics import Check, Estimate, estimate, ratio

__all__ = [
    "EXPERIMENTS",
    "NOT_SHOWN",
    "SHOWN",
    "Case",
    "Check",
    "Estimate",
    "Experiment",
    "Point",
    "Points",
    "Result",
    "Row",
    "estimate",
    "find",
    "ratio",
    "run",
]


def run(experiment: Experiment, seeds: Sequence[int], advance: Callable[[], object] = lambda: None) -> Result:
    """Measures every case with every seed. The numbers depend only on the settings and the seeds.

    Args:
        experiment: The experiment.
        seeds: The seeds, each once.
        advance: Called after each measurement: `len(seeds)` times the number of cases.

    Returns:
        The result, with its verdict.

    Raises:
        ValueError: There is no seed, or one is there twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"run: seeds must be different numbers, at least one, got {list(seeds)}")
    points = Points()
    begin, cpu_begin = time.perf_counter(), time.process_time()
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            for case in experiment.cases():
                torch.manual_seed(seed)
                points.extend(experiment.measure(case, seed))
                advance()
    result = Result.of(experiment, points)
    return result.timed(time.perf_counter() - begin, time.process_time() - cpu_begin)
