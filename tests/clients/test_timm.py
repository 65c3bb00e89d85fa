"""timm: its optimizer factory, Lookahead, averages of weights, schedulers, loss scaling and clipping, models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy

import onepass
from clients.programs import (
    PACKAGES,
    RULES,
    assert_same,
    client,
    data,
    each_rule,
    each_schedule,
    image_model,
    images,
    model,
    optimizer,
    scheduler,
    weights,
)
from tolerance import NETWORK_SHARE, SCHEDULE_RTOL

timm = client("timm")
timm_optim = client("timm.optim")
timm_scheduler = client("timm.scheduler")
timm_utils = client("timm.utils")

STEPS = 12


def loss_of(net, step):
    inputs, labels = data()
    part = slice(step % 6 * 8, step % 6 * 8 + 8)
    return cross_entropy(net(inputs[part]), labels[part])


def train(net, opt, lrs=None, steps=range(STEPS), zero=None):
    rates = []
    for step in steps:
        (zero or opt).zero_grad()
        loss_of(net, step).backward()
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        if lrs is not None:
            lrs.step()
    return rates


@pytest.fixture
def registered():
    """Registers our classes in timm, under names without an underscore, at which timm cuts off a prefix."""
    registry = timm_optim._optim_factory.default_registry
    names = {}
    for rule, (name, _) in RULES.items():
        names["torch", rule] = {"sgd": "momentum", "adam": "adam", "adamw": "adamw"}[rule]
        names["onepass", rule] = f"onepass{rule}"
        kind = getattr(onepass.optim, name)
        info = timm_optim._optim_factory.OptimInfo(
            f"onepass{rule}", kind, has_eps=rule != "sgd", has_momentum=rule == "sgd", has_betas=rule != "sgd"
        )
        registry.register(info)
    yield names
    for rule in RULES:
        del registry._optimizers[f"onepass{rule}"]


@each_rule
@pytest.mark.parametrize("layer_decay", [None, 0.7])
@pytest.mark.parametrize("foreach", [None, True, False])
def test_factory(rule, layer_decay, foreach, registered, watch):
    """timm's groups without decay, its rates by layer and its flag foreach work."""
    ends = {}
    for package in PACKAGES:
        net = model()
        opt = timm_optim.create_optimizer_v2(
            net,
            registered[package, rule],
            lr=0.02,
            weight_decay=0.1,
            momentum=0.8,
            layer_decay=layer_decay,
            foreach=foreach,
        )
        assert isinstance(opt, getattr(PACKAGES[package], RULES[rule][0]))
        assert len({group["weight_decay"] for group in opt.param_groups}) == 2
        train(net, opt)
        watch.assert_steps(package, STEPS)
        ends[package] = weights(net)
    assert_same(ends["onepass"], ends["torch"], weights(model()), STEPS)


def test_factory_by_lookahead_name(registered, watch):
    ends = {}
    for package in PACKAGES:
        net = model()
        opt = timm_optim.create_optimizer_v2(net, f"lookahead_{registered[package, 'adamw']}", lr=0.02)
        train(net, opt)
        watch.assert_steps(package, STEPS)
        ends[package] = weights(net)
    assert_same(ends["onepass"], ends["torch"], weights(model()), STEPS)


@each_rule
def test_lookahead(rule, watch):
    """Lookahead keeps its slow weights in the state of our parameters; they are saved and loaded, too."""
    ends = {}
    for package in PACKAGES:
        net = model()
        opt = timm_optim.Lookahead(optimizer(package, rule, net.parameters()), k=3)
        train(net, opt)
        watch.assert_steps(package, STEPS)
        ends[package] = weights(net)
        again = model()
        first = timm_optim.Lookahead(optimizer(package, rule, again.parameters()), k=3)
        train(again, first, steps=range(7))
        second = timm_optim.Lookahead(optimizer(package, rule, again.parameters()), k=3)
        second.load_state_dict(first.state_dict())
        train(again, second, steps=range(7, STEPS))
        watch.quick, watch.calls["sgd"], watch.calls["adam"] = 0, 0, 0
        assert all(map(torch.equal, weights(again), ends[package]))
    assert_same(ends["onepass"], ends["torch"], weights(model()), STEPS)


@pytest.fixture(params=["optimizer", "model"])
def zeroed_by(request, monkeypatch):
    """Lookahead does not call torch's constructor: its `step` calls hooks only after its first `zero_grad`."""
    step = timm_optim.Lookahead.step
    monkeypatch.setattr(timm_optim.Lookahead, "step", getattr(step, "__wrapped__", step))
    return request.param


@each_schedule
def test_our_schedulers_on_lookahead(schedule, zeroed_by):
    """There is no false warning of a wrong order, and the rates are the same."""
    rates = {}
    for package in PACKAGES:
        net = model()
        opt = timm_optim.Lookahead(optimizer(package, "sgd", net.parameters()))
        zero = net if zeroed_by == "model" else opt
        rates[package] = train(net, opt, scheduler(package, schedule, opt), zero=zero)
    assert rates["onepass"] == pytest.approx(rates["torch"], rel=SCHEDULE_RTOL)
    assert len(set(rates["onepass"])) > 1


def test_following_lookahead(zeroed_by):
    """Its updates are counted, or the scheduler is refused at construction."""
    net = model()
    opt = timm_optim.Lookahead(optimizer("onepass", "sgd", net.parameters()))
    try:
        lrs = scheduler("onepass", "exponential", opt, follow="optimizer")
    except (TypeError, ValueError) as error:
        assert "follow" in str(error)  # noqa: PT017  # either is right
    else:
        rates = train(net, opt, lrs, zero=net if zeroed_by == "model" else opt)
        assert rates[1] == pytest.approx(0.8 * rates[0])


