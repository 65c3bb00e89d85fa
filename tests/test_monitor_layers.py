"""What a monitor sees of the layers: dead units and channels, batch norm's two statistics, gradients, updates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import onepass
import onepass.optim
from monitor_setup import OPTIMIZERS, data, train
from onepass.monitor import Monitor
from onepass.monitor._optimizer import norm_of

# The distance of two statistics is one of rounded differences.
DISTANCE_RTOL = 1e-3
# The ratio of norms of a sample of some sixty thousand elements, next to that of all.
SAMPLED_RATIO_RTOL = 0.02
# Layers of trainings with two optimizers that round differently; updates are differences of float32 numbers.
LAYERS_RTOL = 1e-4


def looked_at(model, images, *, steps=1, optimizer=None, loss=torch.Tensor.sum):
    """The values of each layer in the last step, by the layer's name."""
    optimizer = onepass.optim.SGD(model.parameters(), lr=1e-3) if optimizer is None else optimizer
    with Monitor(model, optimizer, layers_every=1) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model(images)).backward()
            optimizer.step()
            monitor.log(1.0)
    assert [event["text"] for event in monitor.history.events] == []
    columns = monitor.history.layers
    return {
        columns["layer"][row]: {name: values[row] for name, values in columns.items()}
        for row in range(len(columns["step"]))
    }


def dead_network(convolution):
    """A batch norm of eight channels: two get no input, one has no weight, one a bias that no ReLU passes."""
    torch.manual_seed(0)
    first = nn.Conv2d(2, 8, 1) if convolution else nn.Linear(2, 8)
    norm = nn.BatchNorm2d(8) if convolution else nn.BatchNorm1d(8)
    with torch.no_grad():
        first.weight[:2] = 0
        norm.weight[2] = 0
        norm.bias[:2] = 0.5
        norm.bias[2] = 0.5
        norm.bias[3] = -50
        norm.bias[4:] = 0.5
    return nn.Sequential(first, norm, nn.ReLU(), nn.Identity())


@pytest.mark.parametrize("fused", ["torch", "pair", "activation"])
@pytest.mark.parametrize("convolution", [True, False], ids=["2d", "1d"])
def test_dead_channels_and_units(convolution, fused):
    model = dead_network(convolution)
    if fused == "pair":
        onepass.nn.convert(model, fuse_relu=True)
    elif fused == "activation":
        kind = onepass.nn.BatchNorm2d if convolution else onepass.nn.BatchNorm1d
        ours = kind(8, activation="relu")
        ours.load_state_dict(model[1].state_dict())
        model = nn.Sequential(model[0], ours, nn.Identity())
    images = torch.randn(64, 2, 3, 3) if convolution else torch.randn(64, 2)
    found = looked_at(model, images)
    assert found["1"]["dead_channels"] == 3 / 8
    where = "1" if fused == "activation" else "2"
    assert found[where]["dead_units"] == 1 / 8


def test_a_pair_at_the_end_of_its_container():
    """Nothing stands behind it: the container's output is looked at."""
    model = nn.Sequential(nn.Sequential(*dead_network(True)[:3]), nn.Sequential(nn.Flatten(), nn.Linear(72, 1)))
    onepass.nn.convert(model, fuse_relu=True)
    found = looked_at(model, torch.randn(64, 2, 3, 3))
    assert found["0.2"]["dead_units"] == 1 / 8


def test_a_shared_relu_counts_by_its_worst_call():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()
            self.fc = nn.Linear(4, 4)
            nn.init.constant_(self.fc.bias, -100.0)

        def forward(self, x):
            return self.relu(self.fc(self.relu(x))) + self.fc(x)

    assert looked_at(Twice(), torch.ones(5, 4))["relu"]["dead_units"] == 1.0


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "torch"])
def test_running_distance(momentum, ours):
    torch.manual_seed(0)
    kind = onepass.nn.BatchNorm2d if ours else nn.BatchNorm2d
    norm = kind(6, momentum=momentum)
    norm(torch.randn(32, 6, 4, 4) * 3 + 1)  # moves the running statistics
    if momentum is None:
        norm(torch.randn(32, 6, 4, 4) * 3 + 1)
    mean, var = norm.running_mean.double().clone(), norm.running_var.double().clone()
    images = torch.randn(32, 6, 4, 4) * 2 + 0.5
    found = looked_at(nn.Sequential(norm), images)["0"]["running_distance"]
    batch_var, batch_mean = torch.var_mean(images.double(), (0, 2, 3))
    squares = (batch_mean - mean) ** 2 / (var + norm.eps)
    squares += ((batch_var + norm.eps) / (var + norm.eps)).log() ** 2 / 4
    assert found == pytest.approx(squares.mean().sqrt().item(), rel=DISTANCE_RTOL)


def test_a_frozen_batch_norm_has_no_distance():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    model[0].eval()
    found = looked_at(model, torch.randn(8, 3))
    assert math.isnan(found.get("0", {}).get("running_distance", math.nan))
    assert found["0"]["grad_norm"] > 0


