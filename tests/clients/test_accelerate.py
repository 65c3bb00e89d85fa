"""accelerate: prepare in both orders, clipping, accumulation, loss scaling, schedulers, saved states."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from clients.programs import (
    PACKAGES,
    assert_same,
    client,
    each_rule,
    each_schedule,
    loader,
    model,
    optimizer,
    scheduler,
    weights,
)
from tolerance import SCHEDULE_RTOL

accelerate = client("accelerate")

STEPS = 12


@pytest.fixture(autouse=True)
def fresh():
    """Resets accelerate's state, which belongs to the process."""
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def accelerator(scaled=False, **options):
    made = accelerate.Accelerator(cpu=True, **options)
    if scaled:  # accelerate makes a scaler only on accelerators
        made.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return made


class Program:
    """Returns model, optimizer, scheduler and batches, prepared by accelerate."""

    def __init__(self, package, rule, schedule="exponential", order="together", options=None, **settings):
        self.accelerator = accelerator(**settings)
        net, opt = model(), None
        if order == "optimizer after":  # made of the prepared model
            net = self.accelerator.prepare(net)
        opt = optimizer(package, rule, net.parameters(), **(options or {}))
        lrs = scheduler(package, schedule, opt)
        if order == "together":
            net, opt, batches, lrs = self.accelerator.prepare(net, opt, loader(), lrs)
        elif order == "reversed":
            lrs, batches, opt, net = self.accelerator.prepare(lrs, loader(), opt, net)
        elif order == "scheduler after":  # made of the prepared optimizer
            net, opt, batches = self.accelerator.prepare(net, opt, loader())
            lrs = self.accelerator.prepare(scheduler(package, schedule, opt))
        else:
            opt, batches, lrs = self.accelerator.prepare(opt, loader(), lrs)
        self.net, self.opt, self.batches, self.lrs = net, opt, batches, lrs
        self.rates, self.skipped = [], []

    def epoch(self, clip=None, spoiled=None):
        """Trains once over the batches; the loss of the batch `spoiled` is infinite."""
        for i, (inputs, labels) in enumerate(self.batches):
            with self.accelerator.accumulate(self.net):
                loss = cross_entropy(self.net(inputs).float(), labels)
                if i == spoiled:
                    loss = loss * torch.inf
                self.accelerator.backward(loss)
                if clip and self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.net.parameters(), clip)
                self.rates.append(self.opt.param_groups[0]["lr"])
                self.opt.step()
                self.skipped.append(self.opt.step_was_skipped)
                self.lrs.step()
                self.opt.zero_grad()


def train(*made, epochs=2, clip=None, spoiled=None, **settings):
    program = Program(*made, **settings)
    for _ in range(epochs):
        program.epoch(clip, spoiled)
    return program


@each_rule
@pytest.mark.parametrize("order", ["together", "reversed", "optimizer after", "scheduler after"])
def test_orders(rule, order, watch):
    theirs = train("torch", rule, "exponential", order)
    watch.assert_steps("torch", STEPS)
    ours = train("onepass", rule, "exponential", order)
    watch.assert_steps("onepass", STEPS)
    assert_same(weights(ours.net), weights(theirs.net), weights(model()), STEPS)
    assert ours.rates == pytest.approx(theirs.rates, rel=SCHEDULE_RTOL)


