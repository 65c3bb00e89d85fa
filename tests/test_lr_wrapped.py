"""Optimizers that wrap others, optimizers that are deleted, and schedulers that clients look for by type."""

from __future__ import annotations

import copy
import gc
import types
import weakref

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

import onepass.optim
from chain_setup import MAKERS, METRICS, assert_same, theirs
from onepass.optim import lr_scheduler as ours
from onepass.optim import schedules as s

CLASSES = [name for name in theirs.__all__ if hasattr(ours, name)]


def model_and(kind, **options):
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    return model, kind(model.parameters(), lr=1.0, **options)


class Bare(torch.optim.Optimizer):
    """Wraps an optimizer as frameworks do: claims to be an Optimizer, and does not call its __init__."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    defaults = property(lambda self: self.optimizer.defaults)
    state = property(lambda self: self.optimizer.state)

    def step(self, closure=None):
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)


class WithHooks(Bare):
    """Has hooks that its step does not call."""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = {}, {}


class Blind(Bare):
    """Updates parameters by itself, and nobody can see it."""

    def __init__(self, optimizer):
        self.groups = optimizer.param_groups

    param_groups = property(lambda self: self.groups)
    defaults = property(lambda self: {"momentum": 0.9})

    def step(self, closure=None):
        for group in self.groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.data.sub_(group["lr"] * param.grad)


class Two(Blind):
    """Wraps two optimizers that have its groups."""

    def __init__(self, optimizer):
        super().__init__(optimizer)
        self.first, self.second = optimizer, copy.copy(optimizer)


def accelerated(optimizer):
    accelerate = pytest.importorskip("accelerate")
    return accelerate.Accelerator(cpu=True).prepare_optimizer(optimizer)


WRAPPERS = {
    "accelerate": accelerated,
    "bare": Bare,
    "hooks": WithHooks,
    "twice": lambda optimizer: WithHooks(Bare(optimizer)),
}
KINDS = {"torch": torch.optim.SGD, "onepass": onepass.optim.SGD}


@pytest.mark.parametrize("follow", ["calls", "optimizer"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapped_optimizer(wrapper, kind, follow):
    """accelerate's class has no hooks, and is followed all the same."""
    _, inner = model_and(KINDS[kind], momentum=0.9)
    optimizer = WRAPPERS[wrapper](inner)
    schedulers = [
        ours.StepLR(optimizer, 1, 0.5, follow=follow),
        ours.ReduceLROnPlateau(optimizer, warmup=2, follow=follow),
    ]
    rates = []
    for _ in range(3):
        for group in inner.param_groups:
            for param in group["params"]:
                param.grad = torch.ones_like(param)
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        rates.append(inner.param_groups[0]["lr"])
    assert rates == [0.25, 0.25, 0.125]
    with pytest.raises(ValueError, match="gamma must be finite"):
        ours.ExponentialLR(optimizer, -1, follow=follow)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("wrapper", [*WRAPPERS, "blind"])
def test_every_scheduler_takes_a_wrapped_optimizer(name, wrapper):
    if name == "MultiplicativeLR":
        return  # which is torch's
    rates = []
    for package, wrap in ((theirs, lambda optimizer: optimizer), (ours, {**WRAPPERS, "blind": Blind}[wrapper])):
        _, inner = model_and(torch.optim.SGD, momentum=0.9)
        optimizer = wrap(inner)
        scheduler = MAKERS[name](package, optimizer)
        values = []
        for step in range(6):
            optimizer.step()
            scheduler.step(*[METRICS[step]] * (name == "ReduceLROnPlateau"))
            values.append([inner.param_groups[0]["lr"]])
        rates.append(values)
    assert_same(*rates)


@pytest.mark.parametrize("make", [Blind, Two])
@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: ours.StepLR(o, 1, follow="optimizer"),
        lambda o: ours.OneCycleLR(o, 1.0, 9, follow="optimizer"),
        lambda o: ours.ScheduleLR(o, "cosine(9)", follow="optimizer"),
        lambda o: ours.SequentialLR(o, [ours.StepLR(o, 1)], [], follow="optimizer"),
        lambda o: ours.ReduceLROnPlateau(o, warmup=3, follow="optimizer"),
    ],
)
def test_updates_that_cannot_be_seen_are_told_at_construction(make, scheduler):
    optimizer = make(model_and(torch.optim.SGD)[1])
    with pytest.raises(ValueError, match=r"follow must be calls for .* cannot be seen, .* got 'optimizer' for"):
        scheduler(optimizer)


def test_a_range_test_of_a_wrapped_optimizer():
    model, inner = model_and(onepass.optim.SGD, momentum=0.9, skip_nonfinite=True)
    inner.zero_grad()
    before = copy.deepcopy((model.state_dict(), inner.state_dict()))
    batches = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(4)]
    loss = torch.nn.functional.mse_loss
    found = onepass.monitor.lr_range_test(model, Bare(inner), loss, batches, steps=10, seeds=1)
    assert len(found.curves[0].lrs) > 2
    torch.testing.assert_close((model.state_dict(), inner.state_dict()), before, rtol=0, atol=0)
    assert inner.skipped_steps == 0
    with pytest.raises(ValueError, match=r"lr_range_test: optimizer must call step hooks.*, got Blind"):
        onepass.monitor.lr_range_test(model, Blind(inner), loss, batches, steps=10, seeds=1)


