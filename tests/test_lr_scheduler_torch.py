"""Our schedulers next to torch's of the same name over 300 steps, at random; checkpoints both ways."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onepass.optim import lr_scheduler as ours
from tolerance import RECURSIVE_ATOL, RECURSIVE_RTOL, SCHEDULE_RTOL

theirs = torch.optim.lr_scheduler
STEPS = 300
EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)

gammas = st.floats(0.5, 1.0)
rates = st.floats(1e-6, 10.0)
counts = st.integers(1, 250)
factors = st.floats(0.01, 1.0)
momenta = st.floats(0.0, 0.99)


def optimizer_of(lrs, kind="SGD"):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    return torch.optim.SGD(groups, momentum=0.9) if kind == "SGD" else torch.optim.AdamW(groups)


def closed_form(make, lrs):
    """torch's own closed form, which only its step(epoch) uses."""
    scheduler = make(theirs, optimizer_of(lrs))
    values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(STEPS):
            scheduler.last_epoch = step
            values.append([float(lr) for lr in scheduler._get_closed_form_lr()])
    return values


def stepped(make, package, lrs, kind="SGD", fields=("lr",), steps=STEPS):
    """What the groups hold at each of the steps, which are taken one after the other."""
    optimizer = optimizer_of(lrs, kind)
    scheduler = make(package, optimizer)
    optimizer.step()
    values = []
    for _ in range(steps):
        values.append([read(group, field) for group in optimizer.param_groups for field in fields])
        scheduler.step()
    return values


def read(group, field):
    return float(group["betas"][0] if field == "beta1" else group[field])


def assert_close(mine, other, atol=0.0):
    for step, (a, b) in enumerate(zip(mine, other, strict=True)):
        for x, y in zip(a, b, strict=True):
            assert math.isclose(x, y, rel_tol=SCHEDULE_RTOL, abs_tol=atol), (step, x, y)


def check_closed(make, lrs):
    assert_close(stepped(make, ours, lrs), closed_form(make, lrs))


@EXAMPLES
@given(st.lists(rates, min_size=1, max_size=3), counts, gammas)
def test_step(lrs, size, gamma):
    check_closed(lambda package, opt: package.StepLR(opt, size, gamma), lrs)


@EXAMPLES
@given(st.lists(rates, min_size=1, max_size=3), st.lists(st.integers(1, STEPS), max_size=6), gammas)
def test_multistep(lrs, milestones, gamma):
    check_closed(lambda package, opt: package.MultiStepLR(opt, milestones, gamma), lrs)


@EXAMPLES
@given(st.lists(rates, min_size=1, max_size=3), factors, st.integers(0, 250))
def test_constant(lrs, factor, total):
    check_closed(lambda package, opt: package.ConstantLR(opt, factor, total), lrs)


@EXAMPLES
@given(st.lists(rates, min_size=1, max_size=3), factors, st.floats(0.0, 1.0), counts)
def test_linear(lrs, start, end, total):
    check_closed(lambda package, opt: package.LinearLR(opt, start, end, total), lrs)


@EXAMPLES
@given(st.lists(rates, min_size=1, max_size=3), gammas)
def test_exponential(lrs, gamma):
    check_closed(lambda package, opt: package.ExponentialLR(opt, gamma), lrs)


@EXAMPLES
@given(st.lists(rates, min_size=1, max_size=3), counts, st.floats(0.0, 4.0))
def test_polynomial(lrs, total, power):
    check_closed(lambda package, opt: package.PolynomialLR(opt, total, power), lrs)


@EXAMPLES
@given(st.lists(rates, min_size=1, max_size=3), counts, st.floats(0.0, 1e-3))
def test_cosine(lrs, t_max, eta_min):
    check_closed(lambda package, opt: package.CosineAnnealingLR(opt, t_max, eta_min), lrs)


@EXAMPLES
@given(st.lists(rates, min_size=1, max_size=3), st.floats(0.0, 1.0))
def test_lambda(lrs, decay):
    def make(package, opt):
        return package.LambdaLR(opt, lambda step: decay**step)

    assert_close(stepped(make, ours, lrs), stepped(make, theirs, lrs))


# In torch the following have no closed form apart from their step, which computes each value from the step alone.
@EXAMPLES
@given(st.lists(rates, min_size=1, max_size=3), st.integers(1, 60), st.integers(1, 4), st.floats(0.0, 1e-3))
def test_warm_restarts(lrs, t_0, t_mult, eta_min):
    def make(package, opt):
        return package.CosineAnnealingWarmRestarts(opt, t_0, t_mult, eta_min)

    assert_close(stepped(make, ours, lrs), stepped(make, theirs, lrs))


