"""A training has the same bits with a monitor and without: weights, states, gradients, random numbers."""

from __future__ import annotations

import copy
import io

import pytest
import torch

import onepass.optim
from monitor_setup import OPTIMIZERS, network, train
from onepass.monitor import Monitor

# torch warns of a scheduler that steps where the scaler has dropped the first step of its optimizer.
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")


def bits(model, optimizer):
    """Everything that a training has changed."""
    tensors = dict(model.state_dict())
    for number, param in enumerate(model.parameters()):
        tensors[f"grad {number}"] = param.grad
        for name, value in optimizer.state[param].items():
            tensors[f"{name} {number}"] = value
    tensors["random"] = torch.get_rng_state()
    return {name: torch.as_tensor(v) for name, v in tensors.items() if v is not None}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize("kind", ["ours", "torch"])
@pytest.mark.parametrize("bad", [False, True], ids=["", "inf"])
@pytest.mark.parametrize("scaled", [False, True], ids=["", "scaler"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_bits(name, scaled, bad, kind):
    make = OPTIMIZERS[name]
    plain = train(make, watched=False, kind=kind, bad=bad, scaled=scaled)
    expected = bits(*plain[:2])
    for options in ({"layers_every": 1}, {"layers_every": 3, "every": 2}, {"layers_every": None}):
        model, optimizer, monitor = train(make, kind=kind, bad=bad, scaled=scaled, **options)
        assert_same(bits(model, optimizer), expected)
        assert [event["name"] for event in monitor.history.events] == []


@pytest.mark.parametrize("name", ["adamw", "torch-adamw"])
def test_bits_with_a_closure(name):
    expected = bits(*train(OPTIMIZERS[name], watched=False, closure=True)[:2])
    model, optimizer, monitor = train(OPTIMIZERS[name], closure=True, layers_every=2)
    assert_same(bits(model, optimizer), expected)
    assert (monitor.history.steps["grad_norm"] > 0).all()
    assert (monitor.history.layers["grad_norm"][monitor.history.layers["type"] == "Linear"] > 0).all()


def test_everything_is_put_back():
    model, optimizer, _ = train(OPTIMIZERS["adamw"], layers_every=1)
    assert optimizer.telemetry is False
    assert optimizer._observer is None
    assert optimizer._asked_to_measure is False
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not any(param._backward_hooks for param in model.parameters())


def test_telemetry_stays_on_where_it_was():
    def make(params):
        return onepass.optim.AdamW(params, lr=1e-2, telemetry=True)

    assert train(make)[1].telemetry is True


def test_copies_and_pickles_inside():
    """A copy that is made while the layers are looked at does not hold the monitor."""
    model, images = network(), torch.randn(12, 1, 8, 8)
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    with Monitor(model, optimizer, layers_every=1, file=None) as monitor:
        for copied in (copy.deepcopy(model), through_a_file(model)):
            copied(images).sum().backward()
        model(images).sum().backward()
        optimizer.step()
        monitor.log(1.0)
    assert monitor.history.layers["dead_units"].size
    assert copy.deepcopy(optimizer).telemetry is False


def through_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_pairs_stay_in_one_pass():
    """A ReLU that runs in its batch norm's pass does so while it is looked at."""
    model = network()
    pairs = model.extra_repr()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    with Monitor(model, optimizer, layers_every=1):
        assert "(1) and (2) in one pass" in model.extra_repr()
        assert model.extra_repr() == pairs


def test_an_error_of_the_training_goes_through(tmp_path):
    model = network()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    monitor = Monitor(model, optimizer, file=tmp_path / "run.jsonl")

    def fail():
        with monitor:
            monitor.log(1.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert monitor.history.end["error"] == "ZeroDivisionError"
    assert len(monitor.history) == 1
    assert optimizer.telemetry is False


@pytest.mark.filterwarnings("ignore:.*record_function.*", "ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("fullgraph", [True, False])
def test_a_compiled_step_stays_in_its_graph(fullgraph):
    """It is neither measured nor broken: the loss and the rate are recorded."""
    model = network()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    compiled = torch.compile(optimizer.step, fullgraph=fullgraph, backend="eager")
    with Monitor(model, optimizer, layers_every=None) as monitor:
        for _ in range(3):
            compiled()
            monitor.log(1.0)
    assert monitor.history.events == []
    assert monitor.history.steps["lr"].tolist() == [[1e-2]] * 3
