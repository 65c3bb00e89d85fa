"""Schedulers in use: resuming, skipped updates, tensors, groups."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

import onepass.optim
from onepass import _native
from onepass.optim import lr_scheduler as ls
from onepass.optim import schedules as s
from tolerance import SCHEDULE_RTOL

STEPS = 40
# One cycle of 30 steps is run beyond its end, which warns (test_lr_chain.py).
pytestmark = pytest.mark.filterwarnings("ignore:OneCycleLR. step")


def optimizer_of(lrs=(0.1, 0.5), package=torch.optim, kind="SGD", **options):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": lr} for lr in lrs]
    extra = {"momentum": 0.9} if kind == "SGD" else {}
    return getattr(package, kind)(groups, weight_decay=0.01, **extra, **options)


def warmed(opt):
    return ls.SequentialLR(opt, [ls.LinearLR(opt, 0.1, 1.0, 5), ls.CosineAnnealingLR(opt, 20, 1e-3)], [5])


def nested(opt):
    decays = [ls.StepLR(opt, 7, 0.5), ls.ExponentialLR(opt, 0.95)]
    return ls.SequentialLR(opt, [ls.LinearLR(opt, 0.1, 1.0, 4), ls.ChainedScheduler(decays)], [4])


def half(step):
    return 0.5 ** (step // 3)


MAKERS = {
    "StepLR": lambda o: ls.StepLR(o, 7, 0.5),
    "MultiStepLR": lambda o: ls.MultiStepLR(o, [3, 9, 9], 0.5),
    "ConstantLR": lambda o: ls.ConstantLR(o, 0.0, 8),
    "LinearLR": lambda o: ls.LinearLR(o, 0.0, 0.9, 11),
    "ExponentialLR": lambda o: ls.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: ls.PolynomialLR(o, 30, 2.0),
    "CosineAnnealingLR": lambda o: ls.CosineAnnealingLR(o, 13, 1e-3),
    "LambdaLR": lambda o: ls.LambdaLR(o, half),
    "LambdaLR-each": lambda o: ls.LambdaLR(o, [half, s.linear(9)]),
    "CosineAnnealingWarmRestarts": lambda o: ls.CosineAnnealingWarmRestarts(o, 4, 2, 1e-3),
    "OneCycleLR": lambda o: ls.OneCycleLR(o, [0.5, 0.7], 30),
    "CyclicLR": lambda o: ls.CyclicLR(o, 0.01, [0.5, 0.7], 4, 6, "triangular2"),
    "SequentialLR": warmed,
    "SequentialLR-nested": nested,
    "ChainedScheduler": lambda o: ls.ChainedScheduler(
        [ls.CosineAnnealingWarmRestarts(o, 6, 2, 1e-3), ls.MultiStepLR(o, [3, 9], 0.5)]
    ),
    "ScheduleLR": lambda o: ls.ScheduleLR(
        o, "warmup(5) >> cosine(20, floor=0.1)", fields={"weight_decay": s.linear(20), "momentum": [None, half]}
    ),
    "WarmupCosineLR": lambda o: ls.WarmupCosineLR(o, 5, 25, 0.1),
    "WarmupStableDecayLR": lambda o: ls.WarmupStableDecayLR(o, 5, 10, 12, shape="sqrt"),
}
each = pytest.mark.parametrize("name", MAKERS)


def read(optimizer):
    fields = ("lr", "weight_decay", "momentum")
    return [float(group[field]) for group in optimizer.param_groups for field in fields]


def run(scheduler, optimizer, steps):
    values = []
    optimizer.step()
    for _ in range(steps):
        values.append(read(optimizer))
        scheduler.step()
    return values


def straight(name, steps=STEPS):
    optimizer = optimizer_of()
    return run(MAKERS[name](optimizer), optimizer, steps)


@each
@pytest.mark.parametrize("order", ["scheduler first", "optimizer first", "through torch.save"])
def test_a_resumed_run_has_the_same_bits(name, order):
    """state_dict resumes at any step; in timm 871 and pytorch 162591 the step is lost."""
    whole = straight(name)
    for at in (0, 1, 4, 5, 6, 13, 27):
        optimizer = optimizer_of()
        scheduler = MAKERS[name](optimizer)
        run(scheduler, optimizer, at)
        states = scheduler.state_dict(), optimizer.state_dict()
        if order == "through torch.save":
            file = io.BytesIO()
            torch.save(states, file)
            file.seek(0)
            states = torch.load(file, weights_only=False)
        other = optimizer_of()
        resumed = MAKERS[name](other)
        parts = [(resumed, states[0]), (other, states[1])]
        for part, state in parts if order == "scheduler first" else parts[::-1]:
            part.load_state_dict(copy.deepcopy(state))
        assert run(resumed, other, STEPS - at) == whole[at:], at


@each
def test_one_integer_is_enough(name):
    whole = straight(name)
    for at in (0, 3, 5, 17):
        optimizer = optimizer_of()
        scheduler = MAKERS[name](optimizer)
        scheduler.load_state_dict({"last_epoch": at})
        assert run(scheduler, optimizer, STEPS - at) == whole[at:]
        assert scheduler.last_epoch == STEPS


@each
def test_copies_go_on(name):
    whole = straight(name)
    optimizer = optimizer_of()
    scheduler = MAKERS[name](optimizer)
    run(scheduler, optimizer, 7)
    for other in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert run(other, other.optimizer, STEPS - 7) == whole[7:]


@each
def test_jumps_previews_and_last_lr(name):
    whole = straight(name)
    optimizer = optimizer_of()
    scheduler = MAKERS[name](optimizer)
    before = read(optimizer)
    assert scheduler.preview(STEPS) == [values[::3] for values in whole]
    assert read(optimizer) == before
    for step in (9, 2, 30):
        scheduler.step(step)
        assert read(optimizer)[::3] == scheduler.get_last_lr() == scheduler.get_lr() == whole[step][::3]
        assert scheduler.last_epoch == step


ARGUMENTS = {
    "StepLR": (7, 0.5),
    "MultiStepLR": ([3, 9, 9], 0.5),
    "ConstantLR": (0.0, 8),
    "LinearLR": (0.0, 0.9, 11),
    "ExponentialLR": (0.9,),
    "PolynomialLR": (30, 2.0),
    "CosineAnnealingLR": (13, 1e-3),
    "LambdaLR": (half,),
    "LambdaLR-each": ([half, s.linear(9)],),
    "CosineAnnealingWarmRestarts": (4, 2, 1e-3),
    "OneCycleLR": ([0.5, 0.7], 30),
    "WarmupCosineLR": (5, 25, 0.1),
    "WarmupStableDecayLR": (5, 10, 12, 0.0, "sqrt"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_last_epoch_of_the_constructor(name):
    """With last_epoch=N the next step is N + 1, whatever the groups hold."""
    first = optimizer_of()
    made = type(MAKERS[name](first))
    other = optimizer_of()
    other.load_state_dict(first.state_dict())
    scheduler = made(other, *ARGUMENTS[name], last_epoch=8)
    assert scheduler.last_epoch == 9
    assert scheduler.get_last_lr() == straight(name)[9][::3]


def test_sequential_resumes_from_last_epoch():
    """pytorch 162591: torch's sequence begins again."""
    first = optimizer_of()
    warmed(first)
    other = optimizer_of()
    other.load_state_dict(first.state_dict())
    parts = [ls.LinearLR(other, 0.1, 1.0, 5), ls.CosineAnnealingLR(other, 20, 1e-3)]
    scheduler = ls.SequentialLR(other, parts, [5], last_epoch=8)
    assert scheduler.get_last_lr() == straight("SequentialLR")[9][::3]


