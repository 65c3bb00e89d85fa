"""Schedulers refuse wrong arguments and states, and a refused call has changed nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from onepass.optim import lr_scheduler as ls
from onepass.optim import schedules as s


def optimizer_of(groups=2, **options):
    listed = [{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(groups)]
    return torch.optim.SGD(listed, lr=0.1, momentum=0.9, **options)


OTHER = optimizer_of()
BAD = {
    "optimizer": (lambda o: ls.StepLR("sgd", 3), "StepLR: optimizer must be a torch.optim.Optimizer, got str"),
    "follow": (lambda o: ls.StepLR(o, 3, follow="me"), "follow must be one of calls, optimizer, got 'me'"),
    "last_epoch": (
        lambda o: ls.StepLR(o, 3, last_epoch=-2),
        "last_epoch must be an integer and at least -1, got -2",
    ),
    "initial_lr": (
        lambda o: ls.StepLR(o, 3, last_epoch=4),
        r"param_groups\[0\] must have initial_lr when last_epoch",
    ),
    "step": (lambda o: ls.StepLR(o, 0), "step: size must be finite and above 0, got 0"),
    "gamma": (lambda o: ls.ExponentialLR(o, -1), "exponential: gamma must be finite and at least 0, got -1"),
    "T_max": (lambda o: ls.CosineAnnealingLR(o, 0), "cosine: steps must be finite and above 0, got 0"),
    "T_0": (lambda o: ls.CosineAnnealingWarmRestarts(o, 0), "warm_restarts: steps must be finite and at least 1"),
    "lambdas": (lambda o: ls.LambdaLR(o, [abs]), "lr_lambda must be one for each of 2 groups, got 1"),
    "lambda": (lambda o: ls.LambdaLR(o, [abs, 3]), r"lr_lambda\[1\] must be a function, got 3"),
    "total": (lambda o: ls.OneCycleLR(o, 0.1), "total_steps must be given, or epochs and steps_per_epoch"),
    "eta_min": (lambda o: ls.CosineAnnealingLR(o, 9, -1), "eta_min must be finite and at least 0, got -1"),
    "eta_min_text": (lambda o: ls.CosineAnnealingLR(o, 9, "0"), "eta_min must be a number, got '0'"),
    "max_lr_nan": (lambda o: ls.OneCycleLR(o, float("nan"), 9), "max_lr must be finite and at least 0, got nan"),
    "base_lr": (lambda o: ls.CyclicLR(o, [0.1, -1], 1.0), r"base_lr\[1\] must be finite and at least 0, got -1"),
    "min_lr_text": (lambda o: ls.ReduceLROnPlateau(o, min_lr="0"), "min_lr must be a number, got '0'"),
    "shape": (lambda o: ls.ScheduleLR(o, s.exponential), "must be a schedule, its text or a function, got <class"),
    "lambda_class": (lambda o: ls.LambdaLR(o, s.exponential), r"lr_lambda\[0\] must be a function, got <class"),
    "number": (lambda o: ls.LambdaLR(o, torch.tensor), r"a factor must be a number, got tensor\(0\) at step 0"),
    "numbers": (
        lambda o: ls.LambdaLR(o, [abs, repr], follow="optimizer"),
        "a factor must be a number, got '0' at step 0",
    ),
    "field_number": (
        lambda o: ls.ScheduleLR(o, "cosine(9)", fields={"momentum": repr}),
        "a factor must be a number, got '0' at step 0",
    ),
    "max_lr": (lambda o: ls.OneCycleLR(o, [0.1], 9), "max_lr must have one entry for each of 2 groups, got 1"),
    "anneal": (lambda o: ls.OneCycleLR(o, 0.1, 9, anneal_strategy="up"), "anneal must be cos or linear, got 'up'"),
    "mode": (lambda o: ls.CyclicLR(o, 0.1, 1.0, mode="up"), "cyclic: mode must be triangular, .* got 'up'"),
    "scale": (
        lambda o: ls.CyclicLR(o, 0.1, 1.0, scale_mode="up"),
        "scale_mode must be cycle or iterations, got 'up'",
    ),
    "no parts": (lambda o: ls.SequentialLR(o, [], []), "SequentialLR: schedulers must be at least one, got none"),
    "milestones": (
        lambda o: ls.SequentialLR(o, [ls.StepLR(o, 3)], [3]),
        "milestones must be one fewer than schedulers, got 1 for 1",
    ),
    "order": (
        lambda o: ls.SequentialLR(o, [ls.StepLR(o, 3)] * 3, [5, 3]),
        r"milestones must be ascending and at least 0, got \[5, 3\]",
    ),
    "plateau": (
        lambda o: ls.SequentialLR(o, [ls.StepLR(o, 3), ls.ReduceLROnPlateau(o)], [3]),
        r"schedulers\[1\] must be a function of the step, got ReduceLROnPlateau; its argument warmup",
    ),
    "none": (
        lambda o: ls.ChainedScheduler([o]),
        r"schedulers\[0\] must be a torch.optim.lr_scheduler.LRScheduler, got torch.optim.sgd.SGD",
    ),
    "torchs": (
        lambda o: ls.SequentialLR(o, [torch.optim.lr_scheduler.StepLR(o, 3)], [], last_epoch=3),
        r"last_epoch=3 needs schedulers of onepass.optim.lr_scheduler, which have closed forms, got torch.* at 0",
    ),
    "another": (
        lambda o: ls.SequentialLR(o, [ls.StepLR(OTHER, 3)], []),
        r"schedulers\[0\] must belong to the same optimizer, got another's",
    ),
    "counts": (
        lambda o: ls.SequentialLR(o, [ls.StepLR(o, 3, follow="optimizer")], []),
        r"schedulers\[0\] must have follow='calls', because SequentialLR counts, got 'optimizer'",
    ),
    "absolute": (
        lambda o: ls.ChainedScheduler([ls.StepLR(o, 3), ls.OneCycleLR(o, 0.1, 9)]),
        r"schedulers\[1\] must be the first, because it sets the rate by itself, got OneCycleLR at 1",
    ),
    "places": (
        lambda o: ls.ChainedScheduler([ls.StepLR(o, 3), ls.StepLR(o, 3, last_epoch=3)]),
        r"schedulers\[1\] must have last_epoch 0 like the first, got 4",
    ),
    "field": (
        lambda o: ls.ScheduleLR(o, s.linear(3), fields={"betas[0]": s.linear(3)}),
        r"fields must be of param_groups\[0\], which has lr, momentum, .*, got 'betas\[0\]'",
    ),
    "kind": (
        lambda o: ls.ScheduleLR(o, s.linear(3), fields={"nesterov": s.linear(3)}),
        "fields must be numbers such as .*, got 'nesterov', which is False",
    ),
    "lr": (
        lambda o: ls.ScheduleLR(o, s.linear(3), fields={"lr": abs}),
        "fields must not have lr, which is schedule's",
    ),
    "schedules": (lambda o: ls.ScheduleLR(o, [abs]), "schedule must have one entry for each of 2 groups, got 1"),
    "schedule": (lambda o: ls.ScheduleLR(o, 3), "schedule must be a schedule, its text or a function, got 3"),
    "no schedule": (lambda o: ls.ScheduleLR(o, [None, abs]), "must have a schedule for each group, got None"),
    "text": (lambda o: ls.ScheduleLR(o, "cosin(3)"), "the name must be one of .*, got cosin"),
    "cosine": (lambda o: ls.WarmupCosineLR(o, 5, 5), "total_steps must be above warmup_steps 5, got 5"),
    "plateau mode": (lambda o: ls.ReduceLROnPlateau(o, "up"), "mode must be min or max, got 'up'"),
    "threshold_mode": (
        lambda o: ls.ReduceLROnPlateau(o, threshold_mode="up"),
        "threshold_mode must be rel or abs, got 'up'",
    ),
    "factor": (lambda o: ls.ReduceLROnPlateau(o, factor=1.0), "factor must be at least 0 and below 1, got 1.0"),
    "patience": (lambda o: ls.ReduceLROnPlateau(o, patience=-1), "patience must be at least 0, got -1"),
    "patience_text": (lambda o: ls.ReduceLROnPlateau(o, patience="3"), "patience must be a number, got '3'"),
    "factor_none": (lambda o: ls.ReduceLROnPlateau(o, factor=None), "factor must be a number, got None"),
    "smoothing": (lambda o: ls.ReduceLROnPlateau(o, smoothing=0), "smoothing must be an integer and at least 1"),
    "min_lr": (lambda o: ls.ReduceLROnPlateau(o, min_lr=[1]), "min_lr must have one entry for each of 2 groups"),
    "warmup": (
        lambda o: ls.ReduceLROnPlateau(o, warmup=s.linear(3)),
        r"warmup must be a number of steps or a schedule that ends at 1, got linear\(3\)",
    ),
    "ignored": (lambda o: ls.ReduceLROnPlateau(o, follow="optimizer"), "follow must be calls without a warm-up"),
    "plateau optimizer": (lambda o: ls.ReduceLROnPlateau(3), "optimizer must be a torch.optim.Optimizer, got int"),
}
MAKES_PARTS = {"milestones", "order", "plateau", "torchs", "counts", "absolute", "places"}


@pytest.mark.parametrize("name", BAD)
def test_wrong_arguments(name):
    make, message = BAD[name]
    optimizer = optimizer_of()
    if name == "places":
        optimizer.param_groups[0]["initial_lr"] = optimizer.param_groups[1]["initial_lr"] = 0.1
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises((ValueError, TypeError, KeyError), match=message):
        make(optimizer)
    if name not in MAKES_PARTS:
        assert optimizer.state_dict() == before
        assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("epoch", ["3", float("nan"), float("inf")])
def test_an_epoch_that_is_no_number(epoch):
    optimizer = optimizer_of()
    scheduler = ls.StepLR(optimizer, 3)
    before = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    with pytest.raises((TypeError, ValueError, OverflowError), match="StepLR: epoch must be a finite number, got"):
        scheduler.step(epoch)
    assert (optimizer.state_dict(), scheduler.state_dict()) == before


def test_no_momentum_to_cycle():
    optimizer = torch.optim.Adagrad([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(
        ValueError, match="cycle_momentum must be False for an optimizer without momentum or betas"
    ):
        ls.OneCycleLR(optimizer, 0.1, 9)
    assert ls.CyclicLR(optimizer, 0.1, 1.0, cycle_momentum=False).get_last_lr() == [0.1]


LOADS = {
    "setting": (
        lambda o: ls.StepLR(o, 3),
        {"last_epoch": 3, "step_size": -1, "gamma": 0.5},
        "step: size must be finite and above 0, got -1",
    ),
    "part": (
        lambda o: ls.ChainedScheduler([ls.ExponentialLR(o, 0.5), ls.StepLR(o, 3)]),
        {"last_epoch": 3, "_schedulers": [{"gamma": 0.1, "last_epoch": 3}, {"step_size": -1, "last_epoch": 3}]},
        "step: size must be finite and above 0, got -1",
    ),
    "plateau_mode": (lambda o: ls.ReduceLROnPlateau(o), {"mode": "up"}, "mode up is unknown"),
    "last_epoch": (lambda o: ls.StepLR(o, 3), {}, "state_dict must have an integer last_epoch, got None"),
    "base_lrs": (
        lambda o: ls.StepLR(o, 3),
        {"last_epoch": 3, "base_lrs": [1.0]},
        "base_lrs of the state_dict must be as many as param_groups, got 1 for 2",
    ),
    "parts": (
        lambda o: ls.ChainedScheduler([ls.StepLR(o, 3)]),
        {"last_epoch": 3, "_schedulers": []},
        "state_dict must have the states of 1 schedulers, got 0",
    ),
    "fields": (
        lambda o: ls.ScheduleLR(o, s.linear(9), fields={"momentum": s.linear(9)}),
        {"last_epoch": 3, "base_values": {}},
        r"base_values of the state_dict must have \['momentum'\] for 2 groups, got \{\}",
    ),
    "field": (
        lambda o: ls.ScheduleLR(o, s.linear(9), fields={"momentum": s.linear(9)}),
        {"base_values": {"momentum": [7.0, 7.0]}},
        "must have an integer last_epoch, got None",
    ),
    "milestones": (
        lambda o: ls.SequentialLR(o, [ls.StepLR(o, 3), ls.ExponentialLR(o, 0.9)], [2]),
        {"last_epoch": 3, "_milestones": []},
        "milestones must be one fewer than schedulers, got 0 for 2",
    ),
    "plateau": (
        lambda o: ls.ReduceLROnPlateau(o),
        {"_last_lr": [1.0]},
        "_last_lr of the state_dict must be as many as param_groups, got 1 for 2",
    ),
}


@pytest.mark.parametrize("name", LOADS)
def test_wrong_states(name):
    make, state, message = LOADS[name]
    optimizer = optimizer_of()
    scheduler = make(optimizer)
    before = copy.deepcopy(scheduler.state_dict()), copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        scheduler.load_state_dict(state)
    assert (scheduler.state_dict(), optimizer.state_dict()) == before


ARGUMENTS = {
    "StepLR": (3,),
    "MultiStepLR": ([3],),
    "ExponentialLR": (0.5,),
    "CosineAnnealingLR": (9,),
    "CosineAnnealingWarmRestarts": (9,),
    "LambdaLR": (abs,),
    "CyclicLR": (0.1, 1.0),
    "OneCycleLR": (1.0, 9),
    "ScheduleLR": ("cosine(9)",),
    "WarmupCosineLR": (1, 9),
    "WarmupStableDecayLR": (1, 2, 3),
    "SequentialLR": ([ls.StepLR(OTHER, 3)], []),
}


def is_ours(name):
    return getattr(ls, name).__module__.startswith("onepass.") and name != "FunctionLR"


@pytest.mark.parametrize("name", [name for name in ls.__all__ if is_ours(name)])
@pytest.mark.parametrize("given", [None, [], "sgd", torch.nn.Linear(1, 1)])
def test_what_is_no_optimizer(name, given):
    if name == "ChainedScheduler":
        if given is not None:  # None stands for the optimizer of the parts
            with pytest.raises(TypeError, match=r"^ChainedScheduler: optimizer must be a torch\.optim\.Optimizer"):
                ls.ChainedScheduler([ls.StepLR(OTHER, 3)], given)
        return
    with pytest.raises(TypeError, match=f"^{name}: optimizer must be a torch.optim.Optimizer, got"):
        getattr(ls, name)(given, *ARGUMENTS.get(name, ()))


KINDS = {
    "alone": lambda o: ls.StepLR(o, 3),
    "fields": lambda o: ls.ScheduleLR(o, s.linear(9)),
    "sequence": lambda o: ls.SequentialLR(o, [ls.StepLR(o, 3), ls.ExponentialLR(o, 0.9)], [2]),
    "chain": lambda o: ls.ChainedScheduler([ls.StepLR(o, 3), ls.ExponentialLR(o, 0.9)]),
    "objects": lambda o: ls.LambdaLR(o, abs),
    "plateau": lambda o: ls.ReduceLROnPlateau(o),
}


@pytest.mark.parametrize("name", KINDS)
def test_states_that_are_no_dicts(name):
    optimizer = optimizer_of()
    scheduler = KINDS[name](optimizer)
    before = copy.deepcopy(scheduler.state_dict()), copy.deepcopy(optimizer.state_dict())
    kind = type(scheduler).__name__
    for value in (None, [], "state", 3):
        with pytest.raises(TypeError, match=f"{kind}: state_dict must be a dict, got {type(value).__name__}"):
            scheduler.load_state_dict(value)
        with pytest.raises(TypeError, match=rf"{kind}: state_dict\['_written'\] must be a dict, got "):
            scheduler.load_state_dict({**before[0], "_written": value})
    assert (scheduler.state_dict(), optimizer.state_dict()) == before


@pytest.mark.parametrize("whole", [ls.SequentialLR, ls.ChainedScheduler])
def test_a_stepped_state_without_rates_leaves_them(whole):
    """The states of the parts bring their arguments; the rates are those that the optimizer has."""
    optimizer = optimizer_of()
    parts = [torch.optim.lr_scheduler.StepLR(optimizer, 3), ls.ExponentialLR(optimizer, 0.5)]
    scheduler = whole(optimizer, parts, [2]) if whole is ls.SequentialLR else whole(parts)
    optimizer.step()
    scheduler.step()
    state = {key: value for key, value in scheduler.state_dict().items() if key != "_last_lr"}
    rates = scheduler.get_last_lr()
    scheduler.load_state_dict(state)
    assert scheduler.get_last_lr() == rates


def test_wrong_steps():
    follower = ls.StepLR(optimizer_of(), 3, follow="optimizer")
    with pytest.raises(ValueError, match=r"epoch must be None with follow='optimizer'.*, got 3"):
        follower.step(3)
    with pytest.raises(TypeError, match="metrics must be given where there is no warm-up, got None"):
        ls.ReduceLROnPlateau(optimizer_of()).step()
    caller = ls.StepLR(optimizer_of(), 3)
    with pytest.raises(ValueError, match="step: step must be at least 0, got -5"):
        caller.step(-5)
    with pytest.raises(ValueError, match="cannot convert float NaN to integer"):
        caller.step(float("nan"))
    assert (caller.last_epoch, caller.get_last_lr()) == (0, [0.1, 0.1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: ls.OneCycleLR(o, 0.1, 9), "the rates were given for 2 param_groups, got 3 groups now"),
        (lambda o: ls.LambdaLR(o, [abs, abs]), "lr_lambda was given for 2 groups, got 3 now"),
        (lambda o: ls.ScheduleLR(o, [abs, abs]), "schedules were given for 2 groups, got 3 now"),
    ],
)
def test_groups_that_lists_know_nothing_of(make, message):
    optimizer = optimizer_of()
    scheduler = make(optimizer)
    optimizer.step()
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    before = copy.deepcopy(scheduler.state_dict())
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            scheduler.step()
    assert scheduler.state_dict() == {**before, "_last_lr": scheduler.get_last_lr()}


def test_plateau_with_more_groups_than_min_lrs():
    optimizer = optimizer_of()
    scheduler = ls.ReduceLROnPlateau(optimizer, patience=0, min_lr=[0.0, 0.0])
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    scheduler.step(1.0)
    with pytest.raises(ValueError, match="min_lr must have one entry for each of 3 groups, got 2"):
        scheduler.step(1.0)
