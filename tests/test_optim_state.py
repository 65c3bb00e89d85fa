"""What lives longer than a step: states, checkpoints, groups, hooks and schedulers, exchanged with torch's."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch.optim import lr_scheduler

import onepass
from optim_setup import PLAIN, RULES, optimizer_of, random_params, snapshot, states, torchs, train
from tolerance import assert_parity

FLAGS = {"foreach", "fused", "differentiable"}
STATEFUL = RULES[1:]
HALVES = [pytest.param(torch.bfloat16, id="bfloat16"), pytest.param(torch.float16, id="float16")]
ALL_DTYPES = [pytest.param(torch.float32, id="float32"), pytest.param(torch.float64, id="float64"), *HALVES]
SHAPES = ((), (37,), (3, 21))


def one_group(package, rule, options, dtype=torch.float32, device="cpu"):
    params = random_params(SHAPES, dtype, device)
    return params, optimizer_of(package, rule, params, options)


def assert_same_bits(first, second):
    (params, optimizer), (others, other) = first, second
    for one, two in zip(params, others, strict=True):
        assert torch.equal(one, two)
    assert_same_states(states(params, optimizer), states(others, other))


def assert_same_states(first, second):
    for mine, theirs in zip(first, second, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert value.dtype == theirs[name].dtype, name
            assert torch.equal(value, theirs[name]), name


def joined(params):
    return torch.cat([param.detach().flatten() for param in params])


@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_states_are_torchs(rule, options, dtype, backend):
    mine, theirs = (
        one_group(package, rule, options, dtype, backend.device) for package in (onepass.optim, torchs)
    )
    # A layout that is not the default one must be the states' as well.
    for params, optimizer in (mine, theirs):
        params.append(torch.nn.Parameter(torch.ones(2, 3, 4, 5).to(backend.device, dtype)))
        params[-1].data = params[-1].data.to(memory_format=torch.channels_last)
        optimizer.add_param_group({"params": params[-1:], "lr": 0.01})
        train(params, optimizer, range(2))
    for own, other in zip(states(*mine), states(*theirs), strict=True):
        assert own.keys() == other.keys()
        for name, value in own.items():
            for aspect in ("shape", "dtype", "device"):
                assert getattr(value, aspect) == getattr(other[name], aspect), (name, aspect)
            assert value.requires_grad == other[name].requires_grad
    # torch's SGD takes the gradient's layout for its buffer; ours is the parameter's, which needs no copies.
    for name, value in states(*mine)[-1].items():
        assert name == "step" or value.stride() == mine[0][-1].stride(), name
    assert mine[1].state_dict().keys() == theirs[1].state_dict().keys()
    for group, other in zip(
        mine[1].state_dict()["param_groups"], theirs[1].state_dict()["param_groups"], strict=True
    ):
        own, others = ({n: v for n, v in g.items() if n not in FLAGS} for g in (group, other))
        assert own == others
        assert group.keys() == other.keys()


@pytest.mark.parametrize("to", ["torch", "onepass"])
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_checkpoint_goes_both_ways_mid_training(rule, options, dtype, to, backend):
    """The switch itself must lose no bit: the loaded run goes on as one whose states were put there by hand."""
    source, target = (onepass.optim, torchs) if to == "torch" else (torchs, onepass.optim)
    params, optimizer = one_group(source, rule, options, dtype, backend.device)
    train(params, optimizer, range(5))
    loaded, by_hand = (one_group(target, rule, options, dtype, backend.device) for _ in "ab")
    loaded[1].load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for new, old, own in zip(by_hand[0], params, states(params, optimizer), strict=True):
        by_hand[1].state[new] = {name: value.clone() for name, value in own.items()}
        new.data.copy_(old.data)
    for new, old in zip(loaded[0], params, strict=True):
        new.data.copy_(old.data)
    assert_same_bits(loaded, (params, optimizer))
    if to == "torch":  # the flags are ours; torch's own choice by default is another implementation
        for group in loaded[1].param_groups:
            group.update(PLAIN)
    for run in (loaded, by_hand):
        train(*run, range(5, 10))
    assert_same_bits(loaded, by_hand)


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_switched_run_stays_near_torchs(rule, options, backend):
    loop = one_group(torchs, rule, options, device=backend.device)
    exact = one_group(torchs, rule, options, torch.float64)
    train(*loop, range(10))
    train(*exact, range(10))
    for first, second in ((onepass.optim, torchs), (torchs, onepass.optim)):
        params, optimizer = one_group(first, rule, options, device=backend.device)
        train(params, optimizer, range(5))
        _, other = one_group(second, rule, options, device=backend.device)
        other.param_groups[0]["params"] = params
        other.load_state_dict(optimizer.state_dict())
        train(params, other, range(5, 10))
        assert_parity(*map(joined, (params, loop[0], exact[0])), f"{first.__name__} then {second.__name__}")


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("rule", "options"), STATEFUL)
def test_float32_states_of_half_parameters_stay(rule, options, dtype, backend):
    """torch rounds them to the parameter's dtype when it loads (pytorch#43706)."""
    wide = one_group(onepass.optim, rule, options, torch.float32, backend.device)
    train(*wide, range(3))
    params, optimizer = one_group(onepass.optim, rule, options, dtype, backend.device)
    optimizer.load_state_dict(wide[1].state_dict())
    assert_same_states(states(params, optimizer), states(*wide))
    train(params, optimizer, range(3, 5))
    again = one_group(onepass.optim, rule, options, dtype, backend.device)
    again[1].load_state_dict(optimizer.state_dict())
    assert_same_states(states(*again), states(params, optimizer))
    assert all(v.dtype == torch.float32 for own in states(*again) for v in own.values())


