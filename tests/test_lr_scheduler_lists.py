"""Arguments of schedulers with an entry for each group: any sequence is taken, and the state holds plain lists."""

from __future__ import annotations

from collections import UserList

import pytest
import torch

from onepass.optim import SGD, lr_scheduler, schedules

# Each makes a scheduler with a list as the argument that its name says.
MAKERS = {
    "OneCycleLR max_lr": lambda opt, kind: lr_scheduler.OneCycleLR(opt, kind([0.1, 0.2]), total_steps=6),
    "CyclicLR base_lr": lambda opt, kind: lr_scheduler.CyclicLR(opt, kind([0.01, 0.02]), 0.3, step_size_up=2),
    "CyclicLR max_lr": lambda opt, kind: lr_scheduler.CyclicLR(opt, 0.01, kind([0.3, 0.4]), step_size_up=2),
    "CyclicLR momenta": lambda opt, kind: lr_scheduler.CyclicLR(
        opt, 0.01, 0.3, step_size_up=2, base_momentum=kind([0.1, 0.2]), max_momentum=kind([0.8, 0.9])
    ),
    "MultiStepLR milestones": lambda opt, kind: lr_scheduler.MultiStepLR(opt, kind([1, 3])),
    "SequentialLR both": lambda opt, kind: lr_scheduler.SequentialLR(
        opt, kind([lr_scheduler.ConstantLR(opt), lr_scheduler.ExponentialLR(opt, 0.5)]), kind([2])
    ),
    "ChainedScheduler schedulers": lambda opt, kind: lr_scheduler.ChainedScheduler(
        kind([lr_scheduler.ConstantLR(opt), lr_scheduler.ExponentialLR(opt, 0.5)])
    ),
    "LambdaLR lr_lambda": lambda opt, kind: lr_scheduler.LambdaLR(
        opt, kind([lambda t: 1 / (1 + t), lambda t: 0.5**t])
    ),
    "ScheduleLR schedule": lambda opt, kind: lr_scheduler.ScheduleLR(
        opt, kind([schedules.cosine(4), schedules.linear(4, 1, 0)])
    ),
    "ScheduleLR fields": lambda opt, kind: lr_scheduler.ScheduleLR(
        opt, schedules.cosine(4), fields={"weight_decay": kind([schedules.cosine(4), None])}
    ),
}


def values(make, kind):
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    opt = SGD([{"params": [p]} for p in params], lr=0.1, momentum=0.9, weight_decay=0.1)
    lrs = make(opt, kind)
    found = []
    for _ in range(5):
        found.append([(group["lr"], group["momentum"], group["weight_decay"]) for group in opt.param_groups])
        opt.step()
        lrs.step()
    return found, lrs.state_dict()


def holds(value):
    """Whether a value still contains the kind of sequence that was given."""
    if isinstance(value, dict):
        return any(map(holds, value.values()))
    return isinstance(value, UserList) or (isinstance(value, (list, tuple)) and any(map(holds, value)))


@pytest.mark.parametrize("name", list(MAKERS))
def test_any_sequence(name):
    expected, _ = values(MAKERS[name], list)
    for kind in (tuple, UserList):
        found, state = values(MAKERS[name], kind)
        assert found == expected
        assert not holds(state)
    assert expected[0] != expected[1] or expected[1] != expected[2]


@pytest.mark.parametrize("kind", [list, tuple, UserList])
def test_least_rates_of_a_plateau(kind):
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    opt = SGD([{"params": [p]} for p in params], lr=0.1)
    lrs = lr_scheduler.ReduceLROnPlateau(opt, patience=0, min_lr=kind([0.05, 0.02]))
    for _ in range(3):
        opt.step()
        lrs.step(1.0)
    assert [group["lr"] for group in opt.param_groups] == [0.05, 0.02]
    assert not holds(lrs.state_dict())


def test_text_is_no_sequence():
    opt = SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(TypeError, match=r"OneCycleLR: max_lr must be a number, got '1'"):
        lr_scheduler.OneCycleLR(opt, "1", total_steps=6)
    assert lr_scheduler.ScheduleLR(opt, "cosine(4)").lr_at(4) == [0.0]
