"""A step captured once and replayed, as a CUDA graph is: launches with the arguments of the capture.

`simt` keeps the launches of the capture and runs them again (tests/simt/include/simt/graph.h); `cuda` captures a
real graph. So the kernels must read whatever differs between replays: learning rate, step count, clip factor,
whether to skip, draws.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

import onepass.optim
from onepass import _native
from onepass.optim._step import fused
from optim_setup import optimizer_of, random_params, states
from tail_setup import flat, same_states

RULES = {
    "sgd": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "adam": ("Adam", {"weight_decay": 0.1}),
    "amsgrad": ("AdamW", {"amsgrad": True}),
    "lion": ("Lion", {"weight_decay": 0.1}),
}
TAILS = {
    "plain": {},
    "clip": {"max_grad_norm": 0.5},
    "skip-ema": {"skip_nonfinite": True, "ema_decay": 0.9, "telemetry": True},
    "stochastic": {"rounding": "stochastic", "seed": 5, "skip_nonfinite": True},
    "master": {"master_weights": True, "max_grad_norm": 0.5},
}
SIZES = (7, 300, 0, 2050)


@pytest.fixture
def capture(backend, monkeypatch):
    """Returns capture(step) -> replay: the step is not run by its capture."""
    if backend.name == "cpu":
        pytest.skip("graphs are captured of the CUDA kernels")
    if backend.name == "cuda":

        def on_gpu(step):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            return graph.replay

        return on_gpu

    @contextmanager
    def capturing(graph):
        monkeypatch.setattr(fused, "_initialized", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        graph.begin()
        try:
            yield
        finally:
            graph.end()
            monkeypatch.undo()
            monkeypatch.setattr(_native, "core", module)

    module = _native.core

    def on_host(step):
        graph = module.Graph()
        with capturing(graph):
            step()
        assert len(graph) > 0
        return graph.replay

    return on_host


def capturable(backend, rule, dtype, tail):
    """Parameters with gradients, an optimizer, and its rate, all of which a graph can capture."""
    params = random_params([(n,) for n in SIZES], dtype, backend.device)
    lr = torch.tensor(0.01, device=backend.device)
    kind, options = RULES[rule]
    # The simulator's parameters are on the CPU, which counts as its device.
    optimizer = optimizer_of(onepass.optim, kind, params, {"lr": lr, "capturable": True, **options, **tail})
    for param in params:
        param.grad = torch.zeros_like(param)
    return params, optimizer, lr


def renew(params, lr, step):
    """New gradients, every third time one that is not finite, and a new learning rate, where they were."""
    generator = torch.Generator().manual_seed(step)
    for param in params:
        param.grad.copy_(torch.randn(param.shape, generator=generator))
    if step % 3 == 2:
        params[1].grad[5] = torch.inf
    lr.fill_(0.01 / step)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_replay_is_a_step(backend, capture, rule, tail, dtype):
    """One eager step, a capture, five replays: the same bits as six eager steps."""
    options = TAILS[tail]
    if dtype == torch.float32 and options.keys() & {"rounding", "master_weights"}:
        pytest.skip("an option of half precision")
    params, eager, lr = capturable(backend, rule, dtype, options)
    others, captured, other_lr = capturable(backend, rule, dtype, options)
    for own, own_lr, one in ((params, lr, eager), (others, other_lr, captured)):
        renew(own, own_lr, 1)
        one.step(zero_grad=True)
    before = flat(others)
    replay = capture(lambda: captured.step(zero_grad=True))
    assert torch.equal(flat(others), before)
    skips = "skip_nonfinite" in options
    for step in range(2, 7):
        renew(params, lr, step)
        renew(others, other_lr, step)
        if not skips and step % 3 == 2:
            params[1].grad[5] = others[1].grad[5] = 1.0
        eager.step(zero_grad=True)
        replay()
        assert torch.equal(flat(params), flat(others)), step
        assert all((param.grad == 0).all() for param in others)
    assert same_states(states(params, eager), states(others, captured))
    assert captured.skipped_steps == eager.skipped_steps == (2 if skips else 0)
    if "telemetry" in options:
        for one, other in zip(eager.statistics()[0], captured.statistics()[0], strict=True):
            assert torch.equal(one, other)


def test_a_capture_that_would_repeat_itself_raises(backend, capture):
    """SGD that rounds stochastically counts its steps: on the host the count, and the draws, would stand still."""
    if backend.name != "cuda":
        pytest.skip("only a GPU's parameters may count on the host")
    param = torch.nn.Parameter(torch.ones(5, dtype=torch.bfloat16, device=backend.device))
    optimizer = onepass.optim.SGD([param], rounding="stochastic")
    param.grad = torch.ones_like(param)
    optimizer.step()
    with pytest.raises(
        RuntimeError, match="SGD: capturable must be True in every group that rounds stochastically"
    ):
        capture(optimizer.step)
