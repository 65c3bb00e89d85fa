"""Telemetry: what a step measures of each group in its own pass, against the same in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import onepass.optim
from tail_setup import each_dtype, each_rule, flat, params_of, set_grads, tailed
from tolerance import NORM_RTOL


def norm(tensors) -> float:
    return float(flat(tensors).norm())


def expected(params, before):
    """(gradient norm, parameter norm, update norm, nonfinite, lost) of one group, in float64."""
    after, old, grads = flat(params), flat(before), flat([p.grad for p in params])
    lost = (after == old) & (grads != 0)
    return norm([grads]), norm([after]), norm([after - old]), int((~grads.isfinite()).sum()), int(lost.sum())


def numbers(row):
    return [float(value) for value in row]


def close(row, wanted, relative):
    for value, want in zip(numbers(row), wanted, strict=True):
        assert value == pytest.approx(want, rel=relative, abs=0), (numbers(row), wanted)


@each_rule
@each_dtype
def test_each_group_is_measured(backend, rule, dtype):
    """Two groups, three steps; the update is the one without telemetry, bit for bit."""
    params, plain = params_of(backend, dtype), params_of(backend, dtype)
    mine = tailed(rule, [{"params": params[:3]}, {"params": params[3:], "lr": 1e-4}], telemetry=True)
    other = tailed(rule, [{"params": plain[:3]}, {"params": plain[3:], "lr": 1e-4}])
    for step in range(3):
        set_grads(params, step)
        set_grads(plain, step)
        before = [p.detach().clone() for p in params]
        mine.step()
        other.step()
        assert torch.equal(flat(params), flat(plain))
        first, second = mine.statistics()
        # Sums of float32 squares in float32, 16 at a time; then float64.
        close(first, expected(params[:3], before[:3]), 1e-6)
        close(second, expected(params[3:], before[3:]), 1e-6)


def test_all_that_a_step_does_besides(backend):
    """Scaled and clipped gradients, averages, zeroed gradients: the gradient norm is the unscaled, unclipped."""
    params = params_of(backend)
    optimizer = tailed("adamw", params, telemetry=True, max_grad_norm=0.5, skip_nonfinite=True, ema_decay=0.9)
    optimizer.grad_scale = torch.tensor(8.0, device=backend.device) if backend.name == "cuda" else 8.0
    for step in range(3):
        set_grads(params, step, 8.0)
        before = [p.detach().clone() for p in params]
        grads = norm([p.grad / 8 for p in params])
        optimizer.step(zero_grad=True)
        (row,) = optimizer.statistics()
        close(row, (grads, norm(params), norm([flat(params) - flat(before)]), 0, 0), 1e-6)
        assert float(row.grad_norm) == pytest.approx(float(optimizer.grad_norm), rel=NORM_RTOL)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_skipped_step_tells_what_was_wrong(backend, bad):
    """Gradients of one group are not finite: counted where they are, and nothing has moved."""
    params = params_of(backend)
    groups = [{"params": params[:3]}, {"params": params[3:]}]
    optimizer = tailed("adamw", groups, telemetry=True, skip_nonfinite=True)
    set_grads(params, 0)
    optimizer.step()
    kept = optimizer.statistics()
    before = flat(params)
    params[5].grad[17] = params[5].grad[19000] = params[3].grad[2] = bad
    optimizer.step()
    first, second = optimizer.statistics()
    assert torch.equal(flat(params), before)
    assert optimizer.skipped_steps == 1
    assert float(first.nonfinite) == 0
    assert float(second.nonfinite) == 3
    assert float(first.update_norm) == float(second.update_norm) == 0
    assert float(first.grad_norm) == pytest.approx(norm([p.grad for p in params[:3]]), rel=NORM_RTOL)
    assert not math.isfinite(float(second.grad_norm))
    # What was returned before is what it was.
    assert float(kept[1].nonfinite) == 0
    assert float(kept[1].update_norm) > 0


@pytest.mark.parametrize("size", [1e-30, 1e-38, 1e30], ids=str)
def test_gradients_of_any_size(backend, size):
    """Squares beyond float32's range: the norm is finite and right; torch's float32 norm is 0 or inf here."""
    params = params_of(backend)
    optimizer = tailed("sgd", params, telemetry=True)
    set_grads(params, 0, size)
    optimizer.step()
    (row,) = optimizer.statistics()
    assert float(row.grad_norm) == pytest.approx(norm([p.grad for p in params]), rel=NORM_RTOL)
    assert float(row.nonfinite) == 0


def test_updates_that_are_rounded_to_nothing(backend):
    """The bfloat16 stall, made visible: lost with rounding to nearest, not with a master."""

    def lost(**options):
        param = torch.nn.Parameter(torch.ones(1000, dtype=torch.bfloat16, device=backend.device))
        optimizer = onepass.optim.AdamW([param], lr=1e-3, telemetry=True, **options)
        param.grad = torch.ones_like(param)
        param.grad[:100] = 0
        optimizer.step()
        return float(optimizer.statistics()[0].lost_updates)

    assert lost(weight_decay=0) == 900
    assert lost(master_weights=True) == 0
    assert lost(rounding="kahan") == 0
    # An update of 1/8 to 1/4 of the spacing is lost as often as that.
    assert 600 < lost(rounding="stochastic", seed=1) < 850


def test_the_same_bits_for_any_number_of_threads():
    rows = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            generator = torch.Generator().manual_seed(0)
            params = [
                torch.nn.Parameter(torch.randn(n, generator=generator)) for n in (100_003, 7, 16_384, 40_000)
            ]
            optimizer = onepass.optim.AdamW(params, telemetry=True)
            for param in params:
                param.grad = torch.randn(param.shape, generator=generator)
            optimizer.step()
            rows.append(torch.stack(list(optimizer.statistics()[0])))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(rows[0], row) for row in rows[1:])


def test_parameters_without_gradients_are_not_measured(backend):
    params = params_of(backend)
    optimizer = tailed("adamw", [{"params": params[:1]}, {"params": params[1:]}], telemetry=True)
    set_grads(params, 0)
    params[0].grad = params[5].grad = None
    before = [p.detach().clone() for p in params]
    optimizer.step()
    first, second = optimizer.statistics()
    assert numbers(first) == [0] * 5
    close(second, expected(params[1:5], before[1:5]), 1e-6)


def test_nothing_is_told_that_was_not_measured(backend):
    params = params_of(backend)
    optimizer = tailed("adamw", params)
    set_grads(params, 0)
    optimizer.step()
    with pytest.raises(
        RuntimeError, match="AdamW: statistics needs a step taken with telemetry=True, got telemetry F"
    ):
        optimizer.statistics()
    optimizer.telemetry = True
    with pytest.raises(RuntimeError, match="got telemetry True"):
        optimizer.statistics()
    optimizer.step()
    assert float(optimizer.statistics()[0].grad_norm) > 0
    optimizer.telemetry = False
    optimizer.step()
    with pytest.raises(RuntimeError, match="got telemetry False"):
        optimizer.statistics()
    with pytest.raises(TypeError, match="AdamW: telemetry must be True or False, got 1"):
        onepass.optim.AdamW(params, telemetry=1)


def test_copies_measure_too():
    param = torch.nn.Parameter(torch.ones(3))
    optimizer = copy.deepcopy(onepass.optim.SGD([param], telemetry=True))
    assert optimizer.telemetry


def test_a_step_without_gradients_and_a_rejected_one(backend):
    """No figures of an earlier step: zeros where there was nothing to measure, nan before anything was."""
    params = params_of(backend)
    optimizer = tailed("adamw", params, telemetry=True)
    set_grads(params, 0)
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr must be"):
        optimizer.step()
    assert all(math.isnan(value) for value in numbers(optimizer.statistics()[0]))
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert float(optimizer.statistics()[0].grad_norm) > 0
    for param in params:
        param.grad = None
    optimizer.step()
    assert numbers(optimizer.statistics()[0]) == [0] * 5


def test_a_skipped_step_has_lost_nothing(backend):
    params = params_of(backend)
    optimizer = tailed("adamw", params, telemetry=True, skip_nonfinite=True)
    set_grads(params, 0)
    params[1].grad[0] = math.inf
    optimizer.step()
    assert float(optimizer.statistics()[0].lost_updates) == 0
    assert tailed("adamw", params, max_grad_norm=0.0).max_grad_norm == 0.0