def test_a_milestone_of_zero_skips_its_scheduler():
    """pytorch 185872: versions of torch differ here."""
    optimizer = optimizer_of([1.0])
    parts = [ls.ConstantLR(optimizer, 0.1, 100), ls.ExponentialLR(optimizer, 0.5)]
    scheduler = ls.SequentialLR(optimizer, parts, [0])
    assert [values[0] for values in run(scheduler, optimizer, 3)] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("turned", [False, True])
def test_a_chain_with_restarts_keeps_the_other(turned):
    """pytorch 129565: torch's cosine with restarts overwrites what the other does."""
    optimizer = optimizer_of([1.0])
    parts = [ls.CosineAnnealingWarmRestarts(optimizer, 50), ls.MultiStepLR(optimizer, [1, 2, 3], 0.1)]
    scheduler = ls.ChainedScheduler(parts[::-1] if turned else parts)
    cosine = s.warm_restarts(50)
    wanted = [cosine(step) * 0.1 ** min(step, 3) for step in range(8)]
    assert [values[0] for values in run(scheduler, optimizer, 8)] == pytest.approx(wanted, rel=SCHEDULE_RTOL)


def drop(optimizer, scaler, bad):
    """Takes a step in mixed precision; a bad one has an infinite gradient."""
    optimizer.zero_grad()
    loss = sum(param.sum() for group in optimizer.param_groups for param in group["params"])
    scaler.scale(loss).backward()
    if bad:
        optimizer.param_groups[0]["params"][0].grad[0] = float("inf")
    scaler.step(optimizer)
    scaler.update()