def through_pickle(pair):
    return pickle.loads(pickle.dumps(pair))


def through_save(pair):
    buffer = io.BytesIO()
    torch.save(pair, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_save], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_copies_go_on_alone(rule, options, copied, backend):
    original = one_group(onepass.optim, rule, options, device=backend.device)
    train(*original, range(4))
    twin = copied(original)
    assert_same_bits(twin, original)
    before = snapshot(original[1])
    train(*twin, range(4, 7))
    assert snapshot(original[1]) == before
    train(*original, range(4, 7))
    assert_same_bits(twin, original)


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_state_dict_loads_with_weights_only(rule, options, backend):
    params, optimizer = one_group(onepass.optim, rule, {**options, "lr": torch.tensor(0.1)}, device=backend.device)
    train(params, optimizer, range(3))
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    twins, other = one_group(onepass.optim, rule, options, device=backend.device)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert_same_states(states(twins, other), states(params, optimizer))
    assert torch.equal(other.param_groups[0]["lr"], torch.tensor(0.1))


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_changing_sets_of_parameters(rule, options, backend):
    """None gradients, gradients that come later and groups that are added: each parameter goes its own way."""
    params, optimizer = one_group(onepass.optim, rule, options, device=backend.device)
    late = torch.nn.Parameter(torch.ones(19, device=backend.device))
    present = [{0, 1, 2}, {0}, set(), {1, 2}, {2, 3}, {0, 1, 2, 3}, {3}]
    everyone = [*params, late]
    twins = [torch.nn.Parameter(param.detach().clone()) for param in everyone]
    alone = [getattr(onepass.optim, rule)([twin], **options) for twin in twins[:3]]
    alone.append(getattr(onepass.optim, rule)(twins[3:], **{**options, "lr": 0.025}))
    for step, wanted in enumerate(present):
        if step == 4:
            optimizer.add_param_group({"params": [late], "lr": 0.025})
        optimizer.zero_grad(set_to_none=False)
        assert not any(param.grad.any() for param in everyone if param.grad is not None)
        optimizer.zero_grad()
        assert all(param.grad is None for group in optimizer.param_groups for param in group["params"])
        generator = torch.Generator().manual_seed(step)
        for i in wanted:
            everyone[i].grad = torch.randn(everyone[i].shape, generator=generator).to(backend.device)
            twins[i].grad = everyone[i].grad.clone()
        optimizer.step()
        for i in wanted:
            alone[i].step()
        for param, twin, own in zip(everyone, twins, alone, strict=True):
            assert_same_bits(([param], optimizer), ([twin], own))


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_hooks_and_closure(rule, options, backend):
    (_, param, _), optimizer = one_group(onepass.optim, rule, options, device=backend.device)
    calls = []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append(("pre", o is optimizer)))
    optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append(("post", o is optimizer)))
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("saving"))
    optimizer.register_state_dict_post_hook(lambda o, saved: {**saved, "mine": 1})
    optimizer.register_load_state_dict_pre_hook(lambda o, saved: calls.append(("loading", saved.pop("mine"))))
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("loaded"))
    before = param.detach().clone()

    def closure():
        assert torch.is_grad_enabled()
        calls.append("closure")
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert torch.equal(loss, before.square().sum())
    assert not torch.equal(param, before)
    assert optimizer.step() is None
    optimizer.load_state_dict(optimizer.state_dict())
    steps = [("pre", True), "closure", ("post", True), ("pre", True), ("post", True)]
    assert calls == [*steps, "saving", ("loading", 1), "loaded"]


def sequential(optimizer):
    warmup = lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)
    return lr_scheduler.SequentialLR(optimizer, [warmup, lr_scheduler.CosineAnnealingLR(optimizer, 20)], [5])


def chained(optimizer):
    parts = [lr_scheduler.ConstantLR(optimizer, 0.5, 4), lr_scheduler.ExponentialLR(optimizer, 0.95)]
    return lr_scheduler.ChainedScheduler(parts, optimizer)


SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 7, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [4, 9, 20], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 6),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=10),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 25, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 20, 1e-3),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 5, cycle_momentum="momentum" in o.defaults),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=40),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=2),
    "SequentialLR": sequential,
    "ChainedScheduler": chained,
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.01, 10),
}


