"""Our sequences and chains with torch's schedulers inside, and ours inside torch's."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from chain_setup import STEPS, assert_same, optimizer_of, read, shrink, theirs
from onepass.optim import lr_scheduler as ours
from tolerance import RECURSIVE_ATOL, RECURSIVE_RTOL

PARTS = {
    "LinearLR": lambda p, o: p.LinearLR(o, 0.25, 0.8, 4),
    "StepLR": lambda p, o: p.StepLR(o, 3, 0.5),
    "CosineAnnealingLR": lambda p, o: p.CosineAnnealingLR(o, 25, 1e-3),
    "MultiplicativeLR": lambda p, o: p.MultiplicativeLR(o, shrink),
    "LambdaLR": lambda p, o: p.LambdaLR(o, lambda t: 1 / (1 + t)),
    "CosineAnnealingWarmRestarts": lambda p, o: p.CosineAnnealingWarmRestarts(o, 4, 2),
    "SequentialLR": lambda p, o: p.SequentialLR(o, [p.LinearLR(o, 0.1, 1.0, 3), p.StepLR(o, 2, 0.5)], [3]),
    "ChainedScheduler": lambda p, o: p.ChainedScheduler([p.LinearLR(o, 0.1, 1.0, 5), p.ExponentialLR(o, 0.9)]),
}
WHOLES = {
    "SequentialLR": lambda p, o, parts: p.SequentialLR(o, parts, [6]),
    "ChainedScheduler": lambda p, o, parts: p.ChainedScheduler(parts),
}
# The package of the whole, then those of its parts: at least one of them is torch's.
MIXES = [mix for mix in itertools.product("ot", repeat=3) if "t" in mix and mix != ("t", "t", "t")]
each = pytest.mark.parametrize("mix", MIXES, ids="".join)
both = pytest.mark.parametrize("whole", WHOLES)
# torch's own sequence or chain as a part does not begin at its step 0.
SIMPLE = [name for name in PARTS if name not in ("SequentialLR", "ChainedScheduler")]


def made(whole, names, mix, optimizer):
    packages = [ours if one == "o" else theirs for one in mix]
    parts = [PARTS[name](package, optimizer) for name, package in zip(names, packages[1:], strict=True)]
    scheduler = WHOLES[whole](packages[0], optimizer, parts)
    optimizer.step()
    return scheduler


def run(whole, names, mix, steps=STEPS):
    optimizer = optimizer_of()
    scheduler = made(whole, names, mix, optimizer)
    values = [read(optimizer)]
    for _ in range(steps):
        scheduler.step()
        values.append(read(optimizer))
    return values


@each
@both
def test_torchs_schedulers_inside(whole, mix):
    """They do what they do inside torch's."""
    for names in itertools.product(SIMPLE, repeat=2):
        assert_same(run(whole, names, mix), run(whole, names, "ttt"), (names, mix))


@both
def test_a_part_without_a_closed_form(whole):
    optimizer = optimizer_of()
    scheduler = made(whole, ("LinearLR", "MultiplicativeLR"), "ooo", optimizer)
    before = read(optimizer)
    needs = (
        "needs schedulers of onepass.optim.lr_scheduler, which have closed forms, got torch.*MultiplicativeLR at 1"
    )
    for call in (lambda: scheduler.lr_at(3), lambda: scheduler.preview(3), lambda: scheduler.step(7)):
        with pytest.raises(TypeError, match=needs):
            call()
    assert read(optimizer) == before
    assert scheduler.last_epoch == 0
    assert scheduler.get_lr() == scheduler.get_last_lr()
    with pytest.raises(ValueError, match="state_dict must have the states of the schedulers, got none"):
        scheduler.load_state_dict({"last_epoch": 3})


@each
@both
def test_they_resume(whole, mix):
    for names, at in itertools.product([("LinearLR", "MultiplicativeLR"), ("StepLR", "LambdaLR")], (2, 6, 9)):
        optimizer = optimizer_of()
        scheduler = made(whole, names, mix, optimizer)
        for _ in range(at):
            scheduler.step()
        states = copy.deepcopy([scheduler.state_dict(), optimizer.state_dict()])
        for order in (0, 1):
            other = optimizer_of()
            resumed = made(whole, names, mix, other)
            parts = [(resumed, states[0]), (other, states[1])]
            for part, state in parts[:: -1 if order else 1]:
                part.load_state_dict(copy.deepcopy(state))
            values = [read(other)]
            for _ in range(at, STEPS):
                resumed.step()
                values.append(read(other))
            assert_same(values, run(whole, names, "ttt")[at:], (names, at, order))