@EXAMPLES
@given(
    st.floats(1e-4, 1.0),
    st.floats(1.0, 10.0),
    st.integers(2, 250),
    st.floats(0.05, 0.95),
    st.sampled_from(["cos", "linear"]),
    st.booleans(),
    st.sampled_from(["SGD", "AdamW"]),
    st.tuples(momenta, momenta),
)
def test_one_cycle(top, div, total, pct, anneal, three, kind, momentum):
    """Up to step total_steps - 1; after it torch goes up again for one step and then raises, ours stays."""
    if three and not (pct * total > 1 and 2 * pct * total - 2 < total - 1):
        three = False  # torch's phases then overlap or have no length
    if pct * total == 1:
        pct = 0.9
    options = {
        "total_steps": total,
        "pct_start": pct,
        "anneal_strategy": anneal,
        "div_factor": div,
        "three_phase": three,
        "base_momentum": momentum[0],
        "max_momentum": momentum[1],
    }

    def make(package, opt):
        return package.OneCycleLR(opt, [top, 2 * top], **options)

    # A difference has the error of the larger number.
    for field, largest in (("lr", top), ("momentum" if kind == "SGD" else "beta1", max(momentum))):
        mine, other = (stepped(make, package, [1.0, 1.0], kind, (field,), total) for package in (ours, theirs))
        assert_close(mine, other, atol=SCHEDULE_RTOL * largest / 100)


@EXAMPLES
@given(
    st.floats(0.0, 0.1),
    st.floats(0.1, 1.0),
    counts,
    st.one_of(st.none(), counts),
    st.sampled_from(["triangular", "triangular2", "exp_range"]),
    gammas,
    st.sampled_from(["SGD", "AdamW"]),
)
def test_cyclic(base, top, up, down, mode, gamma, kind):
    """torch takes a difference of numbers near 1 as the place in the cycle, which costs an ulp of the top."""

    def make(package, opt):
        return package.CyclicLR(opt, base, [top, 2 * top], up, down, mode, gamma)

    fields = ("lr", "momentum" if kind == "SGD" else "beta1")
    mine, other = (stepped(make, package, [1.0, 1.0], kind, fields) for package in (ours, theirs))
    assert_close(mine, other, atol=SCHEDULE_RTOL * top)


@EXAMPLES
@given(st.lists(rates, min_size=1, max_size=2), factors, st.integers(1, 100), st.integers(1, 100), st.data())
def test_sequential(lrs, start, total, milestone, data):
    """Compares with the closed forms of torch's parts, each from its milestone on."""
    second = data.draw(st.sampled_from(["CosineAnnealingLR", "PolynomialLR", "ExponentialLR"]))
    argument = data.draw(gammas if second == "ExponentialLR" else counts)

    def make(package, opt):
        parts = [package.LinearLR(opt, start, 1.0, total), getattr(package, second)(opt, argument)]
        return package.SequentialLR(opt, parts, [milestone])

    first = closed_form(lambda package, opt: package.LinearLR(opt, start, 1.0, total), lrs)
    then = closed_form(lambda package, opt: getattr(package, second)(opt, argument), lrs)
    assert_close(stepped(make, ours, lrs), first[:milestone] + then[: STEPS - milestone])


@EXAMPLES
@given(st.lists(rates, min_size=1, max_size=2), factors, counts, gammas, st.booleans())
def test_chained(lrs, start, total, gamma, turned):
    """torch's chain has no closed form; it multiplies, so it is compared with the product of its parts' forms."""

    def parts(package, opt):
        both = [package.LinearLR(opt, start, 1.0, total), package.ExponentialLR(opt, gamma)]
        return both[::-1] if turned else both

    def make(package, opt):
        return package.ChainedScheduler(parts(package, opt))

    linear = closed_form(lambda package, opt: package.LinearLR(opt, start, 1.0, total), lrs)
    decay = closed_form(lambda package, opt: package.ExponentialLR(opt, gamma), lrs)
    product = [
        [a * b / lr for a, b, lr in zip(one, two, lrs, strict=True)]
        for one, two in zip(linear, decay, strict=True)
    ]
    assert_close(stepped(make, ours, lrs), product)


