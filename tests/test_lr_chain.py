"""Schedulers that share an optimizer: each applies to the rate that the one before left, as torch documents."""

from __future__ import annotations

import copy
import io
import itertools

import pytest
import torch

from chain_setup import (
    MAKERS,
    METRICS,
    STEPS,
    assert_same,
    begin,
    made,
    optimizer_of,
    read,
    run,
    step_all,
    theirs,
)
from onepass.optim import lr_scheduler as ours
from onepass.optim import schedules as s
from tolerance import FLOAT32_RATES, SCHEDULE_RTOL

PAIRS = list(itertools.product(MAKERS, repeat=2))
MIXES = {2: list(itertools.product([ours, theirs], repeat=2))[:-1]}
MIXES[3] = list(itertools.product([ours, theirs], repeat=3))[:-1]


def name_of(packages):
    return ["ours" if package is ours else "torch" for package in packages]


@pytest.mark.parametrize("first", MAKERS)
@pytest.mark.parametrize("lrs", [(0.1,), (0.1, 0.5)], ids=["one group", "two groups"])
def test_all_pairs(first, lrs):
    """Both orders of construction and of stepping; ours next to ours, and next to torch's."""
    for second, order in itertools.product(MAKERS, [(0, 1), (1, 0)]):
        names = (first, second)
        wanted = run(names, [theirs, theirs], order, lrs)
        for packages in MIXES[2]:
            context = names, order, name_of(packages)
            assert_same(run(names, packages, order, lrs), wanted, context, begin(names))


@pytest.mark.parametrize("first", MAKERS)
def test_all_triples(first):
    """Every order of construction; the orders of stepping and the mixes with torch's take turns."""
    orders = list(itertools.permutations(range(3)))
    for turn, (second, third) in enumerate(PAIRS):
        names = first, second, third
        order, packages = orders[turn % 6], MIXES[3][turn % 7]
        wanted = run(names, [theirs] * 3, order)
        context = names, order, name_of(packages)
        assert_same(run(names, packages, order), wanted, context, begin(names))


def test_the_example():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedulers = [ours.StepLR(optimizer, 3, gamma=0.1), ours.MultiStepLR(optimizer, [2, 5], gamma=0.5)]
    optimizer.step()
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        for scheduler in schedulers:
            scheduler.step()
    assert rates == pytest.approx([1, 1, 0.5, 0.05, 0.05, 0.025, 0.0025, 0.0025], rel=SCHEDULE_RTOL)


