"""The helpers themselves: a plain loop, and differences that the comparison must notice."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from clients.programs import (
    assert_same,
    data,
    differs,
    each_rule,
    each_schedule,
    model,
    optimizer,
    scheduler,
    weights,
)
from tolerance import SCHEDULE_RTOL

STEPS = 12


def train(package, rule, schedule=None, steps=STEPS, low=None, clip=None):
    """Trains in a plain loop; returns the weights and the rates."""
    net = model()
    opt = optimizer(package, rule, net.parameters())
    lrs, rates = scheduler(package, schedule, opt) if schedule else None, []
    inputs, labels = data()
    for step in range(steps):
        part = slice(step % 6 * 8, step % 6 * 8 + 8)
        with torch.autocast("cpu", low or torch.bfloat16, enabled=low is not None):
            loss = cross_entropy(net(inputs[part]), labels[part])
        opt.zero_grad()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(net.parameters(), clip)
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        if lrs:
            lrs.step()
    return weights(net), rates


@each_rule
@pytest.mark.parametrize("low", [None, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
def test_the_same(rule, low, watch):
    torchs, _ = train("torch", rule, low=low)
    watch.assert_steps("torch", STEPS)
    ours, _ = train("onepass", rule, low=low)
    watch.assert_steps("onepass", STEPS)
    assert_same(ours, torchs, weights(model()), STEPS, low)


@each_schedule
def test_the_same_rates(schedule):
    ours, rates = train("onepass", "sgd", schedule)
    torchs, torch_rates = train("torch", "sgd", schedule)
    assert rates == pytest.approx(torch_rates, rel=SCHEDULE_RTOL)
    assert len(set(rates)) > 1
    assert_same(ours, torchs, weights(model()), STEPS)


@each_rule
@pytest.mark.parametrize("low", [None, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
def test_a_lost_step_is_noticed(rule, low):
    start = weights(model())
    torchs, _ = train("torch", rule, low=low)
    assert differs(train("onepass", rule, steps=STEPS - 1, low=low)[0], torchs, start, STEPS, low)
    assert differs(train("onepass", rule, "exponential", low=low)[0], torchs, start, STEPS, low)


def test_lost_clipping_is_noticed():
    start = weights(model())
    assert differs(train("onepass", "sgd", clip=0.1)[0], train("torch", "sgd")[0], start, STEPS, torch.bfloat16)


def test_nothing_moved_is_noticed():
    start = weights(model())
    assert differs(start, start, start, STEPS, None)
