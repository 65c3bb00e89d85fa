"""Checkpoints of others: apex's FusedAdam, and torch.distributed.checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import onepass.optim
from conftest import Backend
from optim_setup import states
from tail_setup import flat, params_of, same_states, set_grads

CPU = Backend("cpu", torch.device("cpu"))


def trained(rule: str, **options) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    params = params_of(CPU)
    optimizer = getattr(onepass.optim, rule)(params, lr=0.01, **options)
    for step in range(3):
        set_grads(params, step)
        optimizer.step()
    return params, optimizer


def apexs_layout(optimizer: torch.optim.Optimizer) -> dict:
    """Saves as FusedAdam does: only its own group keys, step an int in the group, two tensors a parameter."""
    saved = copy.deepcopy(optimizer.state_dict())
    keys = ("params", "lr", "betas", "eps", "weight_decay")
    for group in saved["param_groups"]:
        for name in set(group) - set(keys):
            del group[name]
        group.update(bias_correction=True, step=3)
    for own in saved["state"].values():
        del own["step"]
    return saved


@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_apexs_checkpoints_are_taken_and_given(rule):
    params, optimizer = trained(rule, weight_decay=0.1)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = getattr(onepass.optim, rule)(others)
    saved = apexs_layout(optimizer)
    resumed.load_state_dict(saved)
    assert all(resumed.state[p]["step"].item() == 3 for p in others)
    assert all("step" not in group and "bias_correction" not in group for group in resumed.param_groups)
    for step in (3, 4):
        set_grads(params, step)
        set_grads(others, step)
        optimizer.step()
        resumed.step()
    assert torch.equal(flat(params), flat(others))
    given = onepass.optim.to_apex(resumed.state_dict())
    assert [group["step"] for group in given["param_groups"]] == [5]
    assert all(own.keys() == {"exp_avg", "exp_avg_sq"} for own in given["state"].values())
    again = getattr(onepass.optim, rule)([torch.nn.Parameter(p.detach().clone()) for p in params])
    again.load_state_dict(given)
    assert same_states(states(again.param_groups[0]["params"], again), states(params, optimizer))


def test_what_apex_does_not_know_raises():
    _, optimizer = trained("AdamW", amsgrad=True)
    with pytest.raises(ValueError, match=r"to_apex: amsgrad must be False in param_groups\[0\], got True"):
        onepass.optim.to_apex(optimizer.state_dict())
    params, optimizer = trained("AdamW")
    optimizer.state[params[0]]["step"] += 1
    with pytest.raises(ValueError, match=r"must have taken the same number of steps, got \[3, 4\]"):
        onepass.optim.to_apex(optimizer.state_dict())


@pytest.mark.parametrize("rule", ["SGD", "Lion"])
def test_other_rules_checkpoints_raise(rule):
    _, optimizer = trained(rule)
    with pytest.raises(ValueError, match=r"to_apex: state_dict must be one of Adam or AdamW, got options \["):
        onepass.optim.to_apex(optimizer.state_dict())


def test_apexs_steps_without_bias_correction_raise():
    params, optimizer = trained("AdamW")
    saved = apexs_layout(optimizer)
    saved["param_groups"][0]["bias_correction"] = False
    before = states(params, optimizer)
    with pytest.raises(ValueError, match="AdamW: bias_correction must be True"):
        optimizer.load_state_dict(saved)
    assert same_states(states(params, optimizer), before)


PRECISIONS = {
    "float32": {},
    "stochastic": {"rounding": "stochastic"},
    "kahan": {"rounding": "kahan", "state_dtype": torch.float32},
    "master": {"master_weights": True},
}


@pytest.mark.parametrize("flatten", [False, True], ids=["nested", "flat"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW"])
def test_distributed_checkpoint_round_trip(kind, precision, flatten):
    """The seed of stochastic rounding comes with it; the resumed optimizer would draw another."""
    options = {"momentum": 0.9} if kind == "SGD" else {}
    options |= PRECISIONS[precision]
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    how = StateDictOptions(flatten_optimizer_state_dict=flatten)

    def build(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).to(dtype)
        return model, getattr(onepass.optim, kind)(model.parameters(), lr=0.1, ema_decay=0.9, **options)

    def step(model, optimizer, seed) -> None:
        generator = torch.Generator().manual_seed(seed)
        model(torch.randn(5, 3, generator=generator).to(dtype)).square().sum().backward()
        optimizer.step(zero_grad=True)

    model, optimizer = build(0)
    for seed in range(3):
        step(model, optimizer, seed)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=how))
    other, resumed = build(1)
    other.load_state_dict(model.state_dict())
    set_optimizer_state_dict(other, resumed, saved, options=how)
    for seed in (3, 4):
        step(model, optimizer, seed)
        step(other, resumed, seed)
    assert torch.equal(flat(model.parameters()), flat(other.parameters()))
    assert same_states(states(list(model.parameters()), optimizer), states(list(other.parameters()), resumed))
