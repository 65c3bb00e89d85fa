"""What programs do with an optimizer besides stepping: each scenario returns what it saw of any class.

torch's documentation and tests promise it of every optimizer: hooks, checkpoints, closures, copies.
What is about groups and parameters stands in optim_scenarios_groups.py.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tolerance import FLOAT32_STEPS

SCENARIOS: dict[str, Callable[[type], Any]] = {}


def scenario(function: Callable[[type], Any]) -> Callable[[type], Any]:
    SCENARIOS[function.__name__] = function
    return function


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def fill(parameters, seed=0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)


def values(module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def outcome(function) -> tuple[Any, ...]:
    """What it returns and warns of, or the kind of its error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function()
        except Exception as error:
            return "raises", next(
                kind.__name__ for kind in (KeyError, ValueError, TypeError, Exception) if isinstance(error, kind)
            )
    return "returns", result, [w.category.__name__ for w in caught]


def same(mine: Any, theirs: Any, what: str = "", path: str = "") -> None:
    """Asserts equality of nested values; tensors are close, kinds the same."""
    where = f"{what}{path}: {mine!r} instead of {theirs!r}"
    if isinstance(theirs, torch.Tensor):
        assert isinstance(mine, torch.Tensor), where
        torch.testing.assert_close(mine, theirs, **FLOAT32_STEPS)
    elif isinstance(theirs, (list, tuple)):
        assert type(mine) is type(theirs), where
        assert len(mine) == len(theirs), where
        for k, pair in enumerate(zip(mine, theirs, strict=True)):
            same(*pair, what, f"{path}[{k}]")
    elif isinstance(theirs, dict):
        assert list(mine) == list(theirs), where
        for key in theirs:
            same(mine[key], theirs[key], what, f"{path}[{key!r}]")
    elif isinstance(theirs, float):
        assert math.isclose(mine, theirs, rel_tol=1e-9), where
    else:
        assert type(mine) is type(theirs), where
        assert mine == theirs, where


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.ones(2))


@scenario
def hooks(cls):
    module, seen = net(), []
    optimizer = cls(module.parameters(), lr=0.1)

    def note(name):
        return lambda *args: seen.append((name, len(args), [sorted(a) for a in args if isinstance(a, dict)]))

    handles = [
        optimizer.register_step_pre_hook(note("pre")),
        optimizer.register_step_post_hook(note("post")),
        register_optimizer_step_pre_hook(note("every pre")),
        register_optimizer_step_post_hook(note("every post")),
        optimizer.register_state_dict_pre_hook(note("state")),
        optimizer.register_state_dict_pre_hook(note("state first"), prepend=True),
        optimizer.register_state_dict_post_hook(note("stated")),
        optimizer.register_state_dict_post_hook(note("stated first"), prepend=True),
        optimizer.register_load_state_dict_pre_hook(note("load")),
        optimizer.register_load_state_dict_pre_hook(note("load first"), prepend=True),
        optimizer.register_load_state_dict_post_hook(note("loaded")),
        optimizer.register_load_state_dict_post_hook(note("loaded first"), prepend=True),
    ]
    fill(module.parameters())
    seen.append((optimizer.step(), optimizer.step(lambda: 3.0), optimizer.step(closure=lambda: 4.0)))
    optimizer.load_state_dict(optimizer.state_dict())
    for handle in handles:
        handle.remove()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    # The names of groups and state_dicts are compared elsewhere.
    return [entry[:2] if isinstance(entry[0], str) else entry for entry in seen]


@scenario
def a_pre_hook_gives_other_arguments(cls):
    module = net()
    optimizer = cls(module.parameters(), lr=0.1)
    fill(module.parameters())
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: ((opt, lambda: 7.0), {}))
    return optimizer.step(), values(module)


@scenario
def a_pre_hook_gives_nonsense(cls):
    optimizer = cls(net().parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: 3)
    return outcome(optimizer.step)


@scenario
def hooks_that_replace_a_checkpoint(cls):
    module = net()
    optimizer = cls(module.parameters(), lr=0.1)
    fill(module.parameters())
    optimizer.step()
    saved = optimizer.state_dict()

    def warmer(_, state):
        return {**state, "param_groups": [{**group, "lr": 0.7} for group in state["param_groups"]]}

    handle = optimizer.register_load_state_dict_pre_hook(warmer)
    optimizer.load_state_dict(saved)
    handle.remove()
    optimizer.register_state_dict_post_hook(lambda opt, state: {"x": sorted(state)})
    return optimizer.param_groups[0]["lr"], saved["param_groups"][0]["lr"], optimizer.state_dict()


@scenario
def copies(cls):
    module, seen = net(), []
    optimizer = cls(module.parameters(), lr=0.1)
    fill(module.parameters())
    optimizer.step()
    optimizer.register_step_pre_hook(lambda *args: seen.append("hook"))
    found = []
    for twin in (copy.deepcopy(optimizer), copy.copy(optimizer)):
        fill(twin.param_groups[0]["params"], 5)
        twin.step()
        found.append([p.detach().clone() for p in twin.param_groups[0]["params"]])
    return found, values(module), seen