CHAINING = [
    *("StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "PolynomialLR", "CosineAnnealingLR"),
    *("CosineAnnealingLR-0", "SequentialLR", "ChainedScheduler"),
]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
def test_a_rate_changed_by_hand(name, tensor):
    """Ours keep it if torch's do, and lose it if torch's do, also in groups that hold tensors."""

    def rates_of(package):
        lrs = [torch.tensor(lr, dtype=torch.float64) if tensor else lr for lr in (0.1, 0.5)]
        optimizer = optimizer_of(lrs)
        schedulers = made([name], [package], optimizer)
        values = []
        for step in range(STEPS):
            if step in (1, 7, 8):
                group = optimizer.param_groups[step % 2]
                if tensor:
                    group["lr"] *= 0.1
                else:
                    group["lr"] = group["lr"] * 0.1
            step_all(schedulers, [0], step)
            values.append(read(optimizer))
        return values

    assert_same(rates_of(ours), rates_of(theirs))


@pytest.mark.parametrize("make", [lambda o: ours.ScheduleLR(o, s.step(3, 0.5)), lambda o: ours.StepLR(o, 3, 0.5)])
def test_other_fields_chain_too(make):
    """Two schedulers and a hand change one field; another scheduler decays the rate."""
    optimizer = optimizer_of([1.0])
    optimizer.param_groups[0]["weight_decay"] = 1.0
    fields = [
        {"weight_decay": s.exponential(0.5)},
        {"weight_decay": s.step(2, 0.1), "momentum": s.exponential(0.9)},
    ]
    schedulers = [make(optimizer), *(ours.ScheduleLR(optimizer, s.constant(), fields=field) for field in fields)]
    optimizer.step()
    for _ in range(3):
        for scheduler in schedulers:
            scheduler.step()
    optimizer.param_groups[0]["weight_decay"] *= 7
    for scheduler in schedulers:
        scheduler.step()
    group = optimizer.param_groups[0]
    assert group["lr"] == 0.5
    assert group["weight_decay"] == pytest.approx(7 * 0.5**4 * 0.1**2, rel=SCHEDULE_RTOL)
    assert group["momentum"] == pytest.approx(0.9 * 0.9**4, rel=SCHEDULE_RTOL)


@pytest.mark.parametrize("mix", range(3))
@pytest.mark.parametrize("order", ["optimizer first", "optimizer last", "optimizer between", "no optimizer"])
@pytest.mark.parametrize("first", MAKERS)
def test_pairs_resume(first, order, mix):
    """Resuming in the middle, through torch.save; ours resume without the optimizer's state, too."""
    packages = MIXES[2][mix]
    if order == "no optimizer" and packages != (ours, ours):
        return  # torch's classes need the optimizer's state
    for second, at in itertools.product(MAKERS, (1, 6, 9) if packages == (ours, ours) else (6,)):
        names = (first, second)
        if order == "no optimizer" and "MultiplicativeLR" in names:
            continue  # which is torch's
        optimizer = optimizer_of()
        schedulers = made(names, packages, optimizer)
        for step in range(at):
            step_all(schedulers, (0, 1), step)
        file = io.BytesIO()
        torch.save([optimizer.state_dict(), *(scheduler.state_dict() for scheduler in schedulers)], file)
        file.seek(0)
        states = torch.load(file, weights_only=False)
        other = optimizer_of()
        resumed = made(names, packages, other)
        parts = list(zip([*resumed, other], [*states[1:], states[0]], strict=True))
        turns = {"optimizer first": [2, 0, 1], "optimizer last": [0, 1, 2], "optimizer between": [1, 2, 0]}
        for i in turns.get(order, [1, 0]):
            parts[i][0].load_state_dict(parts[i][1])
        context = names, at, name_of(packages)
        values, wanted = [], []
        for step in range(at, STEPS):
            for pair, place, list_of in ((resumed, other, values), (schedulers, optimizer, wanted)):
                list_of.append(read(place)[:: 1 if order != "no optimizer" else 2])
                step_all(pair, (0, 1), step)
        assert_same(values, wanted, context)


@pytest.mark.parametrize("direction", ["to torch", "from torch"])
@pytest.mark.parametrize("order", ["optimizer first", "optimizer last"])
@pytest.mark.parametrize("first", MAKERS)
def test_pairs_go_into_torchs_classes_and_back(first, direction, order):
    source, target = (ours, theirs) if direction == "to torch" else (theirs, ours)
    for second, at in itertools.product(MAKERS, (4, 9)):
        names = (first, second)
        optimizer = optimizer_of()
        schedulers = made(names, [source] * 2, optimizer)
        for step in range(at):
            step_all(schedulers, (0, 1), step)
        other = optimizer_of()
        resumed = made(names, [target] * 2, other)
        parts = [
            (other, optimizer.state_dict()),
            *zip(resumed, [one.state_dict() for one in schedulers], strict=True),
        ]
        for part, state in parts if order == "optimizer first" else parts[::-1]:
            part.load_state_dict(copy.deepcopy(state))
        wanted = run(names, [theirs] * 2, (0, 1))
        values = [read(other)]
        for step in range(at, STEPS):
            step_all(resumed, (0, 1), step)
            values.append(read(other))
        assert_same(values, wanted[at:], (names, at))


@pytest.mark.parametrize("kind", ["many", "one rate", "integers", "float32"])
def test_pairs_of_many_groups_and_of_tensors(kind):
    """The core writes many groups; a float32 tensor rounds its value, which does not count as a change."""
    lrs = {
        "many": [0.1 + 0.01 * i for i in range(30)],
        "one rate": [0.1] * 30,
        "integers": [1, 2],
        "float32": [torch.tensor(0.3), torch.tensor(0.7)],
    }[kind]
    for names in [
        ("CosineAnnealingLR", "StepLR"),
        ("ExponentialLR", "ReduceLROnPlateau"),
        ("LinearLR", "OneCycleLR"),
    ]:
        values = []
        for package in (ours, theirs):
            own = [lr.clone() if kind == "float32" else lr for lr in lrs]
            values.append(run(names, [package, package], (0, 1), own))
        if kind == "float32":
            torch.testing.assert_close(torch.tensor(values[0]), torch.tensor(values[1]), **FLOAT32_RATES)
        else:
            assert_same(*values, names)


@pytest.mark.parametrize("name", ["ExponentialLR", "CosineAnnealingLR"])
def test_a_scheduler_alone_does_not_drift_in_a_tensor(name):
    optimizer = optimizer_of([torch.tensor(0.3), torch.tensor(0.7)])
    (scheduler,) = made([name], [ours], optimizer)
    for step in range(STEPS):
        step_all([scheduler], [0], step)
        assert read(optimizer)[::2] == [float(torch.tensor(lr)) for lr in scheduler.lr_at(step + 1)]


def test_copies_of_a_pair_go_on():
    names = ("StepLR", "ExponentialLR")
    wanted = run(names, [ours, ours], (0, 1))
    optimizer = optimizer_of()
    schedulers = made(names, [ours, ours], optimizer)
    for step in range(5):
        step_all(schedulers, (0, 1), step)
    copied = copy.deepcopy(schedulers)
    for step in range(5, STEPS):
        step_all(copied, (0, 1), step)
    assert read(copied[0].optimizer) == wanted[-1]
    assert read(optimizer) == wanted[5]


@pytest.mark.parametrize("name", ["StepLR", "CosineAnnealingLR", "SequentialLR", "ChainedScheduler", "LambdaLR"])
@pytest.mark.parametrize("every", [1, 3, 7])
def test_several_updates_at_once(name, every):
    """With follow="optimizer" it does not matter how often step is called."""

    def rates_of(often):
        optimizer = optimizer_of()
        makers = {
            "SequentialLR": lambda o: ours.SequentialLR(
                o, [ours.LinearLR(o, 0.1, 1.0, 5), ours.CosineAnnealingLR(o, 4, 0.01)], [5], follow="optimizer"
            ),
            "ChainedScheduler": lambda o: ours.ChainedScheduler(
                [ours.LinearLR(o, 0.1, 1.0, 5), ours.StepLR(o, 4, 0.5)], follow="optimizer"
            ),
            "CosineAnnealingLR": lambda o: ours.CosineAnnealingLR(o, 5, 0.01, follow="optimizer"),
            "LambdaLR": lambda o: ours.LambdaLR(o, lambda t: 0.5**t, follow="optimizer"),
            "StepLR": lambda o: ours.StepLR(o, 3, 0.5, follow="optimizer"),
        }
        scheduler = makers[name](optimizer)
        values = []
        for update in range(22):
            if update % 7 == 0:
                scheduler.step()
                values.append(read(optimizer))
                optimizer.param_groups[0]["lr"] *= 0.9
            optimizer.step()
            if update % often == 0:
                scheduler.step()
        return values

    assert_same(rates_of(every), rates_of(1))


def test_a_dropped_step_moves_nothing_of_a_pair():
    optimizer = optimizer_of([1.0])
    scheduler = ours.LambdaLR(optimizer, lambda t: 1.0, follow="optimizer")
    optimizer.param_groups[0]["lr"] = 0.3
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.3


@pytest.mark.parametrize("turned", [False, True])
def test_a_warm_up_from_zero_beside_another(turned):
    """torch refuses a factor of 0, because no factor leads away from it; here the others' factors come back."""
    optimizer = optimizer_of([1.0])
    makers = [lambda: ours.ScheduleLR(optimizer, s.warmup(4)), lambda: ours.ConstantLR(optimizer, 0.5, 3)]
    schedulers = [make() for make in (makers[::-1] if turned else makers)]
    optimizer.step()
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        for scheduler in schedulers:
            scheduler.step()
    assert rates == pytest.approx([0, 0.125, 0.25, 0.75, 1.0, 1.0, 1.0], rel=SCHEDULE_RTOL)


def test_a_plateau_with_a_warm_up_beside_a_decay():
    optimizer = optimizer_of([1.0])
    plateau = ours.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, warmup=4)
    decay = ours.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    rates = []
    for step in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        plateau.step()
        decay.step()
        if step == 4:
            plateau.step(1.0)
            plateau.step(1.0)
    assert rates == pytest.approx([0, 0.125, 0.125, 0.09375, 0.0625, 0.015625], rel=SCHEDULE_RTOL)