@EXAMPLES
@given(
    st.lists(st.floats(0.0, 10.0), min_size=40, max_size=40),
    st.sampled_from(["min", "max"]),
    st.sampled_from(["rel", "abs"]),
    st.integers(0, 4),
    st.integers(0, 3),
    st.floats(0.1, 0.9),
    st.tuples(st.floats(0.0, 0.01), st.floats(0.0, 0.01)),
)
def test_plateau(metrics, mode, threshold_mode, patience, cooldown, factor, min_lr):
    def rates_of(package):
        optimizer = optimizer_of([0.1, 0.5])
        scheduler = package.ReduceLROnPlateau(
            optimizer, mode, factor, patience, 1e-2, threshold_mode, cooldown, list(min_lr)
        )
        values = []
        for metric in metrics:
            scheduler.step(metric)
            values.append(scheduler.get_last_lr())
        return values

    assert rates_of(ours) == rates_of(theirs)


MAKERS = {
    "StepLR": lambda p, o: p.StepLR(o, 7, 0.5),
    "MultiStepLR": lambda p, o: p.MultiStepLR(o, [3, 9, 9], 0.5),
    "ConstantLR": lambda p, o: p.ConstantLR(o, 0.5, 8),
    "LinearLR": lambda p, o: p.LinearLR(o, 0.1, 0.9, 11),
    "ExponentialLR": lambda p, o: p.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda p, o: p.PolynomialLR(o, 30, 2.0),
    "CosineAnnealingLR": lambda p, o: p.CosineAnnealingLR(o, 30, 1e-3),
    "LambdaLR": lambda p, o: p.LambdaLR(o, lambda step: 1 / (1 + step)),
    "CosineAnnealingWarmRestarts": lambda p, o: p.CosineAnnealingWarmRestarts(o, 4, 2, 1e-3),
    "OneCycleLR": lambda p, o: p.OneCycleLR(o, 0.5, 30, three_phase=True),
    "CyclicLR": lambda p, o: p.CyclicLR(o, 0.01, 0.5, 4, 6, "triangular2"),
    "SequentialLR": lambda p, o: p.SequentialLR(o, [p.LinearLR(o, 0.1, 1.0, 5), p.CosineAnnealingLR(o, 20)], [5]),
    "ChainedScheduler": lambda p, o: p.ChainedScheduler([p.LinearLR(o, 0.1, 1.0, 5), p.ExponentialLR(o, 0.9)]),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("direction", ["to torch", "from torch"])
@pytest.mark.parametrize("at", [3, 9])
def test_checkpoints_go_both_ways(name, direction, at):
    """Mid-training: the rates go on as if nothing had happened."""
    first, second = (ours, theirs) if direction == "to torch" else (theirs, ours)
    make = MAKERS[name]
    fields = ("lr", "momentum")
    straight = stepped(make, theirs, [0.1, 0.2], fields=fields, steps=24)
    before, after = optimizer_of([0.1, 0.2]), optimizer_of([0.1, 0.2])
    scheduler, resumed = make(first, before), make(second, after)
    before.step()
    after.step()
    for _ in range(at):
        scheduler.step()
    state, optimizer_state = scheduler.state_dict(), before.state_dict()
    resumed.load_state_dict(state)
    after.load_state_dict(optimizer_state)
    values = []
    for _ in range(at, 24):
        values.append([read(group, field) for group in after.param_groups for field in fields])
        resumed.step()
    for a, b in zip(values, straight[at:], strict=True):
        assert a == pytest.approx(b, rel=RECURSIVE_RTOL, abs=RECURSIVE_ATOL)


@pytest.mark.parametrize("direction", ["to torch", "from torch"])
def test_plateau_checkpoints_go_both_ways(direction):
    metrics = [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]

    def run(packages):
        values, state = [], None
        for part, package in enumerate(packages):
            optimizer = optimizer_of([0.1])
            scheduler = package.ReduceLROnPlateau(optimizer, patience=1, cooldown=1)
            if state is not None:
                scheduler.load_state_dict(state[0])
                optimizer.load_state_dict(state[1])
            for metric in metrics[5 * part : 5 * part + 5]:
                scheduler.step(metric)
                values.append(optimizer.param_groups[0]["lr"])
            state = scheduler.state_dict(), optimizer.state_dict()
        return values

    assert run([ours, theirs] if direction == "to torch" else [theirs, ours]) == run([theirs, theirs])
