"""Who watches a step: profilers and hooks, of one optimizer and of all; else it is called directly."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

import onepass.optim

CLASSES = (onepass.optim.SGD, onepass.optim.Adam, onepass.optim.AdamW)


def made(cls):
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    return param, cls([param], lr=0.1)


def ranges(profile):
    return [event.key for event in profile.key_averages() if event.key.startswith("Optimizer.step")]


@pytest.mark.parametrize("cls", CLASSES)
def test_a_profiler_finds_the_step_by_torchs_name(cls):
    _, optimizer = made(cls)
    with torch.autograd.profiler.profile() as profile:
        optimizer.step()
    assert ranges(profile) == [f"Optimizer.step#{cls.__name__}.step"]


def test_a_profiler_of_all_threads_finds_it_too():
    _, optimizer = made(onepass.optim.AdamW)
    everywhere = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], experimental_config=everywhere
    ) as profile:
        optimizer.step()
    assert ranges(profile) == ["Optimizer.step#AdamW.step"]


@pytest.mark.parametrize("cls", CLASSES)
def test_without_one_no_range_is_opened(cls, monkeypatch):
    param, optimizer = made(cls)

    def opened(name):
        raise AssertionError(name)

    monkeypatch.setattr(torch.autograd.profiler, "record_function", opened)
    optimizer.step()
    assert (param < 1).all()


@pytest.mark.parametrize("register", [register_optimizer_step_pre_hook, register_optimizer_step_post_hook])
def test_hooks_of_all_optimizers_run(register):
    _, optimizer = made(onepass.optim.AdamW)
    seen = []
    handle = register(lambda watched, args, kwargs: seen.append((watched is optimizer, args, kwargs)))
    try:
        optimizer.step(zero_grad=True)
    finally:
        handle.remove()
    optimizer.step()
    # torch's wrapper passes the optimizer among the arguments.
    assert seen == [(True, (optimizer,), {"zero_grad": True})]


@pytest.mark.parametrize("kind", ["pre", "post"])
def test_hooks_of_one_run_and_are_removed(kind):
    _, optimizer = made(onepass.optim.SGD)
    seen = []
    handle = getattr(optimizer, f"register_step_{kind}_hook")(lambda *_: seen.append(kind))
    optimizer.step()
    handle.remove()
    optimizer.step()
    assert seen == [kind]


def test_a_pre_hook_may_change_the_arguments():
    param, optimizer = made(onepass.optim.SGD)
    optimizer.register_step_pre_hook(lambda watched, args, kwargs: (args, {"zero_grad": True}))
    optimizer.step()
    assert not param.grad.any()


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_hook_that_a_closure_registers_runs_after_that_step(everywhere):
    _, optimizer = made(onepass.optim.SGD)
    seen, handles = [], []
    register = register_optimizer_step_post_hook if everywhere else optimizer.register_step_post_hook

    def closure():
        handles.append(register(lambda watched, args, kwargs: seen.append(args == (watched, closure))))

    optimizer.step(closure)
    handles[0].remove()
    optimizer.step()
    assert seen == [True]


class Counting(onepass.optim.AdamW):
    """A user's class with a step of its own."""

    def step(self, closure=None, **options):
        self.taken = getattr(self, "taken", 0) + 1
        return super().step(closure, **options)


def test_a_subclass_with_its_own_step_is_watched_as_torchs():
    _, optimizer = made(Counting)
    optimizer.step()
    with torch.autograd.profiler.profile() as profile:
        optimizer.step()
    assert optimizer.taken == 2
    assert "Optimizer.step#Counting.step" in ranges(profile)


def test_a_class_may_keep_torch_from_wrapping_its_step():
    def noted(function):
        @functools.wraps(function)
        def step(self, *arguments, **options):
            self.noted = True
            return function(self, *arguments, **options)

        step.hooked = True
        return step

    class Alone(Counting):
        @noted
        def step(self, closure=None, **options):
            return super().step(closure, **options)

    param, optimizer = made(Alone)
    optimizer.step()
    assert optimizer.noted
    assert (param < 1).all()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_and_pickles_are_watched_too(again):
    _, optimizer = made(onepass.optim.Adam)
    optimizer.step()
    other = again(optimizer)
    with torch.autograd.profiler.profile() as profile:
        other.step()
    assert ranges(profile) == ["Optimizer.step#Adam.step"]
