"""Numbers of any class given to schedulers: groups and states hold Python's own, which torch.load takes."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest
import torch

from onepass.optim import SGD, lr_scheduler

KINDS = {
    "float64": (np.float64, np.int64),
    "float32": (np.float32, np.int32),
    "Fraction": (Fraction, int),
}
# Each makes a scheduler from an optimizer, a kind of number and a kind of integer.
MAKERS = {
    "StepLR": lambda o, n, i: lr_scheduler.StepLR(o, i(2), n(0.5)),
    "MultiStepLR": lambda o, n, i: lr_scheduler.MultiStepLR(o, [i(1), i(3)], n(0.5)),
    "ConstantLR": lambda o, n, i: lr_scheduler.ConstantLR(o, n(0.5), i(2)),
    "LinearLR": lambda o, n, i: lr_scheduler.LinearLR(o, n(0.25), n(0.75), i(4)),
    "ExponentialLR": lambda o, n, i: lr_scheduler.ExponentialLR(o, n(0.5)),
    "PolynomialLR": lambda o, n, i: lr_scheduler.PolynomialLR(o, i(6), n(2.0)),
    "CosineAnnealingLR": lambda o, n, i: lr_scheduler.CosineAnnealingLR(o, i(4), n(0.125)),
    "CosineAnnealingWarmRestarts": lambda o, n, i: lr_scheduler.CosineAnnealingWarmRestarts(
        o, i(2), i(2), n(0.125)
    ),
    "LambdaLR": lambda o, n, i: lr_scheduler.LambdaLR(o, lambda t: n(0.5**t)),
    "CyclicLR": lambda o, n, i: lr_scheduler.CyclicLR(
        o, n(0.125), n(1.0), i(2), i(3), "exp_range", n(0.5), base_momentum=n(0.5), max_momentum=n(0.75)
    ),
    "OneCycleLR": lambda o, n, i: lr_scheduler.OneCycleLR(
        o, n(1.0), None, i(2), i(4), n(0.25), div_factor=n(8.0), final_div_factor=n(16.0), base_momentum=n(0.5)
    ),
    "ReduceLROnPlateau": lambda o, n, i: lr_scheduler.ReduceLROnPlateau(
        o, "min", n(0.5), i(0), n(0.125), cooldown=i(0), min_lr=n(0.125), eps=n(0.0), smoothing=i(1)
    ),
    "ScheduleLR": lambda o, n, i: lr_scheduler.ScheduleLR(
        o, lambda t: n(0.5**t), fields={"weight_decay": lambda t: n(0.5**t)}
    ),
    "WarmupCosineLR": lambda o, n, i: lr_scheduler.WarmupCosineLR(o, i(2), i(6), n(0.5), n(0.25)),
    "WarmupStableDecayLR": lambda o, n, i: lr_scheduler.WarmupStableDecayLR(o, i(2), i(1), i(2), n(0.25)),
    "SequentialLR": lambda o, n, i: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, n(0.5), i(9)), lr_scheduler.ExponentialLR(o, n(0.5))], [i(2)]
    ),
    "ChainedScheduler": lambda o, n, i: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, n(0.5), i(2)), lr_scheduler.ExponentialLR(o, n(0.5))]
    ),
}
# Arguments that are set later: the attribute and its value.
LATER = {
    "StepLR": {"gamma": 0.25, "step_size": 1},
    "MultiStepLR": {"gamma": 0.25},
    "ConstantLR": {"factor": 0.25, "total_iters": 3},
    "LinearLR": {"start_factor": 0.5, "end_factor": 0.25, "total_iters": 3},
    "ExponentialLR": {"gamma": 0.25},
    "PolynomialLR": {"power": 1.5, "total_iters": 5},
    "CosineAnnealingLR": {"eta_min": 0.25, "T_max": 5},
    "CosineAnnealingWarmRestarts": {"eta_min": 0.25, "T_0": 3, "T_mult": 1},
    "CyclicLR": {"gamma": 0.25, "total_size": 6, "step_ratio": 0.5},
    "OneCycleLR": {"total_steps": 10, "pct_start": 0.5, "div_factor": 4.0, "final_div_factor": 2.0},
    "ReduceLROnPlateau": {"factor": 0.25, "patience": 0, "threshold": 0.25, "cooldown": 0, "eps": 0.0},
}
PLAIN = (float, int, bool, str, type(None))


def are_plain(value):
    if isinstance(value, dict):
        return all(are_plain(key) and are_plain(one) for key, one in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(are_plain, value))
    return type(value) in PLAIN


def optimizer_of(kind, lr=1.0):
    listed = [{"params": [torch.nn.Parameter(torch.ones(1))]} for _ in range(2)]
    return kind(listed, lr=lr, momentum=0.5, weight_decay=0.5)


def run(optimizer, lrs, steps=5):
    """The groups' values after each step; whatever is kept must be plain, and torch.load must take it."""
    found = []
    for _ in range(steps):
        optimizer.step()
        lrs.step(1.0) if isinstance(lrs, lr_scheduler.ReduceLROnPlateau) else lrs.step()
        groups = optimizer.state_dict()["param_groups"]
        found.append([(group["lr"], group["momentum"], group["weight_decay"]) for group in groups])
        assert are_plain(groups)
        assert are_plain(lrs.state_dict()), lrs.state_dict()
    memory = io.BytesIO()
    torch.save([lrs.state_dict(), optimizer.state_dict()], memory)
    memory.seek(0)
    lrs.load_state_dict(torch.load(memory, weights_only=True)[0])
    return found