@both
@pytest.mark.parametrize("every", [1, 4])
def test_they_follow_the_optimizer(whole, every):
    optimizer = optimizer_of()
    parts = [theirs.LinearLR(optimizer, 0.25, 0.8, 4), ours.StepLR(optimizer, 3, 0.5)]
    if whole == "SequentialLR":
        scheduler = ours.SequentialLR(optimizer, parts, [6], follow="optimizer")
    else:
        scheduler = ours.ChainedScheduler(parts, follow="optimizer")
    for update in range(12):
        optimizer.step()
        if (update + 1) % every == 0:
            scheduler.step()
    assert_same([read(optimizer)], run(whole, ("LinearLR", "StepLR"), "ttt", 12)[-1:])


@pytest.mark.parametrize("inner", ["SequentialLR", "ChainedScheduler"])
@pytest.mark.parametrize("package", [ours, theirs], ids=["ours", "torch"])
def test_ours_nested_begin_where_they_should(inner, package):
    """A sequence or chain of ours that is a part begins with its step 0, also in torch's sequence."""
    optimizer = optimizer_of([1.0])
    parts = [PARTS[inner](ours, optimizer), PARTS["StepLR"](ours, optimizer)]
    scheduler = package.SequentialLR(optimizer, parts, [4])
    optimizer.step()
    other = optimizer_of([1.0])
    alone = PARTS[inner](ours, other)
    first = [[lr] for (lr,) in alone.preview(4)]
    values = []
    for _ in range(8):
        values.append([optimizer.param_groups[0]["lr"]])
        scheduler.step()
    assert_same(values, [*first, [1.0], [1.0], [1.0], [0.5]])


def test_the_momentum_of_a_cycle_in_a_chain():
    """Parts may write more than the rate."""
    optimizer = optimizer_of([1.0])
    parts = [ours.OneCycleLR(optimizer, 1.0, 10), ours.ExponentialLR(optimizer, 0.9)]
    scheduler = ours.ChainedScheduler(parts)
    optimizer.step()
    alone = optimizer_of([1.0])
    cycle = ours.OneCycleLR(alone, 1.0, 10)
    alone.step()
    for step in range(1, 9):
        scheduler.step()
        cycle.step()
        lr, momentum = read(alone)
        assert_same([read(optimizer)], [[lr * 0.9**step, momentum]])


def test_a_tensor_rate_and_one_group():
    lr = torch.tensor(1.0, dtype=torch.float64)
    optimizer = optimizer_of([lr])
    scheduler = ours.SequentialLR(
        optimizer, [theirs.ConstantLR(optimizer, 0.5, 9), ours.StepLR(optimizer, 1)], [2]
    )
    optimizer.step()
    rates = []
    for _ in range(4):
        rates.append(float(lr))
        scheduler.step()
    assert rates == pytest.approx([0.5, 0.5, 1.0, 0.1])
    assert optimizer.param_groups[0]["lr"] is lr


def test_a_chain_and_another_that_arrive_at_zero_together():
    """They leave 0 again: the chain does not take its neighbour's 0 for the value that it scales."""
    alone, both = optimizer_of((1.0,)), optimizer_of((1.0,))
    closed = ours.ChainedScheduler([ours.ExponentialLR(alone, 0.9), ours.CosineAnnealingLR(alone, 4)])
    cosine = ours.CosineAnnealingLR(optimizer_of((1.0,)), 4)
    schedulers = [
        ours.CosineAnnealingLR(both, 4),
        ours.ChainedScheduler([ours.ExponentialLR(both, 0.9), ours.CosineAnnealingLR(both, 4)]),
    ]
    for step in range(1, 12):
        both.step()
        for scheduler in schedulers:
            scheduler.step()
        wanted = closed.lr_at(step)[0] * cosine.lr_at(step)[0]
        assert both.param_groups[0]["lr"] == pytest.approx(wanted, rel=RECURSIVE_RTOL, abs=RECURSIVE_ATOL), step


def test_two_schedules_that_arrive_at_zero_together():
    optimizer = optimizer_of((1.0,))
    schedulers = [ours.ScheduleLR(optimizer, lambda t, power=power: abs(1 - t / 4) ** power) for power in (1, 2)]
    rates = []
    for _ in range(8):
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[3] == 0
    # From there on their factors raise it.
    assert 0 < rates[4] < rates[5] < rates[6] < rates[7]
    assert rates[7] / rates[5] == pytest.approx(2**3, rel=RECURSIVE_RTOL)