def test_schedulers_are_all_there():
    known = set(lr_scheduler.__all__) - {"LRScheduler"}
    assert known <= SCHEDULERS.keys(), "torch has a new scheduler: add it to the list above"


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS.keys())
@pytest.mark.parametrize(("rule", "options"), STATEFUL)
def test_schedulers(rule, options, scheduler):
    runs = []
    for package, dtype in ((onepass.optim, None), (torchs, None), (torchs, torch.float64)):
        params, optimizer = one_group(package, rule, options, dtype or torch.float32)
        schedule, seen = scheduler(optimizer), []
        for step in range(30):
            train(params, optimizer, [step])
            seen.append([optimizer.param_groups[0].get(name) for name in ("lr", "momentum", "betas")])
            schedule.step(*[1.0] * isinstance(schedule, lr_scheduler.ReduceLROnPlateau))
        runs.append((joined(params), seen))
    (mine, seen), (theirs, othersseen), (exact, _) = runs
    assert seen == othersseen
    assert len({entry[0] for entry in seen}) > 1
    assert_parity(mine, theirs, exact)


@pytest.mark.parametrize(("rule", "options"), RULES)
def test_tensor_options(rule, options, backend):
    """The value of a tensor is read at each step, not baked in at the first."""
    lr = torch.tensor(0.25)
    tensors = {"lr": lr} | ({"betas": (torch.tensor(0.5), torch.tensor(0.75))} if rule != "SGD" else {})
    numbers = {"lr": 0.25} | ({"betas": (0.5, 0.75)} if rule != "SGD" else {})
    ours = one_group(onepass.optim, rule, {**options, **tensors}, device=backend.device)
    loop = one_group(torchs, rule, {**options, **numbers}, device=backend.device)
    exact = one_group(torchs, rule, {**options, **numbers}, torch.float64)
    for step in range(4):
        lr.fill_(2.0**-step)
        for params, optimizer in (ours, loop, exact):
            if optimizer is not ours[1]:
                optimizer.param_groups[0]["lr"] = 2.0**-step
            train(params, optimizer, [step])
        assert_parity(*(joined(params) for params, _ in (ours, loop, exact)))
    assert ours[1].param_groups[0]["lr"] is lr


@pytest.mark.parametrize("count", [3, 3.0], ids=["int-step", "float-step"])
@pytest.mark.parametrize(("rule", "options"), STATEFUL)
def test_checkpoint_of_an_older_torch(rule, options, count, backend):
    """torch 1.x kept the step count as a number and had none of the newer options in its groups."""
    params, optimizer = one_group(onepass.optim, rule, options, device=backend.device)
    train(params, optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        for name in ("foreach", "fused", "differentiable", "maximize", "capturable", "decoupled_weight_decay"):
            group.pop(name, None)
    for own in saved["state"].values():
        if "step" in own:
            own["step"] = count
    twins, other = one_group(onepass.optim, rule, options, device=backend.device)
    for twin, param in zip(twins, params, strict=True):
        twin.data.copy_(param.data)
    other.load_state_dict(saved)
    for run in ((params, optimizer), (twins, other)):
        train(*run, range(3, 6))
    assert_same_bits((params, optimizer), (twins, other))


def test_momentum_buffer_that_is_none_is_no_buffer(backend):
    """Older torch noted None for SGD without momentum; with momentum it is then the first step."""
    params, optimizer = one_group(onepass.optim, "SGD", {"momentum": 0.9, "dampening": 0.5}, device=backend.device)
    twins, other = one_group(onepass.optim, "SGD", {"momentum": 0.9, "dampening": 0.5}, device=backend.device)
    saved = other.state_dict()
    saved["state"] = {i: {"momentum_buffer": None} for i in range(len(twins))}
    other.load_state_dict(saved)
    for run in ((params, optimizer), (twins, other)):
        train(*run, range(3))
    assert_same_bits((params, optimizer), (twins, other))


SPOILS = {
    "no-group": lambda saved: saved["param_groups"].clear(),
    "fewer-parameters": lambda saved: saved["param_groups"][0]["params"].pop(),
    "negative-lr": lambda saved: saved["param_groups"][0].update(lr=-1.0),
    "nan-decay": lambda saved: saved["param_groups"][0].update(weight_decay=float("nan")),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS.keys())
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_rejected_load_changes_nothing(rule, options, spoil, backend):
    params, optimizer = one_group(onepass.optim, rule, options, device=backend.device)
    source = one_group(torchs, rule, {**options, "lr": 0.7}, device=backend.device)
    train(params, optimizer, range(3))
    train(*source, range(5))
    saved = copy.deepcopy(source[1].state_dict())
    spoil(saved)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"parameter group|must be finite"):
        optimizer.load_state_dict(saved)
    assert snapshot(optimizer) == before
    train(params, optimizer, range(3, 5))
    twins = one_group(onepass.optim, rule, options, device=backend.device)
    train(*twins, range(5))
    assert_same_bits((params, optimizer), twins)
