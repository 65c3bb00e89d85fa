"""torchvision: models converted, our class as norm_layer, its reference training, feature extraction, fusing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import onepass
from clients.programs import PACKAGES, client, prepare_torchvision
from tolerance import FUSED_BY_TORCH, LOSS_SHARE, NETWORK_SHARE, ROUGH_NETWORK_SHARE, SCHEDULE_RTOL

prepare_torchvision()
torchvision = client("torchvision")
extraction = client("torchvision.models.feature_extraction")
references = client("torchvision.ops.misc")

MODELS = ["resnet18", "mobilenet_v2", "densenet121", "shufflenet_v2_x0_5", "efficientnet_b0"]


def build(name, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = torchvision.models.get_model(name, weights=None, num_classes=5, **options)
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0  # the masks of the two differ
        if type(module).__name__ == "StochasticDepth":
            module.p = 0.0
    return net


def images(count=4, size=48):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


def loss_and_gradients(net, precision=torch.float32):
    net = net.train().to(precision)
    net.zero_grad()
    loss = torch.nn.functional.cross_entropy(net(images().to(precision)), torch.arange(4))
    loss.backward()
    buffers = [b for b in net.buffers() if b.is_floating_point()]
    return [loss.detach(), *(p.grad for p in net.parameters()), *buffers]


def assert_as_accurate(ours, theirs, exact):
    """Fails if a network of up to a hundred batch norms is over 4 times as far from float64 as torch's, in norm.

    The floor is for losses, single numbers that torch may hit by luck.
    """
    for i, (our, their, right) in enumerate(zip(ours, theirs, exact, strict=True)):
        scale = float(right.norm())
        our_error, their_error = float((our.double() - right).norm()), float((their.double() - right).norm())
        assert our_error <= 4 * their_error + LOSS_SHARE * scale, (i, our_error, their_error, scale)


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", MODELS)
def test_converted(name, layout, fuse, watch):
    """A training step agrees in loss, gradients and running statistics; so do evaluation after it, and revert."""
    memory = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    plain, ours = (build(name).to(memory_format=memory) for _ in range(2))
    exact = loss_and_gradients(copy.deepcopy(plain), torch.float64)
    conversion = onepass.nn.convert(ours, fuse_relu=fuse)
    kinds = {entry.outcome for entry in conversion.table}
    assert "replaced" in kinds or "replaced, with ReLU" in kinds
    theirs = loss_and_gradients(plain)
    assert watch.calls["batch_norm_forward"] == 0
    got = loss_and_gradients(ours)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in build(name).modules())
    assert watch.calls["batch_norm_forward"] == watch.calls["batch_norm_backward"] == norms
    assert_as_accurate(got, theirs, exact)
    with torch.no_grad():
        expected, found = plain.eval()(images()), ours.eval()(images())
    # After one step on four images the statistics are rough and the outputs large: relative to the largest.
    atol = ROUGH_NETWORK_SHARE * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    conversion.revert()
    assert not any(type(m).__module__.startswith("onepass") for m in ours.modules())
    with torch.no_grad():
        torch.testing.assert_close(ours(images()), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5"])
def test_norm_layer(name, watch):
    """Models take our class as norm_layer; its checkpoint is the plain model's."""
    options = {"norm_layer": onepass.nn.BatchNorm2d} if name != "shufflenet_v2_x0_5" else {}
    plain, ours = build(name), build(name, **options)
    if not options:
        onepass.nn.convert(ours)
    ours.load_state_dict(plain.state_dict())
    exact = loss_and_gradients(copy.deepcopy(plain), torch.float64)
    assert_as_accurate(loss_and_gradients(ours), loss_and_gradients(plain), exact)
    assert watch.calls["batch_norm_forward"] > 0


@pytest.mark.parametrize("activation", [None, nn.ReLU])
def test_conv_norm_activation(activation, watch):
    """Our layers work in Conv2dNormActivation."""
    blocks = {}
    for package, layer in (("torch", nn.BatchNorm2d), ("onepass", onepass.nn.BatchNorm2d)):
        torch.manual_seed(0)
        blocks[package] = torchvision.ops.Conv2dNormActivation(3, 8, norm_layer=layer, activation_layer=activation)
    exact = copy.deepcopy(blocks["torch"]).double()(images().double())
    theirs, ours = blocks["torch"](images()), blocks["onepass"](images())
    assert_as_accurate([ours.detach()], [theirs.detach()], [exact.detach()])
    assert watch.calls["batch_norm_forward"] == 1


