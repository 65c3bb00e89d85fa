"""mmengine: its Runner with our classes in its registries, optimizer wrappers, schedulers, hooks, resuming."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.nn.functional import cross_entropy

from clients.programs import (
    PACKAGES,
    RULES,
    assert_same,
    client,
    data,
    each_rule,
    loader,
    model,
    optimizer,
    scheduler,
    weights,
)
from tolerance import SCHEDULE_RTOL

mmengine = client("mmengine")
optim = client("mmengine.optim")
registry = client("mmengine.registry")
runner = client("mmengine.runner")
base = client("mmengine.model")

EPOCHS = 2
STEPS = 12


class Classifier(base.BaseModel):
    def __init__(self):
        super().__init__()
        self.net = model()

    def forward(self, inputs, labels, mode="tensor"):
        logits = self.net(inputs)
        return {"loss": cross_entropy(logits, labels)} if mode == "loss" else logits


@pytest.fixture(autouse=True)
def registered():
    """Registers our classes under names of their own, as a plug-in would."""
    for name, _ in RULES.values():
        registry.OPTIMIZERS.register_module(
            name=f"Onepass{name}", module=getattr(PACKAGES["onepass"], name), force=True
        )
    yield
    for name, _ in RULES.values():
        registry.OPTIMIZERS.module_dict.pop(f"Onepass{name}")


def wrapper(package, rule, **options):
    name, defaults = RULES[rule]
    prefix = "Onepass" if package == "onepass" else ""
    return {"optimizer": {"type": f"{prefix}{name}", "weight_decay": 0.01, **defaults}, **options}


def fit(folder, package, rule, epochs=EPOCHS, schedulers=None, resume=None, **options):
    made = runner.Runner(
        model=Classifier(),
        work_dir=str(folder),
        train_dataloader=loader(),
        train_cfg={"by_epoch": True, "max_epochs": epochs},
        optim_wrapper=wrapper(package, rule, **options),
        param_scheduler=schedulers,
        default_hooks={"checkpoint": {"type": "CheckpointHook", "interval": 1}, "logger": None},
        resume=resume is not None,
        load_from=resume,
        log_level="ERROR",
        experiment_name=f"{folder.name}-{package}-{id(folder)}",
    )
    logging.disable(logging.INFO)
    made.train()
    logging.disable(logging.NOTSET)
    return made


@each_rule
@pytest.mark.parametrize("clip", [None, {"max_norm": 0.1}, {"type": "value", "clip_value": 0.01}])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_runner(rule, clip, accumulate, tmp_path, watch):
    ends = {}
    for package in PACKAGES:
        made = fit(tmp_path / package, package, rule, clip_grad=clip, accumulative_counts=accumulate)
        watch.assert_steps(package, STEPS // accumulate)
        ends[package] = weights(made.model)
    assert_same(ends["onepass"], ends["torch"], weights(model()), STEPS // accumulate)


@each_rule
def test_its_schedulers(rule, tmp_path, watch):
    """mmengine schedules the rate and momentum (or betas), by update and by epoch."""
    schedulers = [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "end": 4},
        {"type": "CosineAnnealingLR", "T_max": 8, "by_epoch": False, "begin": 4},
        {"type": "LinearMomentum", "start_factor": 0.5, "by_epoch": False, "end": 6},
    ]
    ends = {}
    for package in PACKAGES:
        made = fit(tmp_path / package, package, rule, schedulers=schedulers)
        group = made.optim_wrapper.param_groups[0]
        ends[package] = weights(made.model), group["lr"], group.get("momentum", group.get("betas"))
        watch.assert_steps(package, STEPS)
    assert ends["onepass"][1:] == ends["torch"][1:]
    assert_same(ends["onepass"][0], ends["torch"][0], weights(model()), STEPS)


@each_rule
def test_constructor_with_own_rates(rule, tmp_path, watch):
    """paramwise_cfg makes one group for each parameter."""
    ends = {}
    for package in PACKAGES:
        options = {"paramwise_cfg": {"bias_decay_mult": 0.0, "custom_keys": {"net.0": {"lr_mult": 0.1}}}}
        made = fit(tmp_path / package, package, rule, **options)
        assert len({(g["lr"], g["weight_decay"]) for g in made.optim_wrapper.param_groups}) == 3
        watch.assert_steps(package, STEPS)
        ends[package] = weights(made.model)
    assert_same(ends["onepass"], ends["torch"], weights(model()), STEPS)


@each_rule
def test_resumes(rule, tmp_path, watch, monkeypatch):
    """The resumed run equals the other bit for bit, also across the packages.

    mmengine saves objects of its own, which torch.load refuses since 2.6.
    """
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    schedulers = [{"type": "ExponentialLR", "gamma": 0.8, "by_epoch": False}]
    ends = {p: weights(fit(tmp_path / p, p, rule, schedulers=schedulers).model) for p in PACKAGES}
    whole = ends["onepass"]
    for package, source in (("onepass", "onepass"), ("onepass", "torch"), ("torch", "onepass")):
        watch.quick = 0
        saved = str(tmp_path / source / "epoch_1.pth")
        end = weights(
            fit(tmp_path / f"{package}-{source}", package, rule, schedulers=schedulers, resume=saved).model
        )
        assert watch.quick == (6 if package == "onepass" else 0)
        assert_same(end, whole, weights(model()), STEPS)
        if package == source:
            assert all(map(torch.equal, end, whole))


@each_rule
def test_wrapper_by_hand(rule, watch):
    """OptimWrapper takes our optimizer, and our scheduler works on what it wraps."""
    ends = {}
    inputs, labels = data()
    for package in PACKAGES:
        net = model()
        opt = optimizer(package, rule, net.parameters())
        lrs = scheduler(package, "exponential", opt)
        wrapped = optim.OptimWrapper(opt, accumulative_counts=1, clip_grad={"max_norm": 0.5})
        for _ in range(STEPS):
            with wrapped.optim_context(net):
                loss = cross_entropy(net(inputs), labels)
            wrapped.update_params(loss)
            lrs.step()
        watch.assert_steps(package, STEPS)
        ends[package] = weights(net), wrapped.get_lr()["lr"]
    assert ends["onepass"][1] == pytest.approx(ends["torch"][1], rel=SCHEDULE_RTOL)
    assert_same(ends["onepass"][0], ends["torch"][0], weights(model()), STEPS)


def test_its_averages():
    """mmengine's EMA and SWA equal the average in our step."""
    ends = {}
    inputs, labels = data()
    for package in PACKAGES:
        net = model()
        own = {"ema_decay": 0.75} if package == "onepass" else {}
        opt = optimizer(package, "adamw", net.parameters(), **own)
        average = base.ExponentialMovingAverage(net, momentum=0.25)
        average.update_parameters(net)  # the first is a copy
        for _ in range(STEPS):
            opt.zero_grad()
            cross_entropy(net(inputs), labels).backward()
            opt.step()
            average.update_parameters(net)
        ends[package] = weights(average.module)
        if own:
            with opt.ema_parameters():
                assert_same(weights(net), ends[package], weights(model()), STEPS)
    assert_same(ends["onepass"], ends["torch"], weights(model()), STEPS)
