"""skorch: optimizer by class and `optimizer__` options, its LRScheduler callback, clipping, saved parameters."""

from __future__ import annotations

import pytest
import torch

import onepass
from clients.programs import (
    CLASSES,
    PACKAGES,
    RULES,
    SCHEDULES,
    assert_same,
    client,
    data,
    each_rule,
    each_schedule,
    model,
    weights,
)
from tolerance import SCHEDULE_RTOL

skorch = client("skorch")
callbacks = client("skorch.callbacks")

EPOCHS = 2
STEPS = 12


def net(package, rule, cbs=(), criterion=torch.nn.CrossEntropyLoss, **options):
    name, defaults = RULES[rule]
    return skorch.NeuralNetClassifier(
        model(),
        criterion=criterion,
        optimizer=getattr(PACKAGES[package], name),
        **{f"optimizer__{key}": value for key, value in defaults.items() if key != "lr"},
        lr=defaults["lr"],
        max_epochs=EPOCHS,
        batch_size=8,
        train_split=None,
        verbose=0,
        classes=list(range(CLASSES)),
        callbacks=list(cbs),
        **options,
    )


def fit(*made, **options):
    run = net(*made, **options)
    run.fit(*(t.numpy() for t in data()))
    return run


@each_rule
@pytest.mark.parametrize("clip", [None, 0.1])
def test_trains_as_with_torch(rule, clip, watch):
    ends = {}
    for package in PACKAGES:
        cbs = [("clip", callbacks.GradientNormClipping(clip))] if clip else []
        ends[package] = weights(fit(package, rule, cbs).module_)
        watch.assert_steps(package, STEPS)
    assert_same(ends["onepass"], ends["torch"], weights(model()), STEPS)


@each_schedule
@pytest.mark.parametrize("every", ["batch", "epoch"])
def test_our_schedulers_as_policy(schedule, every):
    rates, ends = {}, {}
    for package, module in PACKAGES.items():
        name, options = SCHEDULES[schedule]
        policy = callbacks.LRScheduler(
            getattr(module.lr_scheduler, name), step_every=every, event_name="rate", **options
        )
        run = fit(package, "sgd", [("lr", policy)])
        batches = [batch for epoch in run.history for batch in epoch["batches"]]
        rates[package] = [row["rate"] for row in (batches if every == "batch" else run.history)]
        ends[package] = weights(run.module_)
    assert rates["onepass"] == pytest.approx(rates["torch"], rel=SCHEDULE_RTOL)
    assert len(set(rates["torch"])) > 1 or (schedule, every) == ("step", "epoch")
    assert_same(ends["onepass"], ends["torch"], weights(model()), STEPS)


def test_plateau_as_policy():
    """skorch looks the class itself up and gives all others last_epoch, so ours is given by a function."""
    plateau = onepass.optim.lr_scheduler.ReduceLROnPlateau
    policies = {
        "torch": torch.optim.lr_scheduler.ReduceLROnPlateau,
        "onepass": lambda optimizer, last_epoch, **options: plateau(optimizer, **options),
    }
    rates = {}
    for package, policy in policies.items():
        options = {"monitor": "train_loss", "patience": 0, "threshold": 0.5, "factor": 0.5}
        run = net(package, "sgd", [("lr", callbacks.LRScheduler(policy, **options))])
        run.max_epochs = 4
        run.fit(*(t.numpy() for t in data()))
        rates[package] = run.optimizer_.param_groups[0]["lr"]
    assert rates["onepass"] == rates["torch"] < 0.1
    with pytest.raises(TypeError, match="last_epoch"):
        fit("onepass", "sgd", [("lr", callbacks.LRScheduler(plateau, monitor="train_loss"))])


def test_simulated_policy():
    """LRScheduler.simulate steps a scheduler on skorch's own optimizer."""
    name, options = SCHEDULES["cosine"]
    ours, theirs = (
        callbacks.LRScheduler(getattr(module.lr_scheduler, name), **options).simulate(10, 0.1)
        for module in (onepass.optim, torch.optim)
    )
    assert list(ours) == pytest.approx(list(theirs), rel=SCHEDULE_RTOL)


@each_rule
def test_saves_and_loads(rule, tmp_path, watch):
    """The resumed run equals the other bit for bit, also across the packages."""
    inputs, labels = (t.numpy() for t in data())
    whole = fit("onepass", rule)
    for package in PACKAGES:
        half = net(package, rule)
        half.max_epochs = 1
        half.fit(inputs, labels)
        half.save_params(f_params=tmp_path / f"{package}.pt", f_optimizer=tmp_path / f"{package}.opt")
    for package, source in (("onepass", "onepass"), ("onepass", "torch"), ("torch", "onepass")):
        run = net(package, rule).initialize()
        run.load_params(f_params=tmp_path / f"{source}.pt", f_optimizer=tmp_path / f"{source}.opt")
        watch.quick = 0
        run.fit_loop(inputs, labels, epochs=1)
        assert watch.quick == (6 if package == "onepass" else 0)
        assert_same(weights(run.module_), weights(whole.module_), weights(model()), STEPS)
        if package == source:
            assert all(map(torch.equal, weights(run.module_), weights(whole.module_)))


def test_our_loss_as_criterion(watch):
    """skorch's predictions know the loss by isinstance of torch's class, for which they apply softmax."""
    inputs, _ = (t.numpy() for t in data())
    theirs = fit("torch", "sgd")
    ours = fit("onepass", "sgd", criterion=onepass.nn.CrossEntropyLoss)
    assert watch.calls["cross_entropy_forward"] == STEPS
    assert_same(weights(ours.module_), weights(theirs.module_), weights(model()), STEPS)
    probabilities = torch.from_numpy(ours.predict_proba(inputs))
    torch.testing.assert_close(probabilities.sum(1), torch.ones(len(inputs)))
    torch.testing.assert_close(probabilities, torch.from_numpy(theirs.predict_proba(inputs)))


def test_grid_search_changes_options():
    """The optimizer takes set_params, and the net can be cloned, as scikit-learn's searches do."""
    run = fit("onepass", "sgd")
    run.set_params(optimizer__lr=0.01, optimizer__momentum=0.5)
    assert run.optimizer_.param_groups[0]["lr"] == 0.01
    assert client("sklearn.base").clone(run).optimizer is onepass.optim.SGD
