"""Opacus: its validator knows our layers, its optimizer wraps ours, private training gives torch's numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import onepass
from clients.programs import (
    PACKAGES,
    assert_same,
    client,
    each_rule,
    each_schedule,
    image_model,
    loader,
    model,
    optimizer,
    scheduler,
    weights,
)
from tolerance import EQUAL_NETWORKS, SCHEDULE_RTOL

opacus = client("opacus")
validators = client("opacus.validators")

STEPS = 6


def private(package, rule, schedule=None, noise=1.0, epochs=1, **options):
    """Makes two trainings draw the same batches and the same noise."""
    net = model()
    opt = optimizer(package, rule, net.parameters())
    lrs = scheduler(package, schedule, opt) if schedule else None
    generator = torch.Generator().manual_seed(4)
    engine = opacus.PrivacyEngine()
    net, opt, batches = engine.make_private(
        module=net,
        optimizer=opt,
        data_loader=loader(),
        noise_multiplier=noise,
        poisson_sampling=False,
        noise_generator=generator,
        **{"max_grad_norm": 0.5, **options},
    )
    rates = []
    for _ in range(epochs):
        for inputs, labels in batches:
            opt.zero_grad()
            cross_entropy(net(inputs), labels).backward()
            rates.append(opt.param_groups[0]["lr"])
            opt.step()
            if lrs:
                lrs.step()
    return net, opt, rates


@each_rule
@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize(
    "options", [{}, {"clipping": "per_layer", "max_grad_norm": [0.1] * 4}, {"grad_sample_mode": "ew"}]
)
def test_trains_as_with_torch(rule, noise, options, watch):
    ends = {}
    for package in PACKAGES:
        net, opt, _ = private(package, rule, noise=noise, **options)
        assert type(opt.original_optimizer) is type(optimizer(package, rule, model().parameters()))
        watch.assert_steps(package, STEPS)
        ends[package] = weights(net)
    assert_same(ends["onepass"], ends["torch"], weights(model()), STEPS)


@each_schedule
def test_our_schedulers(schedule):
    """The scheduler is made on the optimizer before it is wrapped; the wrapper steps it."""
    rates = {package: private(package, "sgd", schedule)[2] for package in PACKAGES}
    assert rates["onepass"] == pytest.approx(rates["torch"], rel=SCHEDULE_RTOL)
    assert len(set(rates["torch"])) > 1


@pytest.mark.parametrize("follow", ["calls", "optimizer"])
def test_a_scheduler_on_the_wrapper(follow):
    """The scheduler is made on DPOptimizer, which has no hooks: it works, or is refused at construction."""
    net, opt, _ = private("onepass", "sgd")
    try:
        lrs = scheduler("onepass", "exponential", opt, follow=follow)
    except (TypeError, ValueError) as error:
        assert follow == "optimizer"
        assert "follow" in str(error)  # noqa: PT017  # either is right
    else:
        before = opt.param_groups[0]["lr"]
        inputs, labels = next(iter(loader()))
        opt.zero_grad()
        cross_entropy(net(inputs), labels).backward()
        opt.step()
        lrs.step()
        assert opt.param_groups[0]["lr"] == pytest.approx(0.8 * before)


@each_rule
def test_large_virtual_batches(rule, watch):
    """With BatchMemoryManager some steps of the wrapper are no steps of ours."""
    memory = client("opacus.utils.batch_memory_manager")
    ends = {}
    for package in PACKAGES:
        net = model()
        opt = optimizer(package, rule, net.parameters())
        net, opt, batches = opacus.PrivacyEngine().make_private(
            module=net,
            optimizer=opt,
            data_loader=loader(),
            noise_multiplier=1.0,
            max_grad_norm=0.5,
            poisson_sampling=False,
            noise_generator=torch.Generator().manual_seed(4),
        )
        with memory.BatchMemoryManager(data_loader=batches, max_physical_batch_size=4, optimizer=opt) as small:
            for inputs, labels in small:
                opt.zero_grad()
                cross_entropy(net(inputs), labels).backward()
                opt.step()
        watch.assert_steps(package, STEPS)
        ends[package] = weights(net)
    assert_same(ends["onepass"], ends["torch"], weights(model()), STEPS)


def normed(package, kind="BatchNorm1d"):
    return nn.Sequential(nn.Linear(6, 16), getattr(package, kind)(16), nn.Linear(16, 3))


@pytest.mark.parametrize("mode", ["hooks", "functorch", "ew"])
def test_refuses_our_batch_norm(mode):
    """Batch norm mixes samples, ours as torch's; make_private refuses both, in different words."""

    def train():
        net = normed(onepass.nn)
        opt = optimizer("onepass", "sgd", net.parameters())
        options = {"noise_multiplier": 1.0, "max_grad_norm": 0.5, "grad_sample_mode": mode}
        net, _, batches = opacus.PrivacyEngine().make_private(
            module=net, optimizer=opt, data_loader=loader(), **options
        )
        inputs, labels = next(iter(batches))
        cross_entropy(net(inputs), labels).backward()

    with pytest.raises((NotImplementedError, RuntimeError), match=r"trainable layer with buffers|Expanded Weight"):
        train()


@pytest.mark.parametrize("kind", ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d"])
def test_validator_asks_for_the_exact_class(kind):
    """The validator looks up `type(module)`: subclasses pass; ours are refused once registered, or reverted."""
    net = normed(onepass.nn, kind)
    ours = getattr(onepass.nn, kind)
    assert validators.ModuleValidator.validate(normed(nn, kind))
    assert validators.ModuleValidator.validate(net) == []
    client("opacus.validators.utils").register_module_validator([ours])(
        client("opacus.validators.batch_norm").validate
    )
    try:
        assert validators.ModuleValidator.validate(net)
    finally:
        del validators.ModuleValidator.VALIDATORS[ours]
    onepass.nn.revert(net)
    assert validators.ModuleValidator.validate(net)


@pytest.mark.parametrize("fuse", [False, True])
def test_validator_fixes_reverted_models(fuse):
    """BatchNorm becomes GroupNorm, and the ReLU stays."""
    plain, ours = image_model(), image_model()
    onepass.nn.convert(ours, fuse_relu=fuse)
    onepass.nn.revert(ours)
    fixed = [validators.ModuleValidator.fix(net).eval() for net in (plain, ours)]
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in fixed[1].modules())
    inputs = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(fixed[1](inputs), fixed[0](inputs), **EQUAL_NETWORKS)


def test_dropout_and_loss_in_private_training(watch):
    """Our layers without parameters pass its checks and give gradients for each sample."""
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), onepass.nn.Dropout(0.2), nn.Linear(16, 3))
    opt = optimizer("onepass", "sgd", net.parameters())
    net, opt, batches = opacus.PrivacyEngine().make_private(
        module=net,
        optimizer=opt,
        data_loader=loader(),
        noise_multiplier=0.0,
        max_grad_norm=1.0,
        poisson_sampling=False,
    )
    loss = onepass.nn.CrossEntropyLoss()
    for inputs, labels in batches:
        opt.zero_grad()
        loss(net(inputs), labels).backward()
        assert all(p.grad_sample.shape == (8, *p.shape) for p in net.parameters())
        opt.step()
    watch.assert_steps("onepass", STEPS)
    assert watch.calls["dropout"] >= STEPS
    assert watch.calls["cross_entropy_forward"] == STEPS
