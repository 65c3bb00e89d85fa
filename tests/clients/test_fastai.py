"""fastai: its OptimWrapper around ours, one-cycle fits, callbacks, saving and loading."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from clients.programs import PACKAGES, RULES, assert_same, client, data, each_rule, model, weights

learner = client("fastai.learner")
core = client("fastai.data.core")
load = client("fastai.data.load")
optim = client("fastai.optimizer")
callbacks = client("fastai.callback.all")

EPOCHS = 2
STEPS = 12


def wrapped(package, rule, **more):
    name, options = RULES[rule]
    options = {**{k: v for k, v in options.items() if k != "lr"}, **more}
    return partial(optim.OptimWrapper, opt=getattr(PACKAGES[package], name), **options)


def batches():
    samples = list(zip(*data(), strict=True))
    return core.DataLoaders(
        load.DataLoader(samples, bs=8, device="cpu"), load.DataLoader(samples, bs=8, device="cpu")
    )


def learn(folder, package, rule, splitter=None, cbs=(), **more):
    options = {"splitter": splitter} if splitter else {}
    made = learner.Learner(
        batches(),
        model(),
        loss_func=cross_entropy,
        opt_func=wrapped(package, rule, **more),
        path=folder,
        cbs=list(cbs),
        default_cbs=True,
        **options,
    )
    made.remove_cb(callbacks.ProgressCallback) if hasattr(callbacks, "ProgressCallback") else None
    return made


def quietly(run, fit):
    with run.no_bar(), run.no_logging():
        fit(run)
    return weights(run.model)


@each_rule
@pytest.mark.parametrize("how", ["fit", "one-cycle", "flat-cosine", "sgdr"])
def test_trains_as_with_torch(rule, how, tmp_path, watch):
    """fastai's schedules write lr and, in one-cycle, momentum or betas[0] into our groups."""
    fits = {
        "fit": lambda run: run.fit(EPOCHS, 0.02, wd=0.1),
        "one-cycle": lambda run: run.fit_one_cycle(EPOCHS, 0.02),
        "flat-cosine": lambda run: run.fit_flat_cos(EPOCHS, 0.02),
        "sgdr": lambda run: run.fit_sgdr(2, 1, 0.02),
    }
    steps = STEPS if how != "sgdr" else 18
    ends, rates = {}, {}
    for package in PACKAGES:
        run = learn(tmp_path, package, rule)
        ends[package] = quietly(run, fits[how])
        rates[package] = run.recorder.lrs
        watch.assert_steps(package, steps)
    assert rates["onepass"] == rates["torch"]
    assert (len(set(rates["torch"])) > 1) == (how != "fit")
    assert_same(ends["onepass"], ends["torch"], weights(model()), steps)


@each_rule
def test_groups_frozen_and_discriminative_rates(rule, tmp_path, watch):
    def splitter(net):
        return [list(net[0].parameters()), list(net[2].parameters())]

    def fit(run):
        run.freeze()
        run.fit(1, 0.02)
        run.unfreeze()
        run.fit_one_cycle(1, slice(1e-3, 2e-2))

    ends = {p: quietly(learn(tmp_path, p, rule, splitter), fit) for p in PACKAGES}
    assert watch.quick > 0
    assert_same(ends["onepass"], ends["torch"], weights(model()), STEPS)


@each_rule
def test_clips_and_accumulates(rule, tmp_path, watch):
    ends = {}
    for package in PACKAGES:
        cbs = [callbacks.GradientClip(0.1), callbacks.GradientAccumulation(16)]
        ends[package] = quietly(learn(tmp_path, package, rule, cbs=cbs), lambda run: run.fit(EPOCHS, 0.02))
        watch.assert_steps(package, STEPS // 2)
    assert_same(ends["onepass"], ends["torch"], weights(model()), STEPS // 2)


@each_rule
def test_saves_and_loads(rule, tmp_path, watch):
    """Our file resumes bit for bit; torch's file loads into ours and back."""
    whole = quietly(
        learn(tmp_path, "onepass", rule), lambda run: (run.fit(1, 0.02), run.fit(1, 0.02, reset_opt=False))
    )
    for package in PACKAGES:
        half = learn(tmp_path, package, rule)
        quietly(half, lambda run: run.fit(1, 0.02))
        half.save(package)
    watch.quick = 0
    for package, source in (("onepass", "onepass"), ("onepass", "torch"), ("torch", "onepass")):
        run = learn(tmp_path, package, rule)
        run.create_opt()
        run.load(source)
        end = quietly(run, lambda run: run.fit(1, 0.02))
        assert_same(end, whole, weights(model()), STEPS)
        if package == source:
            assert all(map(torch.equal, end, whole))
            assert watch.quick == 6


def test_rate_finder_puts_everything_back(tmp_path):
    run = learn(tmp_path, "onepass", "adamw")
    quietly(run, lambda run: run.fit(1, 0.02))
    before = weights(run.model)
    with run.no_bar(), run.no_logging():
        run.lr_find(num_it=5, show_plot=False)
    assert all(map(torch.equal, weights(run.model), before))
