"""Checkpoints and groups that are not put together as they should be: named, and nothing changed."""

from __future__ import annotations

import copy

import pytest
import torch

import onepass
from optim_setup import RULES, make, put, snapshot, train


def of_betas(value):
    return lambda saved: saved["param_groups"][1].update(betas=value)


def without(key):
    return lambda saved: saved["param_groups"][1].pop(key)


GROUP = r"state_dict\['param_groups'\]\[1\]"
STATE = r"state_dict\['state'\]"
# Name: what is done to a checkpoint, the error and what it says.
SPOILS = {
    "no-state": (lambda saved: saved.pop("state"), ValueError, r"state_dict must hold 'state', got \['param_"),
    "no-groups": (
        lambda saved: saved.pop("param_groups"),
        ValueError,
        r"state_dict must hold 'param_groups', got",
    ),
    "state-none": (lambda saved: saved.update(state=None), TypeError, STATE + " must be a dict, got NoneType"),
    "state-list": (lambda saved: saved.update(state=[1]), TypeError, STATE + " must be a dict, got list"),
    "groups-none": (
        lambda saved: saved.update(param_groups=None),
        TypeError,
        r"state_dict\['param_groups'\] must be a list, got NoneType",
    ),
    "group-none": (
        lambda saved: put(saved["param_groups"], 1, None),
        TypeError,
        GROUP + " must be a dict, got None",
    ),
    "params-none": (
        lambda saved: saved["param_groups"][1].update(params=None),
        TypeError,
        GROUP + r"\['params'\] must be a list, got NoneType",
    ),
    "own-none": (
        lambda saved: saved["state"].update({2: None}),
        TypeError,
        STATE + r"\[2\] must be a dict, got NoneType",
    ),
    "step-none": (
        lambda saved: saved["state"].update({2: {"step": None}}),
        TypeError,
        STATE + r"\[2\]\['step'\] must be a number or a one-element tensor, got None",
    ),
    "without-params": (without("params"), ValueError, GROUP + r" must hold 'params', got \['lr', "),
    **{
        f"without-{key}": (without(key), ValueError, rf"{GROUP} must hold '{key}', got \[")
        for key in ("lr", "weight_decay")
    },
}
SGD_SPOILS = {
    f"without-{key}": (without(key), ValueError, rf"{GROUP} must hold '{key}', got \[")
    for key in ("momentum", "dampening")
}
BETAS_SPOILS = {
    "without-betas": (without("betas"), ValueError, GROUP + r" must hold 'betas', got \['lr', "),
    "betas-number": (of_betas(0.9), TypeError, "betas must be two numbers, got 0.9"),
    "betas-scalar": (of_betas(torch.tensor(0.9)), TypeError, r"betas must be two numbers, got tensor\(0.9"),
}
ADAM_SPOILS = {
    "without-eps": (without("eps"), ValueError, GROUP + r" must hold 'eps', got \["),
    "apex-step": (
        lambda saved: saved["param_groups"][1].update(step="3"),
        TypeError,
        "step must be a number or a one-element tensor, got '3'",
    ),
}
TABLES = (
    (SPOILS, RULES[1:]),
    (SGD_SPOILS, RULES[1:2]),
    (BETAS_SPOILS, RULES[2:]),
    (ADAM_SPOILS, RULES[2:4]),
)
LOADS = [
    pytest.param(*rule.values, *table[name], id=f"{rule.id}-{name}")
    for table, rules in TABLES
    for rule in rules
    for name in table
]


@pytest.mark.parametrize(("rule", "options", "spoil", "error", "message"), LOADS)
def test_spoilt_checkpoints(rule, options, spoil, error, message):
    """Refused; then the next step is that of a twin that never saw one."""
    (params, optimizer), (twins, other) = (make(onepass.optim, rule, options) for _ in "ab")
    train(params, optimizer, range(2))
    train(twins, other, range(2))
    saved = copy.deepcopy(optimizer.state_dict())
    for own in saved["state"].values():
        own.update({name: value * 2 for name, value in own.items()})
    spoil(saved)
    before = snapshot(optimizer)
    with pytest.raises(error, match=rf"^{rule}: {message}"):
        optimizer.load_state_dict(saved)
    assert snapshot(optimizer) == before
    train(params, optimizer, [2])
    train(twins, other, [2])
    assert snapshot(optimizer)[1] == snapshot(other)[1]