OPTIMIZERS = {
    "torch": lambda: optimizer_of([1.0], foreach=False),
    "torch-fused": lambda: optimizer_of([1.0], kind="AdamW", fused=True),
    "onepass": lambda: optimizer_of([1.0], onepass.optim),
    "onepass-adamw": lambda: optimizer_of([1.0], onepass.optim, "AdamW"),
    "onepass-fused": lambda: optimizer_of([1.0], onepass.optim, "AdamW", fused=True),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("resumed", [False, True])
def test_follow_counts_the_updates_that_grad_scaler_took(kind, resumed):
    """pytorch 55585 and 44511: no warning, and a dropped step moves nothing."""
    optimizer = OPTIMIZERS[kind]()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scheduler = ls.ExponentialLR(optimizer, 0.5, follow="optimizer")
    taken = 0
    for step, bad in enumerate([True, False, True, True, False, False]):
        drop(optimizer, scaler, bad)
        scheduler.step()
        taken += not bad
        assert scheduler.last_epoch == taken
        assert optimizer.param_groups[0]["lr"] == 0.5**taken
        if resumed and step == 2:
            state = scheduler.state_dict()
            scheduler = ls.ExponentialLR(optimizer, 0.5, follow="optimizer")
            scheduler.load_state_dict(state)


def test_follow_counts_what_skip_nonfinite_took():
    optimizer = optimizer_of([1.0], onepass.optim, skip_nonfinite=True)
    scheduler = ls.StepLR(optimizer, 1, 0.5, follow="optimizer")
    param = optimizer.param_groups[0]["params"][0]
    for bad, lr in ((True, 1.0), (False, 0.5), (True, 0.5), (False, 0.25)):
        param.grad = torch.full((2,), float("nan") if bad else 1.0)
        optimizer.step()
        scheduler.step()
        scheduler.step()  # a call without an update moves nothing
        assert optimizer.param_groups[0]["lr"] == lr
    copied = copy.deepcopy(scheduler)
    copied.optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    copied.optimizer.step()
    copied.step()
    assert (copied.last_epoch, scheduler.last_epoch) == (3, 2)


def test_the_wrong_order_is_told_once():
    optimizer = optimizer_of()
    scheduler = ls.StepLR(optimizer, 3)
    with pytest.warns(UserWarning, match=r"StepLR.step\(\) was called before the optimizer's step\(\)"):
        scheduler.step()
    scheduler.step()
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("groups", [1, 20])
def test_tensors_are_filled_in_place(groups):
    lrs = [torch.tensor(0.5, dtype=torch.float64) for _ in range(groups)]
    optimizer = optimizer_of(lrs, capturable=False, kind="AdamW", foreach=False)
    for maker in (lambda o: ls.ExponentialLR(o, 0.5), lambda o: ls.CosineAnnealingLR(o, 4, 0.1)):
        for lr in lrs:
            lr.fill_(0.5)
        scheduler = maker(optimizer)
        optimizer.step()
        scheduler.step()
        assert all(group["lr"] is lr for group, lr in zip(optimizer.param_groups, lrs, strict=True))
        assert float(lrs[-1]) == scheduler.lr_at(1)[-1]
        last = scheduler.get_last_lr()
        last[0].zero_()
        assert lrs[0] != 0


def test_any_field():
    betas = [(torch.tensor(0.9), torch.tensor(0.99)), (0.8, 0.99)]
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], 0.1, weight_decay=0.5)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "betas": (0.8, 0.99)})
    optimizer.param_groups[0]["betas"] = betas[0]
    fields = {"betas[0]": s.linear(2, 1.0, 0.5), "weight_decay": [s.constant(), s.linear(2)]}
    scheduler = ls.ScheduleLR(optimizer, s.constant(), fields=fields)
    scheduler.load_state_dict({"last_epoch": 2})
    first, second = optimizer.param_groups
    assert first["betas"][0] is betas[0][0]
    assert (float(first["betas"][0]), second["betas"]) == (pytest.approx(0.45), (0.4, 0.99))
    assert (first["weight_decay"], second["weight_decay"]) == (0.5, 0.0)
    assert scheduler.value_at("weight_decay", 1) == [0.5, 0.25]
    with pytest.raises(ValueError, match=r"field must be one of lr, betas\[0\], weight_decay, got 'eps'"):
        scheduler.value_at("eps", 0)