@pytest.mark.parametrize("turned", [False, True])
def test_a_pair_resumed_by_last_epoch(turned):
    names = ["StepLR", "LinearLR"][:: -1 if turned else 1]
    wanted = run(names, [ours, ours], (0, 1), steps=9)[9]
    first = optimizer_of()
    made(names, [ours, ours], first)
    other = optimizer_of()
    other.load_state_dict(first.state_dict())
    arguments = {"StepLR": (3, 0.5), "LinearLR": (0.25, 0.8, 6)}
    kept = [getattr(ours, name)(other, *arguments[name], last_epoch=8) for name in names]
    assert_same([read(other)], [wanted])
    # Make the same ones again, as in a notebook, where the old ones are still alive.
    kept += [getattr(ours, name)(other, *arguments[name], last_epoch=8) for name in names]
    assert_same([read(other)], [wanted])
    wanted = run(names, [ours, ours], (0, 1), steps=15)
    other.step()
    for step in range(9, 15):
        step_all(kept[2:], (0, 1), step)
    assert_same([read(other)], wanted[-1:])


def test_a_group_that_comes_later_beside_another():
    optimizer = optimizer_of([1.0])
    schedulers = [ours.LinearLR(optimizer, 0.5, 1.0, 4), ours.StepLR(optimizer, 2, 0.1)]
    optimizer.step()
    for scheduler in schedulers:
        scheduler.step()
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 8.0})
    for _ in range(2):
        for scheduler in schedulers:
            scheduler.step()
    assert read(optimizer)[::2] == pytest.approx([0.0875, 0.7], rel=SCHEDULE_RTOL)


