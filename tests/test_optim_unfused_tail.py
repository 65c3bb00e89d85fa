"""The tail of steps of which torch's loop takes a part: one norm, one decision, averages and zeros for all."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch

import onepass
from optim_setup import give_gradients, snapshot, torchs, train
from test_optim_unfused import RULES, embedding, with_complex
from tolerance import FLOAT32_STEPS, NORM_RTOL

each_rule = pytest.mark.parametrize(("rule", "options"), RULES)


def by_hand(params, optimizer, scale, max_norm, skip, averages, decay, zero_grad):
    """What torch's functions do one after the other."""
    grads = [p.grad for p in params]
    for grad in grads:
        grad /= scale
    if not (skip and not all(bool(g.isfinite().all()) for g in grads)):
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(params, max_norm, foreach=False)
        for param in params:
            averages.setdefault(param, param.detach().clone())
        optimizer.step()
        for param in params:
            averages[param].lerp_(param.detach(), 1 - decay)
    if zero_grad:
        optimizer.zero_grad(set_to_none=False)


@pytest.mark.parametrize("max_norm", [None, 1.0, 1e9, 0.0, math.inf], ids=str)
@each_rule
def test_the_whole_tail(rule, options, max_norm):
    params, optimizer = with_complex(onepass.optim, rule, options)
    others, other = with_complex(torchs, rule, options)
    optimizer.max_grad_norm, optimizer.ema_decay, optimizer.skip_nonfinite = max_norm, 0.75, True
    averages, skipped = {}, 0
    for step in range(6):
        for run in (params, others):
            give_gradients(run, step, 8.0)
            if step in (0, 3):
                # Of a complex parameter, then of a real one.
                run[1 if step == 3 else 0].grad.view(-1)[0] = math.inf
        optimizer.grad_scale = 8.0 if step % 2 else torch.tensor(8.0)
        exact = math.sqrt(sum(float((g.grad.abs().double() / 8).square().sum()) for g in params))
        states = {p: dict(optimizer.state.get(p, {})) for p in params}
        optimizer.step(zero_grad=step % 2 == 1)
        by_hand(others, other, 8.0, max_norm, True, averages, 0.75, step % 2 == 1)
        if step in (0, 3):
            skipped += 1
            assert {p: dict(optimizer.state.get(p, {})) for p in params} == states
        assert optimizer.skipped_steps == skipped
        assert optimizer.grad_norm.item() == pytest.approx(exact, rel=NORM_RTOL)
        for one, two in zip(params, others, strict=True):
            torch.testing.assert_close(one, two, **FLOAT32_STEPS)
            if two in averages:
                mean = optimizer.state[one]["ema"]
                assert mean.dtype == one.dtype
                torch.testing.assert_close(mean, averages[two], **FLOAT32_STEPS)
            scaled = one.grad if step % 2 else one.grad / 8
            if not (step == 0 or (max_norm is not None and step % 2 == 0)):
                torch.testing.assert_close(scaled, two.grad, **FLOAT32_STEPS, equal_nan=True)


@each_rule
def test_a_norm_that_is_not_finite_without_skipping(rule, options):
    """All parameters become nan, as in torch."""
    for package in (onepass.optim, torchs):
        params, optimizer = with_complex(package, rule, options)
        give_gradients(params, 0)
        params[1].grad.view(-1)[0] = math.nan
        if package is torchs:
            torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=False)
        else:
            optimizer.max_grad_norm = 1.0
        optimizer.step()
        assert all(bool(p.isnan().any()) for p in params)


@pytest.mark.parametrize("found", [1.0, torch.tensor(1.0)], ids=["number", "tensor"])
@each_rule
def test_found_inf(rule, options, found):
    params, optimizer = with_complex(onepass.optim, rule, options)
    train(params, optimizer, range(2))
    give_gradients(params, 2)
    optimizer.found_inf = found
    before = snapshot(optimizer)
    optimizer.step()
    assert snapshot(optimizer) == before
    optimizer.found_inf = found * 0
    optimizer.step()
    assert snapshot(optimizer)[1] != before[1]
    assert optimizer.skipped_steps == 1


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}], ids=["sgd", "momentum"])
def test_grad_scaler_with_sparse_gradients(options, fused):
    """It takes no complex ones; torch's fused class takes neither."""
    runs = []
    for package, flag in ((onepass.optim, fused), (torch.optim, None)):
        model, optimizer = embedding(package, {"fused": flag, **options})
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(model(torch.tensor([1, 1, 4])).square().sum()).backward()
            if step == 1:
                model[0].weight.grad = model[0].weight.grad * math.inf
            scaler.step(optimizer)
            scaler.update()
        runs.append((model, scaler.get_scale()))
    for one, two in zip(runs[0][0].parameters(), runs[1][0].parameters(), strict=True):
        torch.testing.assert_close(one, two)
    assert runs[0][1] == runs[1][1] == 8.0


def test_sparse_gradients():
    """Clipped by the norm of their sums where a row comes twice; averaged whole; zeroed."""
    model, optimizer = embedding(onepass.optim, {"max_grad_norm": 0.25, "ema_decay": 0.5})
    dense, plain = embedding(torch.optim, {})
    dense[0].sparse = False
    rows = torch.tensor([1, 1, 4])
    means = [p.detach().clone() for p in dense.parameters()]
    for _ in range(3):
        for net in (model, dense):
            net(rows).square().sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(dense.parameters(), 0.25)
        plain.step()
        plain.zero_grad()
        optimizer.step(zero_grad=True)
        assert optimizer.grad_norm.item() == pytest.approx(norm.item())
        for mean, one, two in zip(means, model.parameters(), dense.parameters(), strict=True):
            mean.lerp_(two.detach(), 0.5)
            torch.testing.assert_close(one, two)
            torch.testing.assert_close(optimizer.state[one]["ema"], mean)
            assert not one.grad.to_dense().any()


def test_averages_of_complex_parameters_are_kept():
    """In checkpoints, copies and evaluation: complex as they are."""
    params, optimizer = with_complex(onepass.optim, "AdamW", {"ema_decay": 0.5})
    train(params, optimizer, range(3))
    others, other = with_complex(onepass.optim, "AdamW", {"ema_decay": 0.5})
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, two in zip(params, others, strict=True):
        assert other.state[two]["ema"].dtype == one.dtype
        assert torch.equal(optimizer.state[one]["ema"], other.state[two]["ema"])
    copied = pickle.loads(pickle.dumps(optimizer))
    assert [one.why for one in copied.unfused_parameters()] == ["complex parameter"] * 2
    kept = [p.detach().clone() for p in params]
    with optimizer.ema_parameters():
        assert all(torch.equal(p, optimizer.state[p]["ema"]) for p in params)
    assert all(map(torch.equal, kept, params))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_bad_scale(scale):
    params, optimizer = with_complex(onepass.optim, "Adam", {})
    give_gradients(params, 0)
    optimizer.grad_scale = scale
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"^adam: grad_scale must be finite and above 0, got"):
        optimizer.step()
    assert snapshot(optimizer) == before


@each_rule
def test_a_refused_step_has_changed_nothing(rule, options):
    """The kernels' share is refused after torch's loop was prepared: new states are gone, too."""
    params, optimizer = with_complex(onepass.optim, rule, {**options, "ema_decay": 0.5})
    give_gradients(params, 0)
    params[0].grad.data = torch.ones(2)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"grads\[0\] must have shape \(3,\) like its parameter, got \(2,\)"):
        optimizer.step()
    assert snapshot(optimizer) == before
    assert not optimizer.state