def test_without_running_statistics():
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 1))
    found = looked_at(model, torch.randn(8, 3))
    assert "running_distance" not in found["0"]


def test_gradients_and_updates():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = onepass.optim.SGD(model.parameters(), lr=0.5)
    found = looked_at(model, torch.randn(8, 3), optimizer=optimizer)
    for name, part in (("0", slice(0, 2)), ("2", slice(2, 4))):
        params = list(model.parameters())[part]
        changes = [p.detach() - b for p, b in zip(params, before[part], strict=True)]
        assert found[name]["grad_norm"] == pytest.approx(norm_of([p.grad for p in params]).item())
        ratio = norm_of(changes) / norm_of([p.detach() for p in params])
        assert found[name]["update_ratio"] == pytest.approx(ratio.item())


def test_gradients_that_the_step_zeroes():
    model = nn.Linear(3, 1)
    optimizer = onepass.optim.SGD(model.parameters(), lr=0.5)
    with Monitor(model, optimizer, layers_every=1) as monitor:
        model(torch.ones(2, 3)).sum().backward()
        optimizer.step(zero_grad=True)
        monitor.log(1.0)
    assert monitor.history.layers["grad_norm"].tolist() == [pytest.approx(4.0)]


def test_a_large_parameter_is_sampled():
    """The ratio of a parameter of 300,000 elements is that of evenly spaced ones."""
    torch.manual_seed(0)
    model = nn.Linear(300_000, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    with Monitor(model, optimizer, layers_every=1) as monitor:
        model(torch.randn(2, 300_000)).sum().backward()
        optimizer.step()
        monitor.log(1.0)
    expected = (model.weight.detach() - before).norm() / model.weight.detach().norm()
    assert monitor.history.layers["update_ratio"][0] == pytest.approx(expected.item(), rel=SAMPLED_RATIO_RTOL)
    assert monitor.history.steps["update_ratio"][0, 0] == pytest.approx(expected.item(), rel=SAMPLED_RATIO_RTOL)


def test_only_in_the_steps_that_are_looked_at():
    """In all others no module and no parameter has a hook."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    optimizer = onepass.optim.SGD(model.parameters(), lr=0.1)
    hooked = []
    with Monitor(model, optimizer, layers_every=10) as monitor:
        for _ in range(20):
            hooked.append(bool(model[1]._forward_hooks) or bool(optimizer._optimizer_step_pre_hooks))
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step(zero_grad=True)
            monitor.log(1.0)
    assert [step + 1 for step, flag in enumerate(hooked) if flag] == [1, 10, 20]


def test_sequences_have_their_units_last():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with torch.no_grad():
        model[0].bias[:3] = -100
        model[0].bias[3] = 100
    assert looked_at(model, torch.randn(2, 5, 3))["1"]["dead_units"] == 3 / 4


def test_evaluation_in_between_is_not_looked_at():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    optimizer = onepass.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, layers_every=1) as monitor:
        model(torch.randn(64, 3)).sum().backward()
        model.eval()(torch.full((1, 3), -100.0))
        with torch.no_grad():
            model.train()(torch.full((1, 3), -100.0))
        optimizer.step()
        monitor.log(1.0)
    assert monitor.history.layers["dead_units"][0] == 0.0


@pytest.mark.filterwarnings("ignore:.*record_function.*", "ignore::DeprecationWarning:torch")
def test_a_compiled_model_is_left_alone():
    """Its layers have gradients and updates; hooks would compile it again."""
    model = torch.compile(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), backend="eager")
    found = looked_at(model, torch.randn(8, 3), steps=3)
    assert found["_orig_mod.0"]["grad_norm"] > 0
    assert "dead_units" not in found["_orig_mod.0"]


def test_half_precision_and_channels_last():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).to(torch.bfloat16, memory_format=torch.channels_last)
    images = data()[0].to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    found = looked_at(model, images, optimizer=onepass.optim.AdamW(model.parameters(), lr=0.1))
    assert np.isfinite([found["0"]["grad_norm"], found["0"]["update_ratio"], found["1"]["dead_units"]]).all()


def test_a_parameter_without_a_gradient():
    model = nn.ModuleDict({"used": nn.Linear(3, 1), "unused": nn.Linear(3, 1)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, layers_every=1) as monitor:
        model["used"](torch.ones(2, 3)).sum().backward()
        optimizer.step()
        monitor.log(1.0)
    layers = monitor.history.layers
    assert np.isnan(layers["grad_norm"][layers["layer"] == "unused"]).all()
    assert monitor.history.events == []


def test_layers_of_our_and_torchs_optimizer_agree():
    ours, theirs = (
        train(OPTIMIZERS[name], kind="torch", layers_every=1, steps=2)[2].history.layers
        for name in ("sgd", "torch-sgd")
    )
    for name in ("grad_norm", "update_ratio", "dead_units", "running_distance"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=LAYERS_RTOL)
