"""Smoke: the optimizers next to torch's, the tail of a step, checkpoints both ways, and numpy arrays."""

from __future__ import annotations

import copy
import io

import numpy
import pytest
import torch

import onepass.optim
from onepass.optim import functional

SHAPES = [(64, 33), (33,), (1,), (5, 3, 3, 3)]
RULES = [
    pytest.param("SGD", {}, id="sgd"),
    pytest.param("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, id="sgd-nesterov"),
    pytest.param("Adam", {"weight_decay": 0.1}, id="adam"),
    pytest.param("Adam", {"amsgrad": True}, id="adam-amsgrad"),
    pytest.param("AdamW", {}, id="adamw"),
    pytest.param("AdamW", {"maximize": True}, id="adamw-maximize"),
]
# Ten steps of one rule in float32 by two programs, which round in other places: about 1e-7 a step.
FLOAT32_STEPS = {"rtol": 1e-5, "atol": 1e-6}
# The same in float64.
FLOAT64_STEPS = {"rtol": 1e-12, "atol": 1e-14}
# One float64 product and difference: a few roundings of 1e-16 each.
ONE_STEP = {"rtol": 1e-15, "atol": 0}

Params = list[torch.nn.Parameter]


def params_of(dtype: torch.dtype = torch.float32) -> Params:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def set_grads(params: Params, step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for param in params:
        param.grad = scale * torch.randn(param.shape, generator=generator).to(param.dtype)


def assert_same(ours: Params, theirs: Params, **tolerance: float) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, **tolerance)


def trained(family: object, rule: str, steps: range, params: Params, **options: object) -> torch.optim.Optimizer:
    optimizer = getattr(family, rule)(params, lr=0.01, **options)
    for step in steps:
        set_grads(params, step)
        optimizer.step()
    return optimizer


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, FLOAT32_STEPS), (torch.float64, FLOAT64_STEPS)])
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_ten_steps_are_torchs(rule, options, dtype, tolerance):
    ours, theirs = params_of(dtype), params_of(dtype)
    trained(onepass.optim, rule, range(10), ours, **options)
    trained(torch.optim, rule, range(10), theirs, foreach=False, **options)
    assert_same(ours, theirs, **tolerance)


def test_lion_moves_each_element_by_the_rate():
    params = params_of(torch.float64)
    before = [param.detach().clone() for param in params]
    optimizer = onepass.optim.Lion(params, lr=0.5)
    set_grads(params, 0)
    optimizer.step()
    for param, old in zip(params, before, strict=True):
        torch.testing.assert_close(param.detach(), old - 0.5 * param.grad.sign(), **FLOAT64_STEPS)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan"])
def test_half_precision_steps_move(rounding):
    params = params_of(torch.bfloat16)
    before = [param.detach().clone() for param in params]
    trained(onepass.optim, "AdamW", range(3), params, rounding=rounding)
    assert all(param.isfinite().all() for param in params)
    assert not any(torch.equal(param, old) for param, old in zip(params, before, strict=True))


def test_tail_is_torchs_loop():
    """Clips, averages and zeroes in one step what torch does in four."""
    ours, theirs = params_of(), params_of()
    mine = onepass.optim.AdamW(ours, lr=0.01, max_grad_norm=1.0, ema_decay=0.9)
    other = torch.optim.AdamW(theirs, lr=0.01, foreach=False)
    averages = [param.detach().clone() for param in theirs]
    for step in range(5):
        set_grads(ours, step)
        set_grads(theirs, step)
        norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        other.step()
        for average, param in zip(averages, theirs, strict=True):
            average.lerp_(param.detach(), 0.1)
        mine.step(zero_grad=True)
        torch.testing.assert_close(torch.as_tensor(mine.grad_norm).float(), norm)
        assert all(not param.grad.any() for param in ours)
    assert_same(ours, theirs, **FLOAT32_STEPS)
    with mine.ema_parameters():
        assert_same(ours, [torch.nn.Parameter(average) for average in averages], **FLOAT32_STEPS)


def test_a_nonfinite_gradient_is_skipped():
    params = params_of()
    optimizer = onepass.optim.AdamW(params, lr=0.01, skip_nonfinite=True)
    set_grads(params, 0)
    params[1].grad[3] = float("inf")
    before = [param.detach().clone() for param in params]
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert all(torch.equal(param, old) for param, old in zip(params, before, strict=True))


@pytest.mark.parametrize("fused", [None, True])
def test_grad_scaler_unscales(fused):
    ours, theirs = params_of(), params_of()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(torch.ones(()))  # makes the scale
    mine = onepass.optim.AdamW(ours, lr=0.01, fused=fused)
    set_grads(ours, 0, scale=1024.0)
    scaler.step(mine)
    trained(torch.optim, "AdamW", range(1), theirs, foreach=False)
    assert_same(ours, theirs, **FLOAT32_STEPS)


def test_clip_grad_norm_is_torchs():
    ours, theirs = params_of(), params_of()
    set_grads(ours, 0)
    set_grads(theirs, 0)
    mine = onepass.optim.clip_grad_norm_(ours, 0.5)
    torch.testing.assert_close(mine, torch.nn.utils.clip_grad_norm_(theirs, 0.5))
    for param, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(param.grad, other.grad, **FLOAT32_STEPS)


@pytest.mark.parametrize(("first", "second"), [(onepass.optim, torch.optim), (torch.optim, onepass.optim)])
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_checkpoints_go_both_ways(rule, options, first, second):
    """Five steps of one, saved to a file and loaded, and five of the other: ten of torch's."""
    params, exact = params_of(), params_of()
    file = io.BytesIO()
    torch.save(trained(first, rule, range(5), params, **options).state_dict(), file)
    file.seek(0)
    resumed = getattr(second, rule)(params, lr=1.0, **options)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for step in range(5, 10):
        set_grads(params, step)
        resumed.step()
    trained(torch.optim, rule, range(10), exact, foreach=False, **options)
    assert_same(params, exact, **FLOAT32_STEPS)


def test_a_copy_steps_as_the_original():
    params = params_of()
    optimizer = trained(onepass.optim, "AdamW", range(3), params)
    others, other = copy.deepcopy((params, optimizer))
    for each, theirs in ((optimizer, params), (other, others)):
        set_grads(theirs, 3)
        each.step()
    assert all(torch.equal(mine, his) for mine, his in zip(params, others, strict=True))


def test_numpy_arrays_are_stepped():
    """numpy of either major version lends its memory through DLPack."""
    start, grad = (numpy.random.default_rng(seed).standard_normal(100) for seed in range(2))
    param = start.copy()
    plain = {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "maximize": False}
    functional.sgd([param], [grad], [], lr=0.1, **plain)
    assert numpy.allclose(param, start - 0.1 * grad, **ONE_STEP)


def test_a_bad_option_is_refused_and_changes_nothing():
    params = params_of()
    optimizer = onepass.optim.AdamW(params, lr=0.01)
    set_grads(params, 0)
    before = [param.detach().clone() for param in params]
    optimizer.param_groups[0]["lr"] = float("nan")
    with pytest.raises(ValueError, match="lr"):
        optimizer.step()
    assert all(torch.equal(param, old) for param, old in zip(params, before, strict=True))
    assert not optimizer.state
