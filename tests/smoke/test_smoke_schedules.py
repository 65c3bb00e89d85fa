"""Smoke: schedules as functions of the step, and schedulers next to torch's."""

from __future__ import annotations

import copy

import pytest
import torch

import onepass.optim
from onepass.optim import lr_scheduler, schedules

# torch's recursion rounds once a step.
RECURSIVE = 1e-9
CASES = [
    pytest.param("StepLR", {"step_size": 7, "gamma": 0.5}, id="step"),
    pytest.param("CosineAnnealingLR", {"T_max": 30, "eta_min": 1e-4}, id="cosine"),
    pytest.param("LinearLR", {"total_iters": 12}, id="linear"),
    pytest.param("OneCycleLR", {"max_lr": 0.3, "total_steps": 40}, id="one-cycle"),
]


def optimizer_of(family: object = onepass.optim) -> torch.optim.Optimizer:
    return family.AdamW([torch.nn.Parameter(torch.ones(3))], lr=0.1)


def rates(scheduler: torch.optim.lr_scheduler.LRScheduler, steps: int) -> list[float]:
    """The rate of each step; the optimizer steps first, as torch asks."""
    found = []
    for _ in range(steps):
        scheduler.optimizer.param_groups[0]["params"][0].grad = torch.ones(3)
        scheduler.optimizer.step()
        scheduler.step()
        found.append(scheduler.optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize(("name", "options"), CASES)
def test_schedulers_are_torchs(name, options):
    ours = getattr(lr_scheduler, name)(optimizer_of(), **options)
    theirs = getattr(torch.optim.lr_scheduler, name)(optimizer_of(torch.optim), **options)
    assert isinstance(ours, getattr(torch.optim.lr_scheduler, name))
    assert rates(ours, 35) == pytest.approx(rates(theirs, 35), rel=RECURSIVE)


def test_a_text_is_the_schedule():
    shape = schedules.parse("warmup(5) >> cosine(20, floor=0.1)")
    assert shape == schedules.warmup(5) >> schedules.cosine(20, floor=0.1)
    assert [shape(step) for step in (0, 5, 25)] == pytest.approx([0.0, 1.0, 0.1])
    scheduler = lr_scheduler.ScheduleLR(optimizer_of(), "warmup(5) >> cosine(20, floor=0.1)")
    assert rates(scheduler, 30) == [shape.lr_at(step, 0.1) for step in range(1, 31)]


def test_a_resumed_scheduler_has_the_same_bits():
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer_of(), T_max=30)
    rates(scheduler, 11)
    resumed = lr_scheduler.CosineAnnealingLR(optimizer_of(), T_max=30)
    resumed.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    assert rates(resumed, 10) == rates(scheduler, 10)


def test_a_schedule_that_follows_the_optimizer_waits_for_skipped_steps():
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = onepass.optim.AdamW([param], lr=0.1, skip_nonfinite=True)
    scheduler = lr_scheduler.ScheduleLR(optimizer, "linear(10, 1.0, 0.0)", follow="optimizer")
    for value in (1.0, float("nan"), 1.0):
        param.grad = torch.full((3,), value)
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.08)


def test_plateau_lowers_the_rate():
    optimizer = optimizer_of()
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    for _ in range(4):
        optimizer.step()
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
