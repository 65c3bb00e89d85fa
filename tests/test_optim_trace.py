"""Steps under torch.compile and make_fx that the kernels take in part, or that a graph must not lose."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import onepass
from optim_setup import give_gradients
from test_optim_unfused import RULES, embedding, with_complex
from tolerance import FLOAT32_STEPS

# torch.compile itself warns of what it cannot profile.
pytestmark = pytest.mark.filterwarnings("ignore:.*record_function.*", "ignore::DeprecationWarning:torch")
each_rule = pytest.mark.parametrize(("rule", "options"), RULES)


@each_rule
def test_compiled_step_of_complex_parameters(rule, options):
    """Python between graphs: the bits of the eager step."""
    torch._dynamo.reset()
    (params, optimizer), (others, other) = (with_complex(onepass.optim, rule, options) for _ in "ab")
    compiled = torch.compile(lambda: optimizer.step())
    for step in range(3):
        give_gradients(params, step)
        give_gradients(others, step)
        compiled()
        other.step()
    assert all(map(torch.equal, params, others))
    assert len(optimizer.unfused_parameters()) == 2


def test_compiled_step_of_a_gradient_that_is_sparse_at_first():
    """The other way round torch 2.13 runs the graph of the dense one, with its own SGD, too: AssertionError."""
    torch._dynamo.reset()
    runs = [embedding(onepass.optim, {}) for _ in "ab"]
    compiled = torch.compile(lambda: runs[0][1].step())
    for step in range(4):
        for model, optimizer in runs:
            optimizer.zero_grad()
            model[0].sparse = step < 2
            model(torch.tensor([1, 1, 4])).square().sum().backward()
        compiled()
        runs[1][1].step()
    assert all(map(torch.equal, runs[0][0].parameters(), runs[1][0].parameters()))


TRACED = [case for case in RULES if "dampening" not in case.values[1]]


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@pytest.mark.parametrize(("rule", "options"), TRACED)
def test_make_fx(rule, options, mode):
    """The graph takes the steps for other values, as that of torch's class does; they were missing from it."""

    def two_steps(value, grad, package):
        param = value.detach().clone()
        param.grad = grad
        optimizer = getattr(package, rule)([param], lr=0.1, **options)
        optimizer.step()
        optimizer.step()
        return param + 0

    start, grad = torch.linspace(-1, 1, 5), torch.linspace(2, 3, 5)
    results = []
    for package in (onepass.optim, torch.optim)[: 1 + hasattr(torch.optim, rule)]:
        traced = make_fx(lambda *tensors, package=package: two_steps(*tensors, package), tracing_mode=mode)
        graph = traced(torch.ones(5), torch.ones(5))
        results.append(graph(start, grad))
    torch.testing.assert_close(results[0], results[-1], **FLOAT32_STEPS)
    assert torch.equal(results[0], two_steps(start, grad, onepass.optim))


REFUSED = {
    "tail": ({"max_grad_norm": 1.0}, torch.float32),
    "low-precision": ({"rounding": "kahan"}, torch.bfloat16),
    "complex": ({}, torch.complex64),
}


@pytest.mark.parametrize(("options", "dtype"), REFUSED.values(), ids=REFUSED)
def test_what_make_fx_cannot_see(options, dtype):
    def step(value):
        param = value.clone()
        param.grad = torch.ones_like(param)
        onepass.optim.AdamW([param], **options).step()
        return param

    with pytest.raises(
        RuntimeError, match=r"^AdamW: a step that make_fx traces must have no tail, no option of low"
    ):
        make_fx(step)(torch.ones(3, dtype=dtype))
