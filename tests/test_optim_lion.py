"""What is Lion's own: its defaults, the sign of 0 and of a nan, checkpoints of the authors' code, its loop."""

from __future__ import annotations

import copy
import inspect
import math

import pytest
import torch

import onepass
from onepass.optim import functional
from onepass.optim._step.plain import plain_class
from optim_setup import PLAIN, random_params, train
from tolerance import FLOAT32_STEPS, FLOAT64_STEPS

OPTIONS = {"lr": 0.5, "betas": (0.5, 0.75), "weight_decay": 0.0}


def one_step(grad, exp_avg, device="cpu", **options):
    """Parameter and exp_avg after a step from ones."""
    param = torch.nn.Parameter(torch.ones(len(grad), device=device))
    optimizer = onepass.optim.Lion([param], **{**OPTIONS, **options})
    optimizer.state[param]["exp_avg"] = torch.tensor(exp_avg, device=device)
    param.grad = torch.tensor(grad, device=device)
    optimizer.step()
    return param.tolist(), optimizer.state[param]["exp_avg"].tolist()


def test_defaults_are_the_authors():
    """google/automl, lion_pytorch.py."""
    given = inspect.signature(onepass.optim.Lion).parameters
    assert [given[name].default for name in ("lr", "betas", "weight_decay")] == [1e-4, (0.9, 0.99), 0]
    assert list(given)[:4] == ["params", "lr", "betas", "weight_decay"]


def test_a_step_by_hand(backend):
    """Each element moves by lr, by the sign of the mean of momentum and gradient."""
    assert one_step([1.0, -1.0, 3.0, -4.0], [1.0, -1.0, -1.0, 1.0], backend.device) == (
        [0.5, 1.5, 0.5, 1.5],
        [1.0, -1.0, 0.0, -0.25],
    )
    decayed, _ = one_step([1.0, 0.0], [1.0, 0.0], backend.device, weight_decay=0.5)
    assert decayed == [0.25, 0.75]
    raised, _ = one_step([1.0, -1.0], [0.0, 0.0], backend.device, maximize=True)
    assert raised == [1.5, 0.5]


@pytest.mark.parametrize("grad", [0.0, -0.0, 2.0], ids=["zeros", "negative-zeros", "cancelled"])
def test_the_sign_of_zero_is_zero(grad, backend):
    """A parameter without a direction stays; so does one whose gradient cancels its momentum."""
    param, _ = one_step([grad] * 3, [-grad] * 3, backend.device)
    assert param == [1.0] * 3


@pytest.mark.parametrize("where", ["grad", "exp_avg"])
def test_a_nan_stays_a_nan(where, backend):
    """In the authors' code torch.sign makes 0 of it: the parameter silently never moves again."""
    grad, exp_avg = [1.0, 1.0], [1.0, 1.0]
    (grad if where == "grad" else exp_avg)[0] = math.nan
    param, momentum = one_step(grad, exp_avg, backend.device)
    assert (math.isnan(param[0]), param[1]) == (True, 0.5)
    assert (math.isnan(momentum[0]), momentum[1]) == (True, 1.0)
    authors = torch.ones(1).sub_(torch.tensor([math.nan]).sign(), alpha=0.5)
    assert authors.item() == 1.0


@pytest.mark.parametrize("grad", [math.inf, -math.inf], ids=str)
def test_an_infinite_gradient_has_a_sign(grad, backend):
    param, momentum = one_step([grad], [0.0], backend.device)
    assert param == [1 - math.copysign(0.5, grad)]
    assert momentum == [grad]


def test_a_checkpoint_of_the_authors_code():
    """Groups of three options and states of exp_avg alone; it goes on as one of ours."""
    params = random_params()
    optimizer = onepass.optim.Lion(params, **OPTIONS)
    train(params, optimizer, range(3))
    saved = copy.deepcopy(optimizer.state_dict())
    theirs = {
        "state": {i: {"exp_avg": own["exp_avg"]} for i, own in saved["state"].items()},
        "param_groups": [{"params": [0, 1, 2], **OPTIONS}],
    }
    assert saved["state"].keys() == theirs["state"].keys()
    twins = [torch.nn.Parameter(param.detach().clone()) for param in params]
    other = onepass.optim.Lion(twins)
    other.load_state_dict(theirs)
    train(params, optimizer, range(3, 6))
    train(twins, other, range(3, 6))
    assert all(map(torch.equal, params, twins))
    assert other.param_groups[0]["betas"] == OPTIONS["betas"]


def test_half_of_adams_states():
    """One state of the parameter's size; no step count, which nothing depends on."""
    params = random_params()
    optimizer = onepass.optim.Lion(params)
    train(params, optimizer, range(1))
    assert all(optimizer.state[param].keys() == {"exp_avg"} for param in params)


def test_stochastic_rounding_counts_steps():
    params = random_params(dtype=torch.bfloat16)
    optimizer = onepass.optim.Lion(params, rounding="stochastic", seed=1)
    train(params, optimizer, range(3))
    assert {optimizer.state[param]["step"].item() for param in params} == {3.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_loop_of_torchs_operations(dtype):
    """What takes complex and differentiable parameters, and judges the kernels, takes the same steps."""
    runs = []
    for kind, flags in ((onepass.optim.Lion, {}), (plain_class(onepass.optim.Lion), PLAIN)):
        params = random_params(dtype=dtype)
        optimizer = kind(params, lr=0.1, weight_decay=0.1, **flags)
        train(params, optimizer, range(20))
        runs.append((params, [optimizer.state[param]["exp_avg"] for param in params]))
        assert len(optimizer.unfused_parameters()) == (3 if flags else 0)
    torch.testing.assert_close(*runs, **(FLOAT32_STEPS if dtype == torch.float32 else FLOAT64_STEPS))


def test_gradients_flow_past_the_sign():
    """Through the decay and, over two steps, not through the momentum: its sign has no slope."""
    start = torch.tensor([1.0, -2.0], requires_grad=True)
    param = start.clone()
    optimizer = onepass.optim.Lion([param], lr=0.5, weight_decay=0.5, differentiable=True)
    grads = [torch.tensor([3.0, 1.0], requires_grad=True) for _ in range(2)]
    for grad in grads:
        param.grad = grad
        optimizer.step()
    found = torch.autograd.grad(param.sum(), [start, *grads], materialize_grads=True)
    assert [one.tolist() for one in found] == [[0.5625] * 2, [0.0] * 2, [0.0] * 2]


def test_functional_names_what_is_wrong():
    p, options = torch.ones(3), {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "maximize": False}
    with pytest.raises(
        ValueError, match=r"^lion: exp_avgs\[0\] must have shape \(3,\) like its parameter, got \(2,\)"
    ):
        functional.lion([p], [torch.ones(3)], [torch.zeros(2)], **options)
    with pytest.raises(ValueError, match=r"^lion: exp_avgs must have 1 entries like params, got 0"):
        functional.lion([p], [torch.ones(3)], [], **options)
    with pytest.raises(ValueError, match=r"^lion: betas\[1\] must be at least 0 and below 1, got 1"):
        functional.lion([p], [torch.ones(3)], [torch.zeros(3)], **{**options, "beta2": 1.0})
    assert p.tolist() == [1.0] * 3