@pytest.mark.parametrize("saved", [None, [], 3], ids=str)
def test_no_checkpoint(saved):
    _, optimizer = make(onepass.optim, "SGD", {})
    with pytest.raises(TypeError, match=r"^SGD: state_dict must be a dict, got (NoneType|list|int)$"):
        optimizer.load_state_dict(saved)


def test_what_a_hook_makes_of_a_checkpoint_is_checked():
    params, optimizer = make(onepass.optim, "Adam", {})
    train(params, optimizer, range(2))
    before = snapshot(optimizer)
    optimizer.register_load_state_dict_pre_hook(lambda _, saved: {**saved, "state": None})
    with pytest.raises(TypeError, match=rf"^Adam: {STATE} must be a dict, got NoneType$"):
        optimizer.load_state_dict(optimizer.state_dict())
    assert snapshot(optimizer) == before


@pytest.mark.parametrize(
    ("group", "error", "message"),
    [
        (None, TypeError, "must be a dict, got NoneType"),
        ({"lr": 0.1}, ValueError, r"must hold 'params', got \['lr'\]"),
    ],
    ids=str,
)
def test_no_group(group, error, message):
    _, optimizer = make(onepass.optim, "SGD", {})
    before = snapshot(optimizer)
    with pytest.raises(error, match=f"^SGD: param_group {message}$"):
        optimizer.add_param_group(group)
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("indices", [[1, 1], [1, True]])
def test_a_parameter_that_stands_twice_is_refused(rule, indices):
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    for param in params:
        param.grad = torch.ones(2)
    optimizer = getattr(onepass.optim, rule)(params, lr=0.1)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    saved = copy.deepcopy(before)
    saved["param_groups"][0].update(params=indices, lr=0.5)
    with pytest.raises(
        ValueError, match=rf"{rule}: state_dict\['param_groups'\]\[0\]\['params'\] must hold each parameter"
    ):
        optimizer.load_state_dict(saved)
    assert str(optimizer.state_dict()) == str(before)


def test_the_users_hook_has_the_last_word():
    """The hook sees states in the dtype that they keep, and what it writes stays."""
    param = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    param.grad = torch.ones_like(param)
    optimizer = onepass.optim.Adam([param], lr=0.1, state_dtype=torch.float32)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    seen = []

    def hook(loaded):
        seen.append(loaded.state[param]["exp_avg"].dtype)
        loaded.state[param]["exp_avg"].zero_()

    optimizer.register_load_state_dict_post_hook(hook)
    optimizer.load_state_dict(saved)
    assert seen == [torch.float32]
    assert not optimizer.state[param]["exp_avg"].any()


@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_a_step_count_has_one_element(rule):
    param = torch.nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    optimizer = getattr(onepass.optim, rule)([param], lr=0.1)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["step"] = torch.ones(3)
    with pytest.raises(ValueError, match=rf"{rule}: state_dict\['state'\]\[0\]\['step'\] must have one element"):
        optimizer.load_state_dict(saved)
    assert optimizer.state[param]["step"].item() == 1


@pytest.mark.parametrize("name", ["step", "exp_avg", "ema"])
def test_a_state_without_values_is_refused(name):
    param = torch.nn.Parameter(torch.ones(3))
    param.grad = torch.ones(3)
    optimizer = onepass.optim.AdamW([param], ema_decay=0.9)
    optimizer.step()
    before, saved = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    saved["state"][0][name] = saved["state"][0][name].to("meta")
    message = rf"^AdamW: state_dict\['state'\]\[0\]\['{name}'\] must have values, got a meta tensor"
    with pytest.raises(TypeError, match=message):
        optimizer.load_state_dict(saved)
    assert all(torch.equal(value, before["state"][0][key]) for key, value in optimizer.state[param].items())
