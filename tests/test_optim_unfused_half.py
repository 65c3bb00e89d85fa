"""A step that torch's loop would leave half taken is refused before the kernels take their share."""

from __future__ import annotations

import pytest
import torch

import onepass
from optim_setup import snapshot

each_class = pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW"])


def given(param):
    param.grad = torch.ones(param.shape, dtype=param.dtype)
    return param


def leaf(rule):
    fused, other = (given(torch.nn.Parameter(torch.ones(3))) for _ in "ab")
    groups = [{"params": [fused], "differentiable": False}, {"params": [other]}]
    return getattr(onepass.optim, rule)(groups, lr=0.1, differentiable=True)


def beside(rule, other):
    fused = given(torch.nn.Parameter(torch.ones(3)))
    options = {"momentum": 0.9} if rule == "SGD" else {}
    return getattr(onepass.optim, rule)([fused, given(other)], lr=0.1, **options)


def inference(rule):
    with torch.inference_mode():
        other = torch.ones(3, dtype=torch.complex64)
    return beside(rule, other)


def expanded(rule):
    return beside(rule, torch.nn.Parameter(torch.ones(1, dtype=torch.complex64).expand(3)))


def expanded_state():
    optimizer = beside("SGD", torch.nn.Parameter(torch.ones(3, dtype=torch.complex64)))
    optimizer.step()
    own = optimizer.state[optimizer.param_groups[0]["params"][1]]
    own["momentum_buffer"] = torch.ones(1, dtype=torch.complex64).expand(3)
    return optimizer


CASES = {
    "leaf": (leaf, r"param_groups\[1\]\.params\[0\] must have a parameter that gradients can flow through"),
    "inference": (inference, r"params\[1\] must have a parameter that can be written here"),
    "expanded": (expanded, r"params\[1\] must have a parameter of one place in memory for each element"),
}


@pytest.mark.parametrize("case", CASES)
@each_class
def test_what_cannot_be_written(rule, case):
    make, message = CASES[case]
    optimizer = make(rule)
    with pytest.raises(ValueError, match=f"{rule.lower()}: {message}"):
        optimizer.step()
    assert not optimizer.state
    assert all((param == 1).all() for group in optimizer.param_groups for param in group["params"])


def test_a_state_that_cannot_be_written():
    optimizer = expanded_state()
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"params\[1\] must have a state momentum_buffer of one place in memory"):
        optimizer.step()
    assert snapshot(optimizer) == before


@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_a_step_count_that_is_no_tensor(rule):
    optimizer = beside(rule, torch.nn.Parameter(torch.ones(3, dtype=torch.complex64)))
    optimizer.step()
    fused, other = optimizer.param_groups[0]["params"]
    optimizer.state[other]["step"] = 3
    before = fused.detach().clone()
    with pytest.raises(
        TypeError, match=rf"{rule.lower()}: params\[1\] must have a state step that is a tensor, got 3"
    ):
        optimizer.step()
    assert torch.equal(fused, before)


@each_class
def test_gradients_of_a_wider_dtype(rule):
    runs = []
    for dtype in (torch.complex64, torch.complex128):
        optimizer = beside(rule, torch.nn.Parameter(torch.ones(3, dtype=torch.complex64)))
        other = optimizer.param_groups[0]["params"][1]
        for _ in range(2):
            other.grad.data = torch.full((3,), 0.5 + 0.25j, dtype=dtype)
            optimizer.step()
        runs.append(other)
    torch.testing.assert_close(runs[0], runs[1])
