"""Smoke: our operations in torch.compile, which needs no compiler here: the graphs are run as they were traced."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from torch import nn

import onepass.nn
import onepass.optim
from onepass.nn.functional import cross_entropy, dropout

TORCH = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
# The newest Python that torch.compile takes, by version of torch; later versions say so themselves.
NEWEST = {(2, 4): (3, 12), (2, 5): (3, 12), (2, 6): (3, 13), (2, 7): (3, 13), (2, 8): (3, 13), (2, 9): (3, 13)}
pytestmark = [
    pytest.mark.skipif(
        sys.version_info[:2] > NEWEST.get(TORCH, sys.version_info[:2]),
        reason="torch.compile of this torch does not take this Python",
    ),
    # torch.compile itself warns of what it cannot profile.
    pytest.mark.filterwarnings("ignore:.*record_function.*", "ignore::DeprecationWarning:torch"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()


def forward(norm: nn.Module, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return cross_entropy(dropout(norm(x), 0.25, seed=5), target, label_smoothing=0.1)


def test_compiled_layers_have_the_bits_of_eager_ones():
    norm = onepass.nn.BatchNorm1d(10, activation="relu")
    x = torch.randn(32, 10)
    target = torch.randint(10, (32,))
    results = []
    for function in (forward, torch.compile(forward, backend="aot_eager", fullgraph=True)):
        leaf = x.clone().requires_grad_()
        loss = function(norm, leaf, target)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    for eager, compiled in zip(*results, strict=True):
        assert torch.equal(eager, compiled)


@pytest.mark.skipif(TORCH < (2, 6), reason="torch 2.4 cannot compile operators that write to lists")
@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW", "Lion"])
def test_a_compiled_step_has_the_bits_of_an_eager_one(rule):
    start = torch.randn(5, 7)
    params = [nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [getattr(onepass.optim, rule)([param], lr=0.1) for param in params]
    steps = [
        optimizers[0].step,
        torch.compile(lambda: optimizers[1].step(), backend="aot_eager", fullgraph=True),
    ]
    for number in range(4):
        for param, step in zip(params, steps, strict=True):
            param.grad = start.roll(number)
            step()
    assert torch.equal(*params)