@each_rule
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_trains_as_with_torch(rule, accumulate, clip, precision, watch):
    options = {"gradient_accumulation_steps": accumulate}
    if precision == "bf16":
        options["mixed_precision"] = "bf16"
    options["scaled"] = precision == "fp16"
    theirs = train("torch", rule, clip=clip, **options)
    ours = train("onepass", rule, clip=clip, **options)
    watch.assert_steps("onepass", STEPS // accumulate)
    low = torch.bfloat16 if precision == "bf16" else None
    assert_same(weights(ours.net), weights(theirs.net), weights(model()), STEPS, low)
    assert ours.rates == pytest.approx(theirs.rates, rel=SCHEDULE_RTOL)


@each_rule
@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_dropped_step_is_seen(rule, clip, watch):
    """accelerate's optimizer reports the skipped step, and its scheduler does not move."""
    theirs = train("torch", rule, clip=clip, spoiled=2, scaled=True)
    ours = train("onepass", rule, clip=clip, spoiled=2, scaled=True)
    assert theirs.skipped == ours.skipped
    assert sum(ours.skipped) == 2
    assert ours.rates == pytest.approx(theirs.rates, rel=SCHEDULE_RTOL)
    watch.assert_steps("onepass", STEPS - 2)
    assert_same(weights(ours.net), weights(theirs.net), weights(model()), STEPS)


@each_rule
def test_a_dropped_step_with_fused(rule):
    """With fused=True the step drops an update by itself, which accelerate does not see, as with torch's."""
    theirs = train("torch", rule, spoiled=2, scaled=True, options={"fused": True})
    ours = train("onepass", rule, spoiled=2, scaled=True, options={"fused": True})
    assert ours.skipped == theirs.skipped
    assert ours.rates == pytest.approx(theirs.rates, rel=SCHEDULE_RTOL)
    assert_same(weights(ours.net), weights(theirs.net), weights(model()), STEPS)


def test_following_the_optimizer():
    """The rate moves with each update that was taken, whoever drops others; the scheduler is not prepared."""
    for options in ({}, {"fused": True}):
        made = accelerator(scaled=True)
        net = model()
        opt = optimizer("onepass", "sgd", net.parameters(), **options)
        lrs = scheduler("onepass", "exponential", opt, follow="optimizer")
        net, opt, batches = made.prepare(net, opt, loader())
        rates = []
        for i, (inputs, labels) in enumerate(batches):
            made.backward(cross_entropy(net(inputs), labels) * (torch.inf if i == 2 else 1))
            opt.step()
            lrs.step()
            opt.zero_grad()
            rates.append(lrs.last_epoch)
        assert rates == [1, 2, 2, 3, 4, 5]


@each_schedule
def test_schedulers(schedule):
    theirs = train("torch", "sgd", schedule)
    ours = train("onepass", "sgd", schedule)
    assert ours.rates == pytest.approx(theirs.rates, rel=SCHEDULE_RTOL)
    assert len(set(ours.rates)) > 1


def test_plateau():
    """Our scheduler works prepared by accelerate, and on its optimizer."""
    seen = {}
    for package, module in PACKAGES.items():
        made = accelerator()
        net = model()
        opt = made.prepare(optimizer(package, "sgd", net.parameters()))
        lrs = made.prepare(module.lr_scheduler.ReduceLROnPlateau(opt, patience=1, factor=0.5))
        seen[package] = []
        for _ in range(8):
            cross_entropy(net(torch.ones(2, 6)), torch.tensor([0, 1])).backward()
            opt.step()
            lrs.step(1.0)
            seen[package].append(opt.param_groups[0]["lr"])
    assert seen["onepass"] == seen["torch"]
    assert len(set(seen["onepass"])) > 2


@each_rule
def test_saves_and_loads_its_state(rule, tmp_path, watch):
    """The resumed run equals the other bit for bit, also across the packages."""
    whole = train("onepass", rule)
    for package in PACKAGES:
        train(package, rule, epochs=1).accelerator.save_state(tmp_path / package)
    for package, source in (("onepass", "onepass"), ("onepass", "torch"), ("torch", "onepass")):
        program = Program(package, rule)
        program.accelerator.load_state(tmp_path / source)
        watch.quick = 0
        program.epoch()
        assert watch.quick == (6 if package == "onepass" else 0)
        assert program.rates == pytest.approx(whole.rates[6:], rel=SCHEDULE_RTOL)
        assert_same(weights(program.net), weights(whole.net), weights(model()), STEPS)
        if package == source:
            assert all(map(torch.equal, weights(program.net), weights(whole.net)))