@each_rule
@pytest.mark.parametrize("kind", ["cosine", "step", "multistep", "plateau", "poly", "tanh"])
def test_its_schedulers(rule, kind, watch):
    """timm's schedulers write the rate into the groups, by epoch and by update, with warm-up."""
    ends = {}
    for package in PACKAGES:
        net = model()
        opt = optimizer(package, rule, net.parameters())
        options = SimpleNamespace(
            sched=kind,
            epochs=STEPS,
            lr=opt.param_groups[0]["lr"],
            decay_epochs=2,
            decay_milestones=[3, 5],
            warmup_epochs=2,
            warmup_lr=1e-4,
            decay_rate=0.5,
            patience_epochs=1,
            min_lr=1e-4,
            cooldown_epochs=0,
            eval_metric="loss",
        )
        lrs, _ = timm_scheduler.create_scheduler(options, opt)
        rates = []
        for epoch in range(STEPS):
            lrs.step_update(epoch, metric=1.0)
            opt.zero_grad()
            loss_of(net, epoch).backward()
            rates.append(opt.param_groups[0]["lr"])
            opt.step()
            lrs.step(epoch + 1, 1.0)
        watch.assert_steps(package, STEPS)
        ends[package] = rates, weights(net)
    assert ends["onepass"][0] == ends["torch"][0]
    assert len(set(ends["torch"][0])) > 2
    assert_same(ends["onepass"][1], ends["torch"][1], weights(model()), STEPS)


@each_rule
@pytest.mark.parametrize("clip", [{}, {"clip_grad": 0.1}, {"clip_grad": 0.01, "clip_mode": "value"}, "agc"])
@pytest.mark.parametrize("fused", [None, True])
def test_its_scaler(rule, clip, fused, watch):
    """NativeScaler works as timm's training script uses it: scale, unscale, clip, step."""
    if clip == "agc":
        clip = {"clip_grad": 0.01, "clip_mode": "agc"}
    ends = {}
    for package in PACKAGES:
        net = model()
        opt = optimizer(package, rule, net.parameters(), fused=fused)
        scaler = timm_utils.NativeScaler(device="cpu")
        for step in range(STEPS):
            opt.zero_grad()
            scaler(loss_of(net, step), opt, parameters=net.parameters(), **clip)
        watch.assert_steps(package, STEPS)
        ends[package] = weights(net)
    assert_same(ends["onepass"], ends["torch"], weights(model()), STEPS)


@pytest.mark.parametrize("average", ["ModelEma", "ModelEmaV2", "ModelEmaV3"])
def test_its_averages(average):
    """timm averages a model with our layers; the average in our step equals theirs."""
    ends = {}
    for package in PACKAGES:
        net = image_model()
        if package == "onepass":
            onepass.nn.convert(net)
        kept = getattr(timm_utils, average)(net, decay=0.5)
        own = {"ema_decay": 0.5} if package == "onepass" else {}
        opt = optimizer(package, "adamw", net.parameters(), **own)
        net.eval()  # without dropout's draws
        for _ in range(STEPS):
            opt.zero_grad()
            cross_entropy(net(images()), torch.arange(8) % 3).backward()
            opt.step()
            kept.update(net)
        held = kept.ema if average == "ModelEma" else kept.module
        ends[package] = weights(held)
        if package == "onepass":
            assert (
                type(next(m for m in held.modules() if "BatchNorm" in type(m).__name__)) is onepass.nn.BatchNorm2d
            )
            if average != "ModelEmaV3":  # timm's begins with a copy at its first update, not with an average
                with opt.ema_parameters():
                    assert_same(weights(net), ends[package], weights(image_model()), STEPS)
    assert_same(ends["onepass"], ends["torch"], weights(image_model()), STEPS)


@pytest.mark.parametrize("name", ["resnet10t", "resnet18", "vit_tiny_patch16_224"])
def test_its_models_converted(name, watch):
    """A converted model of timm trains a step and evaluates as the model before."""
    outputs = {}
    options = {"img_size": 32} if name.startswith("vit") else {}
    for package in PACKAGES:
        torch.manual_seed(0)
        net = timm.create_model(name, num_classes=4, **options)
        if package == "onepass":
            table = onepass.nn.convert(net).table
            assert any(entry.outcome.startswith("replaced") for entry in table)
        inputs = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        for module in net.modules():
            if isinstance(module, torch.nn.modules.dropout._DropoutNd):
                module.p = 0.0
        opt = optimizer(package, "sgd", net.parameters(), lr=0.01)
        net.train()
        for _ in range(2):
            opt.zero_grad()
            cross_entropy(net(inputs), torch.arange(4)).backward()
            opt.step()
        net.eval()
        with torch.no_grad():
            outputs[package] = net(inputs)
    # Two steps of a whole network in float32 add sums in another order: relative to the largest.
    largest = float(outputs["torch"].abs().max())
    torch.testing.assert_close(outputs["onepass"], outputs["torch"], rtol=0, atol=NETWORK_SHARE * largest)
    assert watch.quick == 1
    assert (watch.calls["batch_norm_forward"] > 0) == name.startswith("resnet")


def test_its_own_batch_norms_are_left():
    """convert leaves subclasses with an activation of their own, and its table says so."""
    net = timm.create_model("mobilenetv3_small_050", num_classes=4)
    outcomes = {(entry.kind, entry.outcome) for entry in onepass.nn.convert(net).table}
    assert outcomes == {("BatchNormAct2d", "left")}


def test_norm_layer(watch):
    """Models take our class as their norm_layer."""
    net = timm.create_model("resnet18", num_classes=4, norm_layer=onepass.nn.BatchNorm2d)
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    assert watch.calls["batch_norm_forward"] == watch.calls["batch_norm_backward"] == 20
