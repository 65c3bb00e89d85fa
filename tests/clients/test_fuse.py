"""onepass.nn.fuse on other packages' networks: what it finds, and a training step of each next to torch's."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import nn

import onepass
from clients.programs import client, prepare_torchvision
from fuse_models import assert_parity_by_norm

prepare_torchvision()
torchvision = client("torchvision")
transformers = client("transformers")

RELU, SUM, BOTH = "fused with ReLU", "fused with add", "fused with add, ReLU"
# What becomes of the batch norms of each network, and the size of its images.
VISION = {
    "resnet18": ({RELU: 9, BOTH: 8, "left": 3}, 48),
    "resnet50": ({RELU: 33, BOTH: 16, "left": 4}, 48),
    "mobilenet_v3_small": ({RELU: 5, SUM: 6, "left": 23}, 48),
    "efficientnet_b0": ({"left": 49}, 48),
    "densenet121": ({RELU: 121}, 48),
    "inception_v3": ({RELU: 94}, 112),
    "regnet_x_400mf": ({RELU: 45, BOTH: 22, "left": 4}, 48),
}
LONG = ("efficientnet_b0", "densenet121", "inception_v3")  # half a minute or more each
# Their configurations have a `__getattribute__`, which dynamo does not guard: the models run as they were written.
LANGUAGE = {
    "ResNet": ({"left": 12}, "ResNetModel", {"layer_type": "basic"}),
    "RegNet": ({"left": 17}, "RegNetModel", {"groups_width": 4}),
    "ConvNext": ({}, "ConvNextModel", {}),
}


def still(net):
    """Switches off what draws: the masks of the two differ."""
    for module in net.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ == "StochasticDepth":
            module.p = 0.0
    return net


def build_vision(name):
    torch.manual_seed(0)
    options = {"init_weights": False, "aux_logits": False} if name == "inception_v3" else {}
    return still(torchvision.models.get_model(name, weights=None, num_classes=5, **options))


class Features(nn.Module):
    """Returns the features of a network of transformers."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x).last_hidden_state


def build_transformers(name):
    _, kind, options = LANGUAGE[name]
    config = getattr(transformers, f"{name}Config")
    options = {**options, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}
    if name != "ConvNext":
        options["embedding_size"] = 8
    torch.manual_seed(0)
    return still(Features(getattr(transformers, kind)(config(**options))))


def step(net, x):
    with torch.no_grad():
        # With statistics that are the same for all: those of the step differ by what is compared below.
        before = net.eval()(x)
    net.train()
    x = x.clone().requires_grad_()
    y = net(x)
    # The mean of the squares of few features is smooth, and reaches every parameter that is used.
    (y * torch.linspace(-1, 1, y.shape[1], dtype=y.dtype).view(-1, *[1] * (y.dim() - 2))).sum().backward()
    used = [p for p in net.parameters() if p.grad is not None]
    grads = [x.grad, *(p.grad for p in used)]
    buffers = [b.clone() for b in net.buffers() if b.is_floating_point()]
    return [y.detach(), *grads, *buffers, before], len(used)


def check(net, x, wanted):
    """Compares a training step, then takes the fusion back."""
    keys, kinds = list(net.state_dict()), [type(one) for one in net.modules()]
    exact, _ = step(copy.deepcopy(net).double(), x.double())
    theirs, used = step(copy.deepcopy(net), x)
    ours = copy.deepcopy(net)
    fusion = onepass.nn.fuse(ours)
    got, _ = step(ours, x)
    assert Counter(place.outcome for place in fusion.table) == wanted
    assert list(ours.state_dict()) == keys
    assert_parity_by_norm(used, got, theirs, exact)
    fusion.revert()
    assert [type(one) for one in ours.modules()] == kinds


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.large] if name in LONG else []) for name in VISION]
)
def test_torchvision(name):
    wanted, size = VISION[name]
    check(build_vision(name), torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(2)), wanted)


@pytest.mark.parametrize("name", LANGUAGE)
def test_transformers(name):
    x = torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    check(build_transformers(name), x, LANGUAGE[name][0])
