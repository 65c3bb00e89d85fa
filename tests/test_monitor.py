"""What a monitor records, step by step and epoch by epoch."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import onepass.optim
from monitor_setup import BAD, OPTIMIZERS, STEPS, data, network, train
from onepass.monitor import History, Monitor
from onepass.monitor import monitor as monitor_module
from onepass.monitor._pending import Batch
from onepass.nn import CrossEntropyLoss
from onepass.optim.lr_scheduler import ScheduleLR
from tolerance import FLOAT64, SCHEDULE_RTOL

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
GROUPS = ("grad_norm", "param_norm", "update_norm", "update_ratio", "nonfinite", "lost_updates", "lr")
# A loss in float32 that the same operations make twice: a last place.
EQUAL_LOSS_RTOL = 1e-7
# float32 sums of torch's norm; an update is a difference of float32 numbers.
RECORDED_NORM_RTOL = 1e-5
RECORDED_UPDATE_RTOL = 1e-4


def by_hand(make, steps=STEPS):
    """Norms of each step, in float64."""
    model = network()
    optimizer = make(model.parameters())
    (images, labels), rows = data(), []
    torch.manual_seed(2)
    loss_of = CrossEntropyLoss()
    for _ in range(steps):
        before = [p.detach().double().clone() for p in model.parameters()]
        optimizer.zero_grad()
        loss = loss_of(model(images), labels)
        loss.backward()
        optimizer.step()
        after = [p.detach().double() for p in model.parameters()]
        norms = [norm([p.grad.double() for p in model.parameters()]), norm(after)]
        rows.append([loss.item(), *norms, norm([a - b for a, b in zip(after, before, strict=True)])])
    return np.array(rows).T


def norm(tensors):
    return math.sqrt(sum(float(t.square().sum()) for t in tensors))


@pytest.mark.parametrize("name", ["adamw", "sgd", "torch-adamw"])
def test_norms(name):
    steps = 3  # before the scheduler of `train` lowers the rate
    loss, grad, param, update = by_hand(OPTIMIZERS[name], steps)
    found = train(OPTIMIZERS[name], steps=steps, layers_every=1)[2].history.steps
    np.testing.assert_allclose(found["loss"], loss, rtol=EQUAL_LOSS_RTOL)
    np.testing.assert_allclose(found["grad_norm"][:, 0], grad, rtol=RECORDED_NORM_RTOL)
    np.testing.assert_allclose(found["param_norm"][:, 0], param, rtol=RECORDED_NORM_RTOL)
    np.testing.assert_allclose(found["update_norm"][:, 0], update, rtol=RECORDED_UPDATE_RTOL)
    np.testing.assert_allclose(
        found["update_ratio"], found["update_norm"] / found["param_norm"], rtol=FLOAT64["rtol"]
    )


def test_columns():
    history = train(OPTIMIZERS["adamw"], layers_every=3)[2].history
    assert len(history) == STEPS
    assert history.steps["step"].tolist() == list(range(1, STEPS + 1))
    assert history.steps["half"].tolist() == [step / 2 for step in range(1, STEPS + 1)]
    assert set(history.layers["step"]) == {1, 3, 6}
    for name in GROUPS:
        assert history.steps[name].shape == (STEPS, 1)
    for name in ("accuracy", "entropy", "confidence"):
        assert ((history.steps[name] >= 0) & (history.steps[name] <= math.log(5))).all()
    assert (history.steps["batch"] == 12).all()
    assert "scale" not in history.steps
    with pytest.raises(ValueError, match="read-only"):
        history.steps["loss"][0] = 1


def test_the_rate_is_that_of_the_step():
    """Not that of the next one, which the scheduler has set when log is called."""
    lrs = train(OPTIMIZERS["adamw"], layers_every=None)[2].history.steps["lr"][:, 0]
    np.testing.assert_allclose(lrs, [1e-2] * 3 + [1e-3] * 3 + [1e-4], rtol=SCHEDULE_RTOL)
    lrs = train(OPTIMIZERS["torch-sgd"], layers_every=None)[2].history.steps["lr"][:, 0]
    np.testing.assert_allclose(lrs, [1e-2] * 3 + [1e-3] * 3 + [1e-4], rtol=SCHEDULE_RTOL)


@pytest.mark.parametrize("name", ["adamw", "torch-adamw"])
def test_every(name):
    history = train(OPTIMIZERS[name], every=3, layers_every=6)[2].history
    assert history.steps["step"].tolist() == [1, 3, 6]
    assert (history.steps["grad_norm"] > 0).all()
    assert set(history.layers["step"]) == {1, 6}
    assert history.end["steps"] == STEPS


def test_param_groups():
    def make(params):
        params = list(params)
        return onepass.optim.AdamW([{"params": params[:2]}, {"params": params[2:], "lr": 1e-4}], lr=1e-2)

    history = train(make)[2].history
    assert history.steps["lr"][0].tolist() == [1e-2, 1e-4]
    assert history.steps["grad_norm"].shape == (STEPS, 2)
    frame = history.to_pandas()
    assert frame["lr.1"][0] == 1e-4
    assert len(history.run["optimizer"]["groups"]) == 2


@pytest.mark.parametrize(
    ("name", "scaled"),
    [("adamw-tail", False), ("adamw", True), ("adamw-fused", True), ("torch-adamw", True), ("torch-fused", True)],
)
def test_skipped_steps(name, scaled):
    steps = train(OPTIMIZERS[name], bad=True, scaled=scaled, layers_every=None)[2].history.steps
    assert steps["skipped"].tolist() == [0.0] * (BAD - 1) + [1.0] * (STEPS - BAD + 1)
    assert not math.isfinite(steps["loss"][BAD - 1])
    if scaled:
        assert steps["scale"].tolist() == [64.0] * (BAD - 1) + [32.0] * (STEPS - BAD + 1)
    if name.startswith("adamw-"):
        assert steps["nonfinite"][BAD - 1] > 0
        assert steps["update_norm"][BAD - 1] == 0


def test_norms_are_unscaled():
    plain, scaled = (train(OPTIMIZERS["adamw"], scaled=flag)[2].history.steps for flag in (False, True))
    for name in ("adamw", "adamw-fused", "torch-adamw", "torch-fused"):
        steps = train(OPTIMIZERS[name], scaled=True, layers_every=1)[2].history
        np.testing.assert_allclose(steps.steps["grad_norm"][0], plain["grad_norm"][0], rtol=RECORDED_NORM_RTOL)
        first = steps.layers["step"] == 1
        total = np.sqrt(np.nansum(np.square(steps.layers["grad_norm"][first])))
        np.testing.assert_allclose(total, plain["grad_norm"][0, 0], rtol=RECORDED_NORM_RTOL)
    np.testing.assert_allclose(scaled["grad_norm"], plain["grad_norm"], rtol=RECORDED_NORM_RTOL)


def test_a_training_that_becomes_nan(tmp_path):
    path = tmp_path / "run.jsonl"
    train(OPTIMIZERS["adamw"], bad=True, file=path, layers_every=1)
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"not strict JSON: {name}"))
    steps = History.read(path).steps
    assert np.isnan(steps["loss"][BAD - 1 :]).all()
    assert np.isfinite(steps["loss"][: BAD - 1]).all()


def test_log_takes_logits():
    logits, target = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, -100])
    seen = CrossEntropyLoss(return_stats=True)(logits, target)[1]
    model = nn.Linear(2, 1)
    with Monitor(model, torch.optim.SGD(model.parameters())) as monitor:
        monitor.log(0.5, logits=logits, target=target)
        monitor.log(0.5, stats=seen)
    steps = monitor.history.steps
    for name in ("accuracy", "entropy", "confidence", "batch"):
        assert steps[name][0] == steps[name][1]
    assert steps["accuracy"][0] == pytest.approx(seen.accuracy.item())
    assert steps["batch"][0] == 5


def test_epochs():
    model = nn.Linear(2, 1)
    logits, target = torch.randn(8, 3), torch.randint(3, (8,))
    loss_of = CrossEntropyLoss(return_stats=True)
    halves = [loss_of(logits[part], target[part])[1] for part in (slice(3), slice(3, 8))]
    whole = loss_of(logits, target)[1]
    with Monitor(model, torch.optim.SGD(model.parameters())) as monitor:
        for stats, loss in zip(halves, (1.0, 2.0), strict=True):
            monitor.log(loss, stats=stats)
        monitor.log_epoch(val_loss=torch.tensor(3.0), val_stats=halves, f1=0.25)
        monitor.log(7.0)
        monitor.log_epoch(train_loss=0.125)
    epochs = monitor.history.epochs
    assert epochs["epoch"].tolist() == [0, 1]
    assert epochs["step"].tolist() == [2, 3]
    assert epochs["train_loss"].tolist() == [1.5, 0.125]
    assert epochs["val_loss"][0] == 3.0
    assert math.isnan(epochs["val_loss"][1])
    assert epochs["f1"][0] == 0.25
    for prefix in ("train_", "val_"):
        assert epochs[f"{prefix}accuracy"][0] == pytest.approx(whole.accuracy.item())
    for name in ("calibration_error", "val_calibration_error"):
        assert epochs[name][0] == pytest.approx(whole.expected_calibration_error().item())
    assert monitor.history.steps["epoch"].tolist() == [0, 0, 1]


def test_header(tmp_path):
    model = network()
    optimizer = OPTIMIZERS["adamw-tail"](model.parameters())
    scheduler = ScheduleLR(optimizer, "warmup(5) >> cosine(10)")
    with Monitor(model, optimizer, scheduler, file=tmp_path / "run.jsonl"):
        pass
    run = History.read(tmp_path / "run.jsonl").run
    assert run["model"]["class"] == "Sequential"
    assert run["model"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert [layer["type"] for layer in run["model"]["layers"]][:2] == ["Conv2d", "BatchNorm2d"]
    (group,) = run["optimizer"]["groups"]
    assert (group["lr"], group["initial_lr"]) == (0.0, 1e-2)
    assert run["optimizer"]["max_grad_norm"] == 1.0
    assert group["betas"] == [0.9, 0.999]
    assert group["decays_norms_or_biases"] is True
    assert (run["scheduler"], run["schedule"]) == ("ScheduleLR", "warmup(5) >> cosine(10)")
    groups, _ = onepass.optim.no_decay_groups(model, 0.1)
    with Monitor(model, onepass.optim.AdamW(groups)) as monitor:
        pass
    assert [g["decays_norms_or_biases"] for g in monitor.history.run["optimizer"]["groups"]] == [False, False]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_missing_zero_grad(name):
    """Seen in the second step; not seen where gradients are zeroed, as in all other tests."""
    monitor = train(OPTIMIZERS[name], zero_grad=False)[2]
    events = [event for event in monitor.history.events if event["name"] == "missing_zero_grad"]
    assert [event["step"] for event in events] == [2, 3, 4]


def test_another_loss_before_zero_grad_is_no_fault():
    """As in a GAN: the generator's loss adds to the discriminator's gradients, which are then zeroed."""
    model = nn.Linear(2, 1)
    optimizer = onepass.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer) as monitor:
        for _ in range(4):
            model(torch.ones(3, 2)).sum().backward()
            optimizer.zero_grad()
            model(torch.ones(3, 2)).sum().backward()
            optimizer.step()
            monitor.log(1.0)
    assert monitor.history.events == []


def test_micro_batches_are_no_fault():
    model = nn.Linear(2, 1)
    optimizer = onepass.optim.SGD(model.parameters(), lr=0.1)
    with Monitor(model, optimizer) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            for _ in range(2):
                model(torch.ones(3, 2)).sum().backward()
            optimizer.step()
            monitor.log(1.0)
    assert monitor.history.events == []


@pytest.mark.parametrize("name", ["adamw-tail", "torch-fused"])
def test_numbers_that_are_read_later(name, monkeypatch):
    """As on a GPU: tensors are kept, their copies start at one reading and are looked at in the next."""

    def options():
        return {"bad": True, "scaled": True, "layers_every": 3, "steps": 130}

    expected = train(OPTIMIZERS[name], **options())[2].history

    def copies(tensors):
        return [tensor.detach().clone().reshape(-1) for tensor in tensors]

    monkeypatch.setattr(monitor_module, "kept_all", copies)
    monkeypatch.setattr(monitor_module, "kept", lambda tensor: copies([tensor])[0])
    monkeypatch.setattr(Batch, "is_waiting", True, raising=False)
    read = []
    monkeypatch.setattr(
        Batch, "__setattr__", lambda self, key, value: key == "is_waiting" or object.__setattr__(self, key, value)
    )
    rows = Batch.rows
    monkeypatch.setattr(Batch, "rows", lambda self, totals: read.append(len(self._pending)) or rows(self, totals))
    found = train(OPTIMIZERS[name], **options())[2].history
    assert sum(read) == 130
    assert read[:2] == [50, 50]
    for table in ("steps", "layers", "epochs"):
        for column, values in getattr(expected, table).items():
            np.testing.assert_array_equal(values, getattr(found, table)[column], err_msg=column)
