"""Checkpoints that lack what this optimizer keeps: options take its own value, averages begin; some is told."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

import onepass.optim
from tail_setup import flat
from test_distributed_checkpoint import FLAT, RULES, assert_same_runs, bits, build, each_form, load, save, train

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
# What a checkpoint lacks, the optimizer that it is loaded into, and what is told.
TOLD = {
    "nesterov": ("nesterov", {}, "nesterov (this optimizer's True is kept)"),
    "maximize": ("dampening", {}, "maximize (this optimizer's True is kept)"),
    "amsgrad": ("amsgrad", {}, "amsgrad (this optimizer's True is kept)"),
    "decoupled_weight_decay": (
        "adam",
        {"decoupled_weight_decay": True},
        "decoupled_weight_decay (this optimizer's True is kept)",
    ),
}
SILENT = {
    "nesterov": ("momentum", {}),
    "maximize": ("adamw", {}),
    "amsgrad": ("adam", {}),
    "decoupled_weight_decay": ("adamw", {}),
    "capturable": ("adam", {}),
    "foreach": ("adam", {}),
    "fused": ("momentum", {}),
    "differentiable": ("sgd", {}),
}


def loaded_without(key: str, rule: str, more: dict[str, object]):
    """Two runs of one kind; the checkpoint of the one, without an option, was loaded into the other."""
    run, resumed = (build(rule, **more) for _ in "ab")
    train(run, 0, 1)
    saved = copy.deepcopy(run[1].state_dict())
    for group in saved["param_groups"]:
        del group[key]
    resumed[0].load_state_dict(run[0].state_dict())
    resumed[1].load_state_dict(saved)
    return run, resumed


@pytest.mark.parametrize("key", TOLD)
def test_an_option_that_could_have_been_another_is_told(key):
    rule, more, message = TOLD[key]
    with pytest.warns(UserWarning, match="state_dict lacks") as told:
        run, resumed = loaded_without(key, rule, more)
    name = type(run[1]).__name__
    assert [str(one.message) for one in told] == [f"{name}: state_dict lacks {message}"]
    assert told[0].filename == __file__
    train(run, 2, 3)
    train(resumed, 2, 3)
    assert_same_runs(run, resumed)


@pytest.mark.parametrize("key", SILENT)
def test_an_option_that_is_the_default_or_a_hint_is_not(key):
    run, resumed = loaded_without(key, *SILENT[key])
    train(run, 2, 3)
    train(resumed, 2, 3)
    assert_same_runs(run, resumed)


def test_each_group_keeps_its_own():
    param, other = (torch.nn.Parameter(torch.ones(3)) for _ in "ab")
    optimizer = onepass.optim.SGD(
        [{"params": [param], "maximize": True}, {"params": [other]}], lr=0.1, momentum=0.9, capturable=True
    )
    saved = torch.optim.SGD([{"params": [param]}, {"params": [other]}], lr=0.2, momentum=0.8).state_dict()
    for group in saved["param_groups"]:
        del group["maximize"]
    with pytest.warns(UserWarning, match=r"^SGD: state_dict lacks maximize \(this optimizer's True is kept\)$"):
        optimizer.load_state_dict(saved)
    assert [group["maximize"] for group in optimizer.param_groups] == [True, False]
    assert [group["capturable"] for group in optimizer.param_groups] == [True, True]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.8, 0.8]


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "sgd"])
@pytest.mark.parametrize("way", ["load", "nested", "flat", "partial"])
def test_averages_begin_where_a_checkpoint_has_none(way, rule, tmp_path):
    """torch.distributed may have put placeholders of other weights, or an empty dict, in their place."""
    run = build(rule)
    train(run, 0, 1)
    resumed, twin = (build(rule, tail="-tail", seed=1) for _ in "ab")
    if way == "partial":
        save(run, FLAT["nested"], tmp_path)
        planner = dcp.DefaultLoadPlanner(allow_partial_load=True)
        with pytest.warns(UserWarning, match="state_dict lacks") as told:
            load(resumed, FLAT["nested"], tmp_path, planner)
    else:
        resumed[0].load_state_dict(run[0].state_dict())
        saved = run[1].state_dict() if way == "load" else get_optimizer_state_dict(*run, options=FLAT[way])
        into = resumed[1].load_state_dict
        if way != "load":
            into = partial(set_optimizer_state_dict, *resumed, options=FLAT[way])
        with pytest.warns(UserWarning, match="state_dict lacks") as told:
            into(saved)
    message = "state_dict lacks ema of 4 parameters (their averages begin with the next step)"
    assert [str(one.message) for one in told if "lacks" in str(one.message)] == [
        f"{type(run[1]).__name__}: {message}"
    ]
    # The same by hand.
    twin[0].load_state_dict(run[0].state_dict())
    for param, own in zip(twin[0].parameters(), run[1].state.values(), strict=True):
        twin[1].state[param] = {name: value.clone() for name, value in own.items()}
    for one in (resumed, twin):
        train(one, 2, 3)
    assert_same_runs(resumed, twin)


def test_dcp_itself_says_that_averages_are_missing(tmp_path):
    run = build("adamw")
    train(run, 0)
    save(run, FLAT["nested"], tmp_path)
    with pytest.raises(CheckpointException, match="ema"):
        load(build("adamw", tail="-tail"), FLAT["nested"], tmp_path)


def test_a_checkpoint_without_states_lacks_nothing():
    """It may be of the time before the first step."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = build("adamw", tail="-tail")
        run[1].load_state_dict(build("adamw")[1].state_dict())
    twin = build("adamw", tail="-tail")
    train(run, 0)
    train(twin, 0)
    assert_same_runs(run, twin)


def test_a_rejected_checkpoint_tells_nothing():
    run = build("adamw", tail="-tail")
    train(run, 0)
    saved = copy.deepcopy(run[1].state_dict())
    for own in saved["state"].values():
        del own["ema"]
    saved["param_groups"][0]["lr"] = -1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="AdamW: lr must be finite and at least 0"):
            run[1].load_state_dict(saved)
    assert all("ema" in own for own in run[1].state.values())


@each_form
@pytest.mark.parametrize("rule", [rule for rule, (kind, _) in RULES.items() if hasattr(torch.optim, kind)])
@pytest.mark.parametrize("to", ["torch", "onepass"])
def test_torchs_checkpoints_both_ways(to, rule, form, tmp_path):
    """Its SGD has no option capturable, and flattened checkpoints are read key by key."""
    source, target = (onepass.optim, torch.optim) if to == "torch" else (torch.optim, onepass.optim)
    run, resumed = build(rule, package=source), build(rule, package=target, seed=1)
    train(run, 0, 1)
    save(run, FLAT[form], tmp_path)
    load(resumed, FLAT[form], tmp_path)
    assert torch.equal(flat(run[0].parameters()), flat(resumed[0].parameters()))
    for param, other in zip(run[0].parameters(), resumed[0].parameters(), strict=True):
        own, others = run[1].state.get(param, {}), resumed[1].state.get(other, {})
        own = {name: value for name, value in own.items() if value is not None}
        assert {name: bits(value) for name, value in own.items()} == {n: bits(v) for n, v in others.items()}
    train(resumed, 2)