def test_step_to_an_epoch_overwrites():
    """torch's step(epoch) does, which takes the closed form."""
    optimizer = optimizer_of([1.0])
    scheduler = ours.StepLR(optimizer, 3, 0.5)
    optimizer.step()
    scheduler.step()
    optimizer.param_groups[0]["lr"] = 0.3
    scheduler.step(6)
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_one_cycle_beyond_its_end_warns_once():
    """torch's class raises there."""
    optimizer = optimizer_of([1.0])
    scheduler = ours.OneCycleLR(optimizer, 1.0, 5)
    optimizer.step()
    for _ in range(5):
        scheduler.step()
    last = optimizer.param_groups[0]["lr"]
    with pytest.warns(UserWarning, match=r"at most total_steps=5 times, got 6; the rate stays"):
        scheduler.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == last


def test_the_state_of_a_scheduler_alone_needs_no_values():
    """The step is the state; only changes by others are kept with it."""
    for name, maker in MAKERS.items():
        optimizer = optimizer_of()
        scheduler = maker(ours, optimizer)
        optimizer.step()
        step_all([scheduler], [0], 0)
        state = scheduler.state_dict()
        if name in CHAINING or name in ("LambdaLR", "OneCycleLR", "CyclicLR"):
            assert state["_written"] == {"last_epoch": 1, "fields": {}}, name
        optimizer.param_groups[0]["lr"] = 77.0
        if name in CHAINING[:8]:
            assert scheduler.state_dict()["_written"]["fields"]["lr"]["values"][0] == 77.0
    assert METRICS[0] == 1.0