def test_groups_that_come_later():
    optimizer = optimizer_of([1.0])
    scheduler = ls.ScheduleLR(optimizer, s.linear(4), fields={"weight_decay": s.linear(4)})
    optimizer.step()
    scheduler.step()
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 8.0})
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 4.0]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.005, 0.005]
    del optimizer.param_groups[1]
    with pytest.raises(ValueError, match="the optimizer must have at least 2 param_groups, got 1"):
        scheduler.step()


def test_settings_may_be_changed():
    optimizer = optimizer_of([1.0])
    scheduler = ls.LinearLR(optimizer, 0.0, 1.0, 10)
    scheduler.total_iters = 2
    scheduler.step(1)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_our_parts_work_in_torchs_sequence():
    optimizer = optimizer_of([1.0])
    parts = [ls.LinearLR(optimizer, 0.1, 1.0, 5), ls.CosineAnnealingLR(optimizer, 20, 1e-3)]
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, [5])
    other = optimizer_of([1.0])
    assert run(scheduler, optimizer, 20) == run(warmed(other), other, 20)


@pytest.mark.parametrize("starts", [None, [0.3, -0.1, 1e-9]])
def test_rates_of_many_groups_are_rounded_as_one_is(starts):
    """The core's loop, which writes groups of different rates, rounds as Python does."""
    groups, ends = [{"lr": 0.0} for _ in range(3)], [0.7, 1 / 3, 5e-324]
    for factor in (0.1, 1 / 3, 0.9999999):
        _native.core.write_scaled(groups, "lr", ends, factor, starts)
        wanted = [s + (e - s) * factor for s, e in zip(starts or [0.0] * 3, ends, strict=True)]
        assert [group["lr"] for group in groups] == wanted


def test_rates_of_many_groups_are_compared_before_they_are_written():
    """At a group that holds something else the core stops, and puts back what it has written."""
    values = [0.25, 0.5, 0.75]
    groups, lasts = [{"lr": value} for value in values], list(values)
    assert _native.core.write_scaled(groups, "lr", [1.0, 2.0, 2.0], 0.5, None, lasts)
    assert [group["lr"] for group in groups] == lasts == [0.5, 1.0, 1.0]
    assert groups[1]["lr"] is groups[2]["lr"] is lasts[2]
    for foreign in (0.9, torch.tensor(1.0), None, 1):
        groups[2]["lr"] = foreign
        assert not _native.core.write_scaled(groups, "lr", [1.0, 2.0, 2.0], 0.25, None, lasts)
        assert [groups[0]["lr"], groups[1]["lr"]] == lasts[:2] == [0.5, 1.0]
        assert groups[2]["lr"] is foreign
    del groups[2]["lr"]
    assert not _native.core.write_scaled(groups, "lr", [1.0, 2.0, 2.0], 0.25, None, lasts)
    with pytest.raises(ValueError, match="ends, starts and lasts must have 3 entries like groups, got 1"):
        _native.core.write_scaled(groups, "lr", [1.0, 2.0, 2.0], 0.25, None, [1.0])


@pytest.mark.parametrize("bad", [([{}], [1.0, 2.0]), ([{}], ["a"]), ([1], [1.0])], ids=["count", "number", "dict"])
def test_rates_for_what_is_no_group(bad):
    with pytest.raises((TypeError, ValueError), match=r"must be|must have"):
        _native.core.write_scaled(bad[0], "lr", bad[1], 0.5, None)


def test_groups_that_share_one_tensor_get_their_own():
    shared = torch.tensor(0.5, dtype=torch.float64)
    optimizer = optimizer_of([shared, shared], kind="AdamW", foreach=False)
    scheduler = ls.LambdaLR(optimizer, [lambda t: 0.5**t, lambda t: 0.1**t])
    optimizer.step()
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))], "lr": shared})
    scheduler.lr_lambdas = [*scheduler.lr_lambdas, lambda t: 1.0]
    scheduler.step()
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.25, 0.05, 0.5])
    assert optimizer.param_groups[0]["lr"] is shared
    assert [float(group["initial_lr"]) for group in optimizer.param_groups] == [0.5] * 3


def test_the_initial_rate_of_a_later_group_is_no_alias():
    optimizer = optimizer_of([0.5])
    scheduler = ls.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))], "lr": torch.tensor(0.25)})
    scheduler.step()
    assert optimizer.param_groups[1]["initial_lr"] == 0.25