FOLLOWERS = {
    "StepLR": lambda o, f: ours.StepLR(o, 1, 0.5, follow=f),
    "MultiStepLR": lambda o, f: ours.MultiStepLR(o, [1], follow=f),
    "ConstantLR": lambda o, f: ours.ConstantLR(o, follow=f),
    "LinearLR": lambda o, f: ours.LinearLR(o, follow=f),
    "ExponentialLR": lambda o, f: ours.ExponentialLR(o, 0.5, follow=f),
    "PolynomialLR": lambda o, f: ours.PolynomialLR(o, follow=f),
    "CosineAnnealingLR": lambda o, f: ours.CosineAnnealingLR(o, 9, follow=f),
    "CosineAnnealingWarmRestarts": lambda o, f: ours.CosineAnnealingWarmRestarts(o, 9, follow=f),
    "LambdaLR": lambda o, f: ours.LambdaLR(o, lambda t: 1.0, follow=f),
    "OneCycleLR": lambda o, f: ours.OneCycleLR(o, 1.0, 9, follow=f),
    "CyclicLR": lambda o, f: ours.CyclicLR(o, 0.1, 1.0, 3, scale_fn=lambda x: 1.0, follow=f),
    "SequentialLR": lambda o, f: ours.SequentialLR(o, [ours.LinearLR(o), ours.StepLR(o, 3)], [2], follow=f),
    "SequentialLR-torch": lambda o, f: ours.SequentialLR(
        o, [ours.LinearLR(o), theirs.StepLR(o, 3)], [2], follow=f
    ),
    "ChainedScheduler": lambda o, f: ours.ChainedScheduler([ours.LinearLR(o), ours.StepLR(o, 3)], follow=f),
    "ScheduleLR": lambda o, f: ours.ScheduleLR(o, "cosine(9)", fields={"weight_decay": s.linear(3)}, follow=f),
    "WarmupCosineLR": lambda o, f: ours.WarmupCosineLR(o, 2, 9, follow=f),
    "WarmupStableDecayLR": lambda o, f: ours.WarmupStableDecayLR(o, 2, 2, 2, follow=f),
    "ReduceLROnPlateau": lambda o, f: ours.ReduceLROnPlateau(o, warmup=3, follow=f),
    "MultiplicativeLR": lambda o, f: ours.MultiplicativeLR(o, lambda t: 1.0),
}


@pytest.fixture
def no_collector():
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("name", FOLLOWERS)
@pytest.mark.parametrize("follow", ["calls", "optimizer"])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("no_collector")
def test_the_last_reference_frees_the_optimizer(name, follow, steps, kind):
    """No reference cycle keeps an optimizer and its states until the garbage collector runs, as in torch."""
    optimizer = model_and(KINDS[kind], momentum=0.9)[1]
    scheduler = FOLLOWERS[name](optimizer, follow)
    for _ in range(steps):
        for param in optimizer.param_groups[0]["params"]:
            param.grad = torch.ones_like(param)
        optimizer.step()
        scheduler.step()
    if steps and name != "MultiplicativeLR":
        scheduler.load_state_dict(scheduler.state_dict())
    dead = weakref.ref(optimizer), weakref.ref(scheduler)
    del optimizer
    assert dead[0]() is not None
    del scheduler
    assert [one() for one in dead] == [None, None]


@pytest.mark.usefixtures("no_collector")
def test_a_dropped_scheduler_leaves_no_hook():
    optimizer = model_and(torch.optim.SGD)[1]
    for follow in ("calls", "optimizer"):
        scheduler = ours.StepLR(optimizer, 3, follow=follow)
        assert len(optimizer._optimizer_step_post_hooks) == 1
        del scheduler
        assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("name", CLASSES)
def test_clients_recognise_every_class(name):
    """Frameworks look for torch's classes by type."""
    assert issubclass(getattr(ours, name), getattr(theirs, name))
    if name in FOLLOWERS:
        optimizer = model_and(torch.optim.SGD, momentum=0.9)[1]
        assert isinstance(FOLLOWERS[name](optimizer, "calls"), getattr(theirs, name))
    assert set(theirs.__all__) <= set(CLASSES)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, onepass.optim.SGD, onepass.optim.Adam])
@pytest.mark.parametrize("tensor", [False, True])
def test_a_step_that_makes_states_for_a_checkpoint_is_none(kind, tensor):
    """torch.distributed.checkpoint steps a fresh optimizer with rate 0, which must not count as an update."""
    model = torch.nn.Linear(2, 1)
    optimizer = kind(model.parameters(), lr=torch.tensor(0.1) if tensor else 0.1)
    scheduler = ours.StepLR(optimizer, 1, 0.5, follow="optimizer")
    get_optimizer_state_dict(model, optimizer)
    scheduler.step()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.1)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.05)


@pytest.mark.parametrize("package", [torch.optim, onepass.optim])
def test_a_call_for_states_after_the_first_step(package):
    """SGD without momentum never has states, so each call takes another such step."""
    model, optimizer = model_and(package.SGD)
    scheduler = ours.StepLR(optimizer, 1, 0.5, follow="optimizer")
    for calls in range(1, 3):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        get_optimizer_state_dict(model, optimizer)
        scheduler.step()
        assert scheduler.last_epoch == calls


def _init_optim_state(optimizer):
    optimizer.step()


def test_where_the_rate_is_not_zero():
    """Older versions of torch leave the rate as it is."""
    module = {"__name__": "torch.distributed.checkpoint.state_dict"}
    ask = types.FunctionType(_init_optim_state.__code__, module)
    optimizer = model_and(torch.optim.SGD, momentum=0.9)[1]
    scheduler = ours.StepLR(optimizer, 1, 0.5, follow="optimizer")
    ask(optimizer)
    scheduler.step()
    assert scheduler.last_epoch == 0
    optimizer.step()
    scheduler.step()
    assert scheduler.last_epoch == 1


def test_a_step_with_rate_zero_is_one():
    """The first step of a warm-up counts, although its rate is 0."""
    optimizer = model_and(torch.optim.SGD)[1]
    scheduler = ours.ScheduleLR(optimizer, "warmup(4)", follow="optimizer")
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.25
