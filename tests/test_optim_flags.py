"""What clients look at: torch's classes, the flags of its implementations, and who unscales gradients."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

import onepass
from optim_setup import RULES, give_gradients, make, snapshot, train
from tolerance import FLOAT32_STEPS

CLASSES = ["SGD", "Adam", "AdamW"]
HINTS = [
    {"foreach": True},
    {"foreach": False},
    {"fused": False},
    {"fused": True},
    {"foreach": False, "fused": False},
    {"foreach": True, "fused": False},
]
each_class = pytest.mark.parametrize("rule", CLASSES)
each_hint = pytest.mark.parametrize("hints", HINTS, ids=str)


def flags(optimizer):
    return [{name: group[name] for name in ("foreach", "fused")} for group in optimizer.param_groups]


@each_class
def test_ours_are_torchs(rule):
    ours = getattr(onepass.optim, rule)
    _, optimizer = make(onepass.optim, rule, {})
    for other in CLASSES:
        theirs = getattr(torch.optim, other)
        assert isinstance(optimizer, theirs) == issubclass(getattr(torch.optim, rule), theirs)
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert type(copied) is ours
        assert isinstance(copied, getattr(torch.optim, rule))


@each_class
def test_torchs_class_of_the_same_name_is_not_run(rule, monkeypatch):
    """Its constructor, step and __setstate__ would take our options, and states of ours for its own."""
    theirs = getattr(torch.optim, rule)
    for name in ("__init__", "step", "__setstate__", "_init_group"):
        monkeypatch.setattr(theirs, name, lambda *_, name=name, **__: pytest.fail(name))
    params, optimizer = make(onepass.optim, rule, {})
    train(params, optimizer, range(2))
    optimizer.load_state_dict(optimizer.state_dict())
    train(params, copy.deepcopy(optimizer), range(1))
    # An average alone, no step taken: torch's Adam would ask for the count.
    _, fresh = make(onepass.optim, rule, {})
    fresh.import_ema([p.detach() for p in params[:1]], fresh.param_groups[0]["params"][:1])
    fresh.load_state_dict(fresh.state_dict())


@each_hint
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_hints_change_nothing_but_themselves(rule, options, hints, backend):
    (params, optimizer), (twins, other) = (
        make(onepass.optim, rule, {**options, **given}, backend.device) for given in (hints, {})
    )
    train(params, optimizer, range(3))
    train(twins, other, range(3))
    mine, plain = snapshot(optimizer), snapshot(other)
    assert (mine[1], mine[3]) == (plain[1], plain[3])
    wanted = {"foreach": None, "fused": None, **hints}
    assert flags(optimizer) == [wanted] * 2
    assert {name: optimizer.defaults[name] for name in wanted} == wanted


@each_hint
@each_class
def test_hints_are_kept_as_torch_keeps_them(rule, hints):
    """In groups, checkpoints both ways, copies and groups added later; torch's loading takes the checkpoint's."""
    found = []
    for package in (onepass.optim, torch.optim):
        params = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
        optimizer = getattr(package, rule)(params[:1], lr=0.1, **hints)
        optimizer.add_param_group({"params": params[1:2]})
        optimizer.add_param_group({"params": params[2:], "foreach": False, "fused": None})
        plain = getattr(package, rule)([{"params": [p]} for p in params], lr=0.1)
        plain.load_state_dict(optimizer.state_dict())
        saved = io.BytesIO()
        torch.save(optimizer.state_dict(), saved)
        saved.seek(0)
        groups = torch.load(saved)["param_groups"]
        found.append([flags(o) for o in (optimizer, plain, copy.deepcopy(optimizer))])
        found[-1].append([(g["foreach"], g["fused"]) for g in groups])
        for group in plain.param_groups:
            group.update(foreach=None, fused=False)
        found[-1].append(flags(plain))
    assert found[0] == found[1]


@pytest.mark.parametrize("flag", ["foreach", "differentiable"])
@each_class
def test_contradictions(rule, flag):
    """RuntimeError as in torch, from its constructor; ours say so of a group and a checkpoint, too."""
    given = {"fused": True, flag: True}
    params = [torch.nn.Parameter(torch.ones(2))]
    with pytest.raises(RuntimeError):
        getattr(torch.optim, rule)(params, lr=0.1, **given)
    _, optimizer = make(onepass.optim, rule, {})
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][1].update(given)
    before = snapshot(optimizer)
    for way in (
        lambda: make(onepass.optim, rule, given),
        lambda: optimizer.add_param_group({"params": params, **given}),
        lambda: optimizer.load_state_dict(saved),
    ):
        with pytest.raises(RuntimeError, match=rf"^{rule}: fused and {flag} must not both be True"):
            way()
        assert snapshot(optimizer) == before


@each_hint
@each_class
def test_who_unscales(rule, hints):
    """`_step_supports_amp_scaling` is there where torch has it: an object made with fused=True."""
    _, ours = make(onepass.optim, rule, hints)
    theirs = getattr(torch.optim, rule)([torch.ones(2, requires_grad=True)], lr=0.1, **hints)
    name = "_step_supports_amp_scaling"
    assert hasattr(ours, name) == hasattr(theirs, name) == bool(hints.get("fused"))
    assert getattr(ours, name, None) is getattr(theirs, name, None)
    assert not hasattr(type(ours), name)
    # torch's copies forget it; then GradScaler unscales, and their fused step sees no scale. Ours know.
    for copied in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert hasattr(copied, name) == hasattr(ours, name)
    # A checkpoint, or a group set by hand, says nothing of who unscales.
    _, fused = make(onepass.optim, rule, {"fused": True})
    _, plain = make(onepass.optim, rule, {})
    saved = [copy.deepcopy(one.state_dict()) for one in (plain, fused)]
    fused.load_state_dict(saved[0])
    plain.load_state_dict(saved[1])
    for group in plain.param_groups:
        group["fused"] = True
    assert hasattr(fused, name)
    assert not hasattr(plain, name)


@pytest.mark.parametrize("unscaled", [False, True], ids=["step", "unscale_"])
@pytest.mark.parametrize("fused", [None, True])
@each_class
def test_grad_scaler_by_either_way(rule, fused, unscaled):
    """The same parameters, scales and dropped steps as with torch's class in the same program."""
    runs = []
    for package in (onepass.optim, torch.optim):
        params = [torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(2, 3))]
        optimizer = getattr(package, rule)(params, lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
        calls = []
        optimizer.register_step_post_hook(lambda *_, calls=calls: calls.append(1))
        scales = []
        for step in range(6):
            scaler.scale(torch.ones(()))
            give_gradients(params, step)
            for param in params:
                param.grad *= scaler.get_scale()
            if step in (0, 3):
                params[1].grad[1, 1] = float("inf")
            if unscaled:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(params, 1.0)
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        runs.append((params, scales, len(calls)))
        assert not hasattr(optimizer, "found_inf")
        if package is onepass.optim:
            assert optimizer.skipped_steps == (2 if fused else 0)
    for mine, theirs in zip(runs[0][0], runs[1][0], strict=True):
        torch.testing.assert_close(mine, theirs, **FLOAT32_STEPS)
    assert runs[0][1:] == runs[1][1:]


@pytest.mark.parametrize("fault", [{"grad_scale": 0.0}, {"found_inf": "x"}], ids=str)
@each_class
def test_errors_bear_the_name_of_the_class(rule, fault):
    """The core knows AdamW's update as Adam's, and a user's class not at all."""
    derived = type("Mine", (getattr(onepass.optim, rule),), {})
    for one in (getattr(onepass.optim, rule), derived):
        param = torch.nn.Parameter(torch.ones(2))
        optimizer = one([param], lr=0.1)
        give_gradients([param], 0)
        optimizer.step()
        vars(optimizer).update(fault)
        with pytest.raises((ValueError, TypeError), match=rf"^{one.__name__.lower()}: {next(iter(fault))} must "):
            optimizer.step()
