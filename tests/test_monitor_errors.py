"""Errors of a monitor: of arguments, which raise before a training, and of its parts, which never stop one."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import onepass.optim
from monitor_setup import OPTIMIZERS, STEPS, train
from onepass.monitor import History, Monitor
from onepass.monitor._file import RunFile
from onepass.monitor._layers import LayerProbe
from onepass.monitor._optimizer import OptimizerWatch


def pair():
    model = nn.Linear(2, 1)
    return model, onepass.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": 3}, TypeError, "Monitor: model must be a torch.nn.Module, got 3"),
        ({"optimizer": "sgd"}, TypeError, "Monitor: optimizer must be an optimizer with param_groups, got 'sgd'"),
        ({"scheduler": 3}, TypeError, "Monitor: scheduler must be a scheduler or None, got 3"),
        ({"scaler": 3}, TypeError, "Monitor: scaler must be a torch.amp.GradScaler or None, got 3"),
        ({"file": 3}, TypeError, "Monitor: file must be a path or None, got 3"),
        ({"every": 0}, ValueError, "Monitor: every must be at least 1, got 0"),
        ({"every": 1.5}, TypeError, "Monitor: every must be an int, got 1.5"),
        ({"layers_every": True}, TypeError, "Monitor: layers_every must be an int, got True"),
        ({"layers_every": -1}, ValueError, "Monitor: layers_every must be at least 1, got -1"),
        ({"callbacks": 3}, TypeError, "Monitor: callbacks must be an iterable of callbacks, got 3"),
    ],
)
def test_arguments(change, error, message):
    model, optimizer = pair()
    with pytest.raises(error, match=message):
        Monitor(**{"model": model, "optimizer": optimizer, **change})


def test_a_file_that_holds_something_stays(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_text("an older run\n")
    model, optimizer = pair()
    with pytest.raises(FileExistsError, match=r"file must be a new or an empty file, got .*run\.jsonl"):
        Monitor(model, optimizer, file=path).__enter__()
    assert path.read_text() == "an older run\n"
    assert optimizer.telemetry is False


def test_outside_of_the_block():
    model, optimizer = pair()
    monitor = Monitor(model, optimizer)
    with pytest.raises(RuntimeError, match=r"Monitor\.log: must be called inside the block"):
        monitor.log(1.0)
    with pytest.raises(RuntimeError, match=r"Monitor\.log_epoch: must be called inside the block"):
        monitor.log_epoch(val_loss=1.0)
    with monitor:
        pass
    with pytest.raises(RuntimeError, match="must be entered once, got a second time"):
        monitor.__enter__()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "x"}, "Monitor.log: loss must be a number or a tensor of one element, got 'x'; left out"),
        ({"loss": torch.ones(2)}, "Monitor.log: loss must be a number or a tensor of one element, got tensor"),
        ({"f1": "x"}, "Monitor.log: f1 must be a number or a tensor of one element, got 'x'; left out"),
        ({"f1": torch.ones(1, dtype=torch.complex64)}, "Monitor.log: f1 must be a number"),
        ({"lr": 1.0}, "Monitor.log: lr must be another name: the monitor fills this column, got 1.0; left out"),
        ({"stats": 3}, "Monitor.log: stats must be LossStatistics, got 3; left out"),
        ({"logits": torch.ones(2, 3)}, "Monitor.log: stats, or both logits and target, must be given, got logits"),
        ({"logits": torch.ones(2), "target": "x"}, "Monitor: log's logits raised TypeError"),
    ],
)
def test_a_value_that_cannot_be_recorded_is_left_out(values, message):
    model, optimizer = pair()
    with Monitor(model, optimizer) as monitor:
        with pytest.warns(RuntimeWarning, match=message):
            monitor.log(**{"loss": 1.0, **values})
        for _ in range(2):  # a second warning would be an error here, and be recorded as one
            monitor.log(**{"loss": 1.0, **values})
    assert len(monitor.history) == 3
    assert {"f1", "accuracy"}.isdisjoint(monitor.history.steps)


def test_a_warning_that_is_an_error_does_not_stop_the_training():
    model, optimizer = pair()
    with warnings.catch_warnings(), Monitor(model, optimizer) as monitor:
        warnings.simplefilter("error")
        monitor.log("x")
    assert len(monitor.history) == 1


class Broken:
    """A callback whose methods raise."""

    def on_step(self, row):
        raise ZeroDivisionError("no step")

    def on_epoch(self, row):
        raise KeyError("no epoch")


def test_an_error_in_a_callback_is_a_warning_with_its_name_once(tmp_path):
    seen = []

    class Working:
        def on_step(self, row):
            seen.append(row["step"])

    with pytest.warns(
        RuntimeWarning, match=r"callback Broken\.on_step raised ZeroDivisionError: no step"
    ) as caught:
        monitor = train(
            OPTIMIZERS["adamw"], callbacks=[Broken(), Working()], file=tmp_path / "run.jsonl", layers_every=None
        )[2]
    assert len(caught) == 1
    assert seen == list(range(1, STEPS + 1))
    assert len(History.read(tmp_path / "run.jsonl")) == STEPS
    (event,) = monitor.history.events
    assert (event["name"], event["text"]) == (
        "callback_failed",
        "Broken.on_step raised ZeroDivisionError: no step",
    )


def broken(*args, **kwargs):
    raise OSError("broken")


@pytest.mark.parametrize(
    ("owner", "method", "part"),
    [
        (RunFile, "write", "the file"),
        (LayerProbe, "arm", "looking at layers"),
        (LayerProbe, "before_step", "the optimizer's step"),
        (LayerProbe, "after_step", "the optimizer's step"),
        (LayerProbe, "take", "log"),
        (OptimizerWatch, "_measured", "the optimizer's step"),
        (OptimizerWatch, "start", "the optimizer's step"),
        (OptimizerWatch, "lrs", "the optimizer's step"),
    ],
)
def test_a_part_that_fails_is_named_and_the_training_goes_on(owner, method, part, tmp_path, monkeypatch):
    expected = train(OPTIMIZERS["adamw"], watched=False)[0].state_dict()
    monkeypatch.setattr(owner, method, broken)
    with pytest.warns(RuntimeWarning, match=f"Monitor: {part} raised OSError: broken") as caught:
        model, _, monitor = train(OPTIMIZERS["adamw"], layers_every=2, file=tmp_path / "run.jsonl")
    assert len({str(warning.message) for warning in caught}) == len(caught)
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    assert monitor.history.end["steps"] == STEPS
    assert "monitor_failed" in {event["name"] for event in monitor.history.events}


def test_a_forward_hook_that_fails(monkeypatch):
    """What is looked at inside the forward pass is left out."""
    monkeypatch.setattr(LayerProbe, "look", broken)
    monitor = train(OPTIMIZERS["adamw"], layers_every=2)[2]
    assert "dead_units" not in monitor.history.layers
    assert (monitor.history.layers["step"] > 0).all()


class Stepper:
    """An optimizer that calls no hooks."""

    def __init__(self, params):
        self.param_groups = [{"params": list(params), "lr": 0.1}]

    def step(self):
        for param in self.param_groups[0]["params"]:
            param.data.sub_(param.grad, alpha=0.1)


def test_an_optimizer_whose_steps_cannot_be_seen():
    model = nn.Linear(2, 1)
    optimizer = Stepper(model.parameters())
    with Monitor(model, optimizer) as monitor:
        for _ in range(3):
            model(torch.ones(2, 2)).sum().backward()
            optimizer.step()
            monitor.log(0.5)
    (event,) = monitor.history.events
    assert (event["name"], event["text"]) == (
        "no_step_hooks",
        "the steps of Stepper cannot be seen: it calls no step hooks",
    )
    assert monitor.history.steps["lr"].tolist() == [[0.1]] * 3
    assert "grad_norm" not in monitor.history.steps


@pytest.mark.parametrize("ours", [True, False])
def test_parameters_that_torchs_loop_steps(ours):
    """Telemetry would be refused there: the norms are taken by torch's functions."""
    torch.manual_seed(0)
    model = nn.Embedding(5, 3, sparse=True)
    optimizer = (onepass.optim.SGD if ours else torch.optim.SGD)(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, layers_every=2) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.tensor([1, 1, 2])).sum().backward()
            optimizer.step()
            monitor.log(0.5)
    assert monitor.history.events == []
    assert monitor.history.steps["grad_norm"][:, 0].tolist() == [pytest.approx(15**0.5)] * 4
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_complex_parameter():
    model = nn.ParameterDict({"a": nn.Parameter(torch.ones(3, dtype=torch.complex64))})
    optimizer = onepass.optim.Adam(model.parameters(), lr=0.1)
    with Monitor(model, optimizer, layers_every=1) as monitor:
        model["a"].abs().sum().backward()
        optimizer.step()
        monitor.log(0.5)
    assert monitor.history.events == []
    assert monitor.history.steps["grad_norm"][0, 0] == pytest.approx(3**0.5)


def test_a_model_without_parameters_or_batch_norm():
    model = nn.Sequential(nn.ReLU())
    param = nn.Parameter(torch.zeros(1))
    with Monitor(model, onepass.optim.SGD([param], lr=0.1), layers_every=1) as monitor:
        monitor.log(1.0)
        monitor.log_epoch()
    assert monitor.history.run["model"]["parameters"] == 0
    assert monitor.history.events == []


def test_gradients_that_become_sparse():
    """Steps of torch's loop measure nothing: from then on torch's functions do."""
    model = nn.Linear(2, 1)
    optimizer = onepass.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer) as monitor:
        for step in range(4):
            for param in model.parameters():
                param.grad = torch.ones_like(param) if step != 1 else torch.ones_like(param).to_sparse()
            optimizer.step()
            monitor.log(1.0)
    assert monitor.history.events == []
    assert monitor.history.steps["grad_norm"][:, 0].tolist() == [pytest.approx(3**0.5)] * 4
    assert optimizer.telemetry is False