@scenario
def pickles(cls):
    module = net()
    optimizer = cls(module.parameters(), lr=0.1)
    fill(module.parameters())
    optimizer.step()
    twin = pickle.loads(pickle.dumps(optimizer))
    fill(twin.param_groups[0]["params"], 5)
    twin.step()
    return [p.detach() for p in twin.param_groups[0]["params"]]


@scenario
def zeroing(cls):
    module = net()
    optimizer, found = cls(module.parameters(), lr=0.1), []
    for arguments in ({}, {"set_to_none": False}, {"set_to_none": True}):
        fill(module.parameters())
        optimizer.zero_grad(**arguments)
        found.append([p.grad for p in module.parameters()])
    weight = module[0].weight
    (weight.grad,) = torch.autograd.grad(weight.square().sum(), weight, create_graph=True)
    optimizer.zero_grad(False)
    return found, weight.grad.requires_grad


@scenario
def closures(cls):
    module, seen = net(), []
    optimizer = cls(module.parameters(), lr=0.1)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))

    def closure():
        optimizer.zero_grad()
        loss = module(x).square().sum()
        seen.append((torch.is_grad_enabled(), loss.requires_grad))
        loss.backward()
        return loss

    def failing():
        raise KeyError("x")

    losses = [optimizer.step(closure).detach() for _ in range(3)]
    with torch.no_grad():
        losses.append(optimizer.step(closure).detach())
        seen.append(torch.is_grad_enabled())
    seen += [outcome(lambda: optimizer.step(3)), outcome(lambda: optimizer.step(failing)), torch.is_grad_enabled()]
    return losses, seen, values(module)


@scenario
def rates_in_tensors(cls):
    found = []
    for rate in (torch.tensor(0.1), torch.tensor([0.1]), torch.tensor(0.1, dtype=torch.float64)):
        module = net()
        optimizer = cls(module.parameters(), lr=rate)
        for k in range(3):
            fill(module.parameters(), k)
            optimizer.step()
        rate.fill_(0.01)
        fill(module.parameters(), 9)
        optimizer.step()
        twin = cls(net().parameters(), lr=0.3)
        twin.load_state_dict(optimizer.state_dict())
        rates = [optimizer.param_groups[0]["lr"] is rate, copy.deepcopy(optimizer).param_groups[0]["lr"]]
        found.append([values(module), *rates, twin.param_groups[0]["lr"]])
    return found


@scenario
def without_gradients(cls):
    module = net()
    before = values(module)
    optimizer = cls(module.parameters(), lr=0.1, weight_decay=0.1)
    optimizer.step()
    return len(optimizer.state), [torch.equal(*pair) for pair in zip(before, values(module), strict=True)]


@scenario
def gradients_of_zero(cls):
    module = net()
    before = values(module)
    optimizer = cls(module.parameters(), lr=0.1, weight_decay=0.0)
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    state = sorted(optimizer.state[module[0].weight])
    return state, [torch.equal(*pair) for pair in zip(before, values(module), strict=True)]


@scenario
def checkpoints_that_fit(cls):
    """A copy, in the parameter's dtype; step counts may be numbers; the state survives torch.load."""
    module = net()
    optimizer = cls(module.parameters(), lr=torch.tensor(0.1))
    fill(module.parameters())
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        if "step" in state:
            state["step"] = state["step"].item()
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    wide = net().double()
    twin = cls(wide.parameters(), lr=0.3)
    twin.load_state_dict(torch.load(file, weights_only=True))
    dtypes = {name: (type(v), getattr(v, "dtype", None)) for name, v in twin.state[wide[0].weight].items()}
    fill(wide.parameters(), 2)
    twin.step()
    return dtypes, values(wide), twin.param_groups[0]["lr"], optimizer.param_groups[0]["lr"]


@scenario
def checkpoints_that_do_not_fit(cls):
    module = net()
    optimizer = cls(module.parameters(), lr=0.1)
    fill(module.parameters())
    optimizer.step()
    saved = optimizer.state_dict()
    group = saved["param_groups"][0]
    return [
        outcome(lambda given=given: optimizer.load_state_dict(given))[0]
        for given in (
            {},
            {"state": {}},
            {"param_groups": []},
            None,
            {**saved, "param_groups": []},
            {**saved, "param_groups": [group] * 2},
            {**saved, "param_groups": [{**group, "params": [0]}]},
            {**saved, "state": {}},
            {**saved, "extra": 1},
        )
    ]


@scenario
def what_it_is(cls):
    optimizer = cls(net().parameters(), lr=0.1)
    return [
        type(optimizer.state).__name__,
        type(optimizer.param_groups).__name__,
        type(optimizer.defaults).__name__,
        isinstance(optimizer, torch.optim.Optimizer),
        optimizer.step.__name__,
        cls.__name__,
        optimizer.defaults["lr"],
        [group for group in optimizer.param_groups[0] if group in ("params", "lr")],
    ]