def test_the_tables_name_all_classes():
    own = {name for name in lr_scheduler.__all__ if vars(lr_scheduler)[name].__module__.startswith("onepass.")}
    assert set(MAKERS) == own - {"FunctionLR"}
    settings = {name for name in own if getattr(vars(lr_scheduler)[name], "_settings", ())}
    assert set(LATER) == settings - {"LambdaLR", "SequentialLR"} | {"ReduceLROnPlateau"}


@pytest.mark.parametrize("optimizer", [SGD, torch.optim.SGD])
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", list(MAKERS))
def test_numbers_of_any_class(name, kind, optimizer):
    number, integer = KINDS[kind]
    wanted_opt, opt = optimizer_of(optimizer), optimizer_of(optimizer)
    wanted = run(wanted_opt, MAKERS[name](wanted_opt, float, int))
    assert run(opt, MAKERS[name](opt, number, integer)) == wanted
    assert wanted[0] != wanted[-1]


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("name", list(LATER))
def test_numbers_set_later(name, kind):
    number, integer = KINDS[kind]
    found = []
    for one, count in ((float, int), (number, integer)):
        opt = optimizer_of(SGD)
        lrs = MAKERS[name](opt, float, int)
        for attribute, value in LATER[name].items():
            setattr(lrs, attribute, count(value) if isinstance(value, int) else one(value))
        found.append(run(opt, lrs))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", list(MAKERS))
def test_rates_that_are_no_plain_numbers(name):
    """torch's optimizer keeps a rate as it was given; another one is written by hand."""
    opt = optimizer_of(torch.optim.SGD, lr=np.float64(1.0))
    lrs = MAKERS[name](opt, float, int)
    assert all(type(group.get("initial_lr", 1.0)) is float for group in opt.param_groups)
    for group in opt.param_groups:
        group["lr"] = np.float64(0.5)
    assert are_plain(lrs.state_dict())


def test_arrays():
    opt = optimizer_of(SGD)
    lrs = lr_scheduler.CyclicLR(opt, np.array([0.25, 0.5]), np.array(1.0), 2)
    assert [group["lr"] for group in opt.param_groups] == [0.25, 0.5]
    run(opt, lrs)


def test_steps_of_any_class():
    opt = optimizer_of(SGD)
    lrs = lr_scheduler.StepLR(opt, 2, 0.5)
    lrs.step(np.int64(3))
    assert type(lrs.last_epoch) is int
    resumed = lr_scheduler.StepLR(opt, 2, 0.5, last_epoch=np.int64(3))
    assert type(resumed.last_epoch) is int
    assert resumed.last_epoch == 4
    plateau = lr_scheduler.ReduceLROnPlateau(opt)
    plateau.step(np.float32(1.0), np.int64(3))
    assert are_plain(plateau.state_dict())
