"""Moving averages of the parameters: where they are kept, shown, saved and taken over from."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import onepass.optim
from conftest import Backend
from optim_setup import states
from tail_setup import each_dtype, flat, params_of, same_states, set_grads, tailed
from tolerance import AVERAGE_ATOL, AVERAGES


@each_dtype
def test_ema_parameters(backend, dtype):
    params = params_of(backend, dtype)
    optimizer = tailed("adamw", params, ema_decay=0.5)
    set_grads(params, 0)
    optimizer.step()
    own, averages = flat(params), [optimizer.state[p]["ema"].to(dtype) for p in params]
    with optimizer.ema_parameters():
        assert torch.equal(flat(params), flat(averages))
        with pytest.raises(RuntimeError, match=r"AdamW: no step can be taken inside ema_parameters"):
            optimizer.step()
        with pytest.raises(RuntimeError, match="already in the parameters"), optimizer.ema_parameters():
            pass
    assert torch.equal(flat(params), own)
    optimizer.step()


def test_ema_parameters_needs_averages():
    optimizer = tailed("adamw", params_of(Backend("cpu", torch.device("cpu"))))
    with pytest.raises(RuntimeError, match="ema_parameters needs an optimizer with ema_decay"):
        optimizer.ema_parameters().__enter__()


def test_bfloat16_averages_move(backend):
    """torch's AveragedModel keeps bfloat16 and never moves at 0.9999."""
    param = torch.nn.Parameter(torch.ones(64, dtype=torch.bfloat16, device=backend.device))
    optimizer = onepass.optim.SGD([param], lr=0.125, ema_decay=0.9999)
    exact = 1.0
    for _ in range(20):
        param.grad = torch.ones_like(param)
        optimizer.step()
        exact = 0.9999 * exact + 0.0001 * param[0].item()
    assert exact < 0.998
    assert optimizer.state[param]["ema"][0].item() == pytest.approx(exact, abs=AVERAGE_ATOL)


def test_averages_in_checkpoints(backend):
    params = params_of(backend, torch.bfloat16)
    optimizer = tailed("adamw", params, ema_decay=0.9)
    for step in range(2):
        set_grads(params, step)
        optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    resumed = tailed("adamw", others, ema_decay=0.9)
    resumed.load_state_dict(saved)
    for one, other in zip(params, others, strict=True):
        ema = resumed.state[other]["ema"]
        assert ema.dtype == torch.float32
        assert torch.equal(ema, optimizer.state[one]["ema"])
    set_grads(params, 2)
    set_grads(others, 2)
    optimizer.step()
    resumed.step()
    assert same_states(states(params, optimizer), states(others, resumed))
    # torch's own class takes the checkpoint, too.
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in params]
    tailed("adamw", theirs, torch.optim).load_state_dict(saved)
    # A checkpoint without averages: they begin with the next step.
    for own in saved["state"].values():
        own.pop("ema", None)
    with pytest.warns(
        UserWarning, match=rf"^AdamW: state_dict lacks ema of {len(params)} parameters \(their aver"
    ):
        resumed.load_state_dict(saved)
    set_grads(others, 3)
    resumed.step()
    assert "ema" in resumed.state[others[0]]


def test_import_from_averaged_model():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = onepass.optim.AdamW(
        [{"params": [model[1].weight]}, {"params": [model[0].weight, model[0].bias, model[1].bias]}], ema_decay=0.9
    )
    for _ in range(3):
        model(torch.randn(5, 3)).sum().backward()
        optimizer.step(zero_grad=True)
        averaged.update_parameters(model)
    optimizer.import_ema(averaged, model.parameters())
    for _ in range(2):
        model(torch.randn(5, 3)).sum().backward()
        optimizer.step(zero_grad=True)
        averaged.update_parameters(model)
    with optimizer.ema_parameters():
        for own, theirs in zip(model.parameters(), averaged.module.parameters(), strict=True):
            torch.testing.assert_close(own, theirs, **AVERAGES)
    with pytest.raises(ValueError, match=r"averages must be as many as params, got 1 for 4"):
        optimizer.import_ema([torch.zeros(3)], model.parameters())
    with pytest.raises(ValueError, match=r"averages\[0\] must have shape \(4, 3\) like its parameter, got \(3,\)"):
        optimizer.import_ema([torch.zeros(3)] * 4, model.parameters())
    with pytest.raises(ValueError, match=r"params\[0\] must be a parameter of this optimizer"):
        optimizer.import_ema([torch.zeros(3)], [torch.zeros(3)])


def test_distributed_checkpoints_dummy_step_moves_no_average():
    model = torch.nn.Linear(3, 2)
    optimizer = onepass.optim.AdamW(model.parameters(), ema_decay=0.9, max_grad_norm=1.0)
    before = [p.detach().clone() for p in model.parameters()]
    saved = get_optimizer_state_dict(model, optimizer)
    for own, param, name in zip(before, model.parameters(), ("weight", "bias"), strict=True):
        assert torch.equal(own, param)
        assert torch.equal(optimizer.state[param]["ema"], own)
        assert torch.equal(saved["state"][name]["ema"], own)
    assert optimizer.skipped_steps == 0
