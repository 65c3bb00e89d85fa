"""torch's own database of optimizers, which its tests run on, against ours; and what else torch promises."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import onepass.optim
from optim_scenarios import outcome, same
from optim_scenarios_groups import SCENARIOS

pytest.importorskip("expecttest", reason="torch's testing package needs it")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_optimizers import (
        _get_optim_inputs_including_global_cliquey_kwargs as inputs_of,
    )
    from torch.testing._internal.common_optimizers import optim_db

RULES = ("SGD", "Adam", "AdamW")
INFOS = {info.optim_cls.__name__: info for info in optim_db if info.optim_cls.__name__ in RULES}
rules = pytest.mark.parametrize("rule", RULES)
# How torch walks the tensors, which gives no other numbers; and what is for parameters that are no leaves.
HINTS = ("foreach", "fused", "differentiable")


def test_the_database_holds_what_is_expected():
    """If torch renames an entry, it is not silently left out."""
    assert sorted(INFOS) == sorted(RULES)
    for rule, info in INFOS.items():
        assert issubclass(info.optim_cls, getattr(torch.optim, rule))
        assert len(list(inputs_of("cpu", torch.float32, info))) > 5


def parameters(dtype=torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator).to(dtype)) for s in ((3, 4), (5,), (2, 3, 2), ())]


def steps(optimizer, first, count) -> list[torch.Tensor]:
    """The parameters after some steps with drawn gradients, of which one is missing at times."""
    owned = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(step)
        for k, p in enumerate(owned):
            grad = torch.randn(p.shape, generator=generator).to(p.dtype)
            p.grad = None if (step + k) % 5 == 4 else grad
        optimizer.step()
    return [p.detach().clone() for p in owned]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@rules
def test_inputs(rule, dtype):
    """The numbers of torch's plain loop with each set of options; and its checkpoint goes on in ours, and back."""
    info = INFOS[rule]
    ours = getattr(onepass.optim, rule)
    for given in inputs_of("cpu", dtype, info):
        plain = {k: v for k, v in given.kwargs.items() if k not in HINTS}
        # A step of leaves cannot be differentiated: neither class can.
        options = {k: v for k, v in given.kwargs.items() if k != "differentiable"}
        theirs = info.optim_cls(parameters(dtype), **copy.deepcopy(plain), foreach=False)
        mine = ours(parameters(dtype), **copy.deepcopy(options))
        same(steps(mine, 0, 6), steps(theirs, 0, 6), given.desc)
        saved = [copy.deepcopy(theirs.state_dict()), copy.deepcopy(mine.state_dict())]
        mine.load_state_dict(saved[0])
        theirs.load_state_dict(saved[1])
        same(steps(mine, 6, 6), steps(theirs, 6, 6), given.desc)


# torch refuses what its own lists cannot do, and pairs of unlike kinds; ours takes both (docs/differences.md).
TAKEN = ("foreach", "both floats or both Tensors")


@rules
def test_refusals(rule):
    """What torch refuses at construction ours refuses, with an error or warning of the same kind."""
    info = INFOS[rule]
    for case in info.optim_error_inputs_func("cpu", torch.float32):
        given = case.optimizer_error_input
        if any(word in case.error_regex for word in TAKEN):
            continue
        made = [
            outcome(lambda cls=cls, g=given: cls(g.params or parameters(), **g.kwargs) and None)
            for cls in (info.optim_cls, getattr(onepass.optim, rule))
        ]
        assert made[0] == made[1], given.desc
        assert made[0] != ("returns", None, []), given.desc


@rules
def test_schedulers(rule):
    """torch's schedulers of the database, alone and together, move the rates of ours as those of its own."""
    info = INFOS[rule]
    assert info.scheduler_inputs
    for makers in info.scheduler_inputs:
        found = []
        for cls in (info.optim_cls, getattr(onepass.optim, rule)):
            owned = parameters()
            optimizer = cls([{"params": owned[:2]}, {"params": owned[2:], "lr": 0.02}], lr=0.01)
            schedulers = [make(optimizer) for make in makers]
            rates = []
            for step in range(20):
                steps(optimizer, step, 1)
                for scheduler in schedulers:
                    # A plateau is told a loss.
                    scheduler.step(*[1.0] * isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau))
                rates.append([group["lr"] for group in optimizer.param_groups])
            found.append((rates, [p.detach() for p in owned]))
        same(found[1], found[0])


@rules
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenarios(rule, name):
    """Hooks, checkpoints, names, groups, copies: what torch's class does ours does, and gives the same back."""
    scenario = SCENARIOS[name]
    same(scenario(getattr(onepass.optim, rule)), scenario(getattr(torch.optim, rule)), name)