def test_frozen_batch_norm():
    """torchvision's FrozenBatchNorm2d is no batch norm of torch's: convert leaves it, and checkpoints load."""
    net = build("resnet18", norm_layer=torchvision.ops.FrozenBatchNorm2d)
    assert onepass.nn.convert(net).table == []


REFERENCE_STEPS = 8


def reference_training(package, amp, dtype=torch.float32):
    """Trains as its reference script: groups without decay, warm-up and cosine, smoothing, averages, clipping."""
    net = build("resnet18").to(dtype)
    if package == "onepass":
        onepass.nn.convert(net, fuse_relu=True)
        groups, _ = onepass.optim.no_decay_groups(net, 1e-4)
        criterion = onepass.nn.CrossEntropyLoss(label_smoothing=0.1)
    else:
        norms = {id(p) for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
        biases = {id(p) for name, p in net.named_parameters() if name.endswith("bias")}
        apart = [p for p in net.parameters() if id(p) in norms | biases]
        rest = [p for p in net.parameters() if id(p) not in norms | biases]
        groups = [{"params": rest, "weight_decay": 1e-4}, {"params": apart, "weight_decay": 0.0}]
        criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    module = PACKAGES[package]
    lrs = module.lr_scheduler
    opt = module.SGD(groups, lr=0.02, momentum=0.9, nesterov=True)
    scheduler = lrs.SequentialLR(
        opt,
        [
            lrs.LinearLR(opt, start_factor=0.01, total_iters=3),
            lrs.CosineAnnealingLR(opt, T_max=REFERENCE_STEPS - 3),
        ],
        milestones=[3],
    )
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    net.train()
    rates, losses = [], []
    for _ in range(REFERENCE_STEPS):
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            loss = criterion(net(images().to(dtype)), torch.arange(4))
        opt.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(opt)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(opt)
        scaler.update()
        average.update_parameters(net)
        rates.append(opt.param_groups[0]["lr"])
        scheduler.step()
        losses.append(float(loss.detach()))
    average.eval()
    with torch.no_grad():
        return rates, torch.tensor(losses), average(images().to(dtype))


@pytest.mark.parametrize("amp", [False, True])
def test_reference_training(amp, watch):
    theirs = reference_training("torch", amp)
    watch.assert_steps("torch", REFERENCE_STEPS)
    ours = reference_training("onepass", amp)
    watch.assert_steps("onepass", REFERENCE_STEPS)
    assert watch.calls["batch_norm_forward"] == 20 * REFERENCE_STEPS
    assert watch.calls["cross_entropy_forward"] == REFERENCE_STEPS
    assert ours[0] == pytest.approx(theirs[0], rel=SCHEDULE_RTOL)
    exact = reference_training("torch", amp=False, dtype=torch.float64)
    assert_as_accurate(ours[1:], theirs[1:], exact[1:])
    assert theirs[1][-1] < theirs[1][0] - 0.1


@pytest.mark.parametrize("training", [False, True])
def test_feature_extraction(training):
    """An extractor of a converted model follows train() and eval(), as that of the plain one does."""
    plain, ours = build("resnet18"), build("resnet18")
    onepass.nn.convert(ours, fuse_relu=True)
    nodes = {"layer1": "low", "layer3.0.bn1": "norm", "avgpool": "high"}
    both = [extraction.create_feature_extractor(net.train(training), nodes) for net in (plain, ours)]
    for mode in (True, False, True):
        expected, found = (net.train(mode)(images()) for net in both)
        assert expected.keys() == found.keys()
        for name in ("low", "high"):
            atol = NETWORK_SHARE * float(expected[name].abs().max())
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=atol)


def test_fuses_for_quantization():
    """fuse_model looks the exact class up and refuses ours by name; after revert it fuses."""
    plain = torchvision.models.quantization.resnet18(weights=None, num_classes=5).eval()
    ours = copy.deepcopy(plain)
    onepass.nn.convert(ours, fuse_relu=True)
    with torch.no_grad():
        expected = plain(images())
        plain.fuse_model(is_qat=False)
        torch.testing.assert_close(plain(images()), expected, **FUSED_BY_TORCH)
        with pytest.raises(AssertionError, match=r"did not find fuser method.*onepass"):
            copy.deepcopy(ours).fuse_model(is_qat=False)
        onepass.nn.revert(ours)
        ours.fuse_model(is_qat=False)
        assert torch.equal(ours(images()), plain(images()))
