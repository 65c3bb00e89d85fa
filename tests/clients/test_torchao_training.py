"""torchao: weights quantized next to our layers, training quantized and in float8, its optimizers and ours."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import onepass
from clients.programs import (
    PACKAGES,
    RULES,
    client,
    data,
    each_rule,
    image_model,
    images,
    model,
    optimizer,
    weights,
)
from tolerance import LEAST_MOVEMENT, QUANTISED

client("torchao")
quantization = client("torchao.quantization")

STEPS = 6


def assert_close(ours, theirs, start):
    """Compares in norm, relative to the movement, of which a lost step is a sixth.

    Now and then a weight that differs in its last place is rounded to another of 255 or fewer levels, and Adam
    divides the difference by gradients that are small themselves, so single elements may be further apart.
    """
    ours, theirs, start = (torch.cat([one.flatten() for one in all_]) for all_ in (ours, theirs, start))
    assert float((theirs - start).norm()) > LEAST_MOVEMENT
    assert float((ours - theirs).norm()) < float((theirs - start).norm()) / 20


def converted(fuse=True):
    net = image_model().train()
    net(images())
    onepass.nn.convert(net, fuse_relu=fuse)
    return net.eval()


def plain():
    net = image_model().train()
    net(images())
    return net.eval()


@pytest.mark.parametrize("config", ["Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"])
def test_quantized_linears_beside_our_layers(config, watch):
    """In evaluation, quantize_ gives the same results for a converted model as for the unconverted one."""
    outputs = []
    for net in (plain(), converted()):
        head = nn.Sequential(net, nn.Linear(3, 32), nn.Dropout(0.5), nn.Linear(32, 32)).eval()
        with torch.no_grad():
            for param in head[1:].parameters():
                torch.nn.init.normal_(param, generator=torch.Generator().manual_seed(param.numel()))
        quantization.quantize_(head, getattr(quantization, config)())
        with torch.no_grad():
            outputs.append(head(images()))
    assert watch.calls["batch_norm_inference"] == 2
    torch.testing.assert_close(outputs[1], outputs[0], **QUANTISED)


def qat(package, rule):
    """Fake-quantized linear layers, whose weights are plain parameters, train with our optimizers."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 32))
    fake = quantization.qat.IntxFakeQuantizeConfig(torch.int8, group_size=32)
    quantization.quantize_(net, quantization.qat.QATConfig(weight_config=fake, step="prepare"))
    assert "FakeQuant" in type(net[0]).__name__
    start = weights(net)
    opt = optimizer(package, rule, net.parameters())
    inputs = torch.randn(16, 32, generator=torch.Generator().manual_seed(3))
    for _ in range(STEPS):
        opt.zero_grad()
        net(inputs).square().mean().backward()
        opt.step()
    return start, weights(net)


@each_rule
def test_quantization_aware_training(rule, watch):
    client("torchao.quantization.qat")
    start, theirs = qat("torch", rule)
    watch.assert_steps("torch", STEPS)
    _, ours = qat("onepass", rule)
    watch.assert_steps("onepass", STEPS)
    assert_close(ours, theirs, start)


@each_rule
def test_float8_training(rule, watch):
    """On the CPU float8 is emulated: the weights stay float32 parameters."""
    float8 = client("torchao.float8")
    ends = {}
    for package in PACKAGES:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 16))
        start = weights(net)
        float8.convert_to_float8_training(net, config=float8.Float8LinearConfig(emulate=True))
        opt = optimizer(package, rule, net.parameters())
        inputs = torch.randn(16, 32, generator=torch.Generator().manual_seed(3))
        for _ in range(STEPS):
            opt.zero_grad()
            net(inputs).square().mean().backward()
            opt.step()
        watch.assert_steps(package, STEPS)
        ends[package] = weights(net)
    assert_close(ends["onepass"], ends["torch"], start)


@each_rule
def test_subclass_parameters(rule):
    """With int8 weights (wrapper tensors, no memory) a step works as torch's, or its error says what it got."""
    training = client("torchao.prototype.quantized_training")
    kinds = {}
    for package in PACKAGES:
        torch.manual_seed(0)
        net = nn.Linear(32, 32)
        quantization.quantize_(net, training.int8_weight_only_quantized_training())
        opt = optimizer(package, rule, net.parameters())
        before = copy.deepcopy(net.weight.detach()).dequantize()
        net(torch.ones(4, 32)).sum().backward()
        try:
            opt.step()
        except (NotImplementedError, TypeError, ValueError) as error:
            kinds[package] = str(error)
            if package == "torch":
                continue
            assert torch.equal(net.weight.detach().dequantize(), before)
        else:
            kinds[package] = ""
            assert not torch.equal(net.weight.detach().dequantize(), before)
    # torchao's tensors lack some operators of torch's own loops of SGD with momentum and AdamW, too.
    assert (kinds["torch"] == "") == (rule == "adam")
    name = RULES[rule][0]
    assert kinds["onepass"] in ("", kinds["torch"]) or kinds["onepass"].lower().startswith(name.lower())
    assert "NULL" not in kinds["onepass"]


def test_its_low_bit_optimizer_and_ours():
    """A training begun with our AdamW goes on with torchao's AdamW with 8-bit states, and the other way round."""
    optim = client("torchao.optim")
    net, (inputs, labels) = model(), data()
    losses = []
    for make in (onepass.optim.AdamW, optim.AdamW8bit, onepass.optim.AdamW):
        opt = make(net.parameters(), lr=1e-2)
        for _ in range(STEPS):
            opt.zero_grad()
            loss = cross_entropy(net(inputs), labels)
            loss.backward()
            losses.append(float(loss.detach()))
            opt.step()
    assert losses[-1] < losses[STEPS] < losses[0]
