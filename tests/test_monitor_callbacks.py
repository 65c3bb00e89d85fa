"""The monitor's callbacks against the real packages, offline: TensorBoard, Lightning, transformers, accelerate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import onepass.optim
from monitor_setup import OPTIMIZERS, STEPS, train
from onepass.monitor import History, Monitor
from onepass.monitor.callbacks import AccelerateCallback, TensorBoardCallback, WandbCallback
from onepass.monitor.callbacks._options import check_options

# Those packages warn of their own code, on import and in a training.
pytestmark = pytest.mark.filterwarnings("ignore")


def scalars(folder):
    """What TensorBoard's own reader finds: the steps and values of each scalar."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    values = {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
    return values, found


@pytest.mark.parametrize("own", [True, False], ids=["folder", "writer"])
def test_tensorboard(tmp_path, own):
    pytest.importorskip("tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = None if own else SummaryWriter(tmp_path)
    callback = TensorBoardCallback(tmp_path if own else writer)
    monitor = train(OPTIMIZERS["adamw"], callbacks=[callback], layers_every=3, zero_grad=False)[2]
    if writer is not None:
        writer.add_scalar("still open", 1.0, 1)
        writer.close()
    values, found = scalars(tmp_path)
    steps = monitor.history.steps
    assert [step for step, _ in values["monitor/loss"]] == steps["step"].tolist()
    assert [value for _, value in values["monitor/loss"]] == pytest.approx(steps["loss"].tolist())
    assert [value for _, value in values["monitor/lr"]] == pytest.approx(steps["lr"][:, 0].tolist())
    assert [step for step, _ in values["monitor/layers/5/grad_norm"]] == [1, 3, 6]
    assert values["monitor/epoch/val_loss"] == [(STEPS, 2.5)]
    texts = set(found.Tags()["tensors"])
    assert {"monitor/run/text_summary", "monitor/events/missing_zero_grad/text_summary"} <= texts


def test_tensorboard_refuses():
    with pytest.raises(TypeError, match="writer must be a SummaryWriter or a folder, got 3"):
        TensorBoardCallback(3)


def test_wandb_refuses():
    with pytest.raises(TypeError, match=r"run must be a wandb\.Run or None, got 3"):
        WandbCallback(3)
    with pytest.raises(TypeError, match="run must be None with arguments for a new run, got 3"):
        WandbCallback(3, project="x")


def test_options():
    with pytest.raises(
        TypeError, match="X: options must be among file, every, layers_every, callbacks, got fil='a'"
    ):
        check_options("X", {"fil": "a"})


def sample(count=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, generator=generator), torch.randint(2, (count,), generator=generator)


class Steps:
    """Counts the rows that a monitor has handed on."""

    def __init__(self):
        self.rows = []

    def on_step(self, row):
        self.rows.append(row)


@pytest.fixture
def lightning():
    return pytest.importorskip("lightning.pytorch", reason="needs the extra integrations")


def module_of(lightning, fails=False):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
            self.losses = []

        def training_step(self, batch, index):
            if fails and index == 2:
                raise ZeroDivisionError
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def validation_step(self, batch, index):
            self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self):
            optimizer = onepass.optim.AdamW(self.parameters(), lr=1e-2)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    return Module()


def fit(lightning, folder, module, callback, **options):
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[] if callback is None else [callback],
        **options,
    )
    loader = DataLoader(TensorDataset(*sample()), batch_size=8)
    trainer.fit(module, loader, loader)
    return trainer


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning(lightning, tmp_path, accumulate):
    from onepass.monitor.callbacks.lightning import LightningMonitor

    path, module = tmp_path / "run.jsonl", module_of(lightning)
    callback = LightningMonitor(file=path, layers_every=2)
    fit(lightning, tmp_path, module, callback, accumulate_grad_batches=accumulate)
    history = History.read(path)
    steps = history.steps
    expected = torch.tensor(module.losses).view(-1, accumulate).mean(1)
    assert steps["loss"].tolist() == pytest.approx(expected.tolist())
    assert steps["epoch"].tolist() == [epoch for epoch in (0, 1) for _ in range(4 // accumulate)]
    assert (steps["grad_norm"] > 0).all()
    assert (steps["update_norm"] > 0).all()
    assert steps["lr"][-1, 0] == pytest.approx(1e-3)
    layers = history.layers
    assert (layers["grad_norm"][layers["type"] == "Linear"] > 0).all()
    assert history.epochs["val_loss"].shape == (2,)
    assert (history.epochs["val_loss"] > 0).all()
    assert history.run["scheduler"] == "StepLR"
    assert history.end["steps"] == len(steps["loss"]) == len(callback.history)
    assert history.events == []
    plain = module_of(lightning)
    fit(lightning, tmp_path, plain, None, accumulate_grad_batches=accumulate)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, module.state_dict()[name]), name


def test_lightning_with_an_error(lightning, tmp_path):
    from onepass.monitor.callbacks.lightning import LightningMonitor

    callback = LightningMonitor(file=tmp_path / "run.jsonl")
    with pytest.raises(RuntimeError, match="needs a training that has begun"):
        _ = callback.history
    with pytest.raises(ZeroDivisionError):
        fit(lightning, tmp_path, module_of(lightning, fails=True), callback)
    history = History.read(tmp_path / "run.jsonl")
    assert (len(history), history.end["error"]) == (2, "ZeroDivisionError")


def trainer_of(folder, callbacks, **options):
    transformers = pytest.importorskip("transformers", reason="needs the extra integrations")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
            self.losses = []

        def forward(self, x, labels):
            logits = self.net(x)
            loss = nn.functional.cross_entropy(logits, labels)
            if self.training:
                self.losses.append(loss.item())
            return {"loss": loss, "logits": logits}

    model = Model()
    optimizer = onepass.optim.AdamW(model.parameters(), lr=1e-2)
    inputs, labels = sample()
    examples = [{"x": x, "labels": label} for x, label in zip(inputs, labels, strict=True)]
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            str(folder),
            num_train_epochs=2,
            per_device_train_batch_size=8,
            report_to=[],
            save_strategy="no",
            eval_strategy="epoch",
            use_cpu=True,
            disable_tqdm=True,
            **options,
        ),
        train_dataset=examples,
        eval_dataset=examples,
        optimizers=(optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 4)),
        callbacks=callbacks,
    )
    return trainer, model


@pytest.mark.parametrize("accumulate", [1, 2])
def test_transformers(tmp_path, monkeypatch, accumulate):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("transformers", reason="needs the extra integrations")
    from onepass.monitor.callbacks.transformers import TransformersMonitor

    path, counted = tmp_path / "run.jsonl", Steps()
    callback = TransformersMonitor(file=path, layers_every=2, callbacks=[counted])
    trainer, model = trainer_of(tmp_path, [callback], gradient_accumulation_steps=accumulate)
    trainer.train()
    history = History.read(path)
    expected = torch.tensor(model.losses).view(-1, accumulate).mean(1)
    assert history.steps["loss"].tolist() == pytest.approx(expected.tolist())
    assert (history.steps["update_norm"] > 0).all()
    assert history.steps["epoch"].tolist() == [epoch for epoch in (0, 1) for _ in range(4 // accumulate)]
    assert (history.epochs["val_loss"] > 0).all()
    assert history.epochs["val_loss"].shape == (2,)
    assert len(counted.rows) == len(callback.history) == history.end["steps"]
    assert history.events == []
    assert not model._forward_hooks
    plain, unwatched = trainer_of(tmp_path, [], gradient_accumulation_steps=accumulate)
    plain.train()
    for name, value in unwatched.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_accelerate(tmp_path):
    """Its wrapped optimizer and scheduler, and its trackers: TensorBoard's."""
    accelerate = pytest.importorskip("accelerate", reason="needs the extra integrations")
    pytest.importorskip("tensorboard")
    from accelerate.utils import ProjectConfiguration

    accelerator = accelerate.Accelerator(
        cpu=True,
        log_with="tensorboard",
        gradient_accumulation_steps=2,
        project_config=ProjectConfiguration(project_dir=str(tmp_path), logging_dir=str(tmp_path)),
    )
    accelerator.init_trackers("run")
    model = nn.Linear(3, 2)
    optimizer = onepass.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(TensorDataset(*sample()), batch_size=4)
    model, optimizer, scheduler, loader = accelerator.prepare(
        model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2), loader
    )
    with Monitor(
        model,
        optimizer,
        scheduler,
        accelerator.scaler,
        callbacks=[AccelerateCallback(accelerator)],
        layers_every=2,
    ) as monitor:
        for inputs, labels in loader:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(inputs), labels)
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                if accelerator.sync_gradients:
                    monitor.log(loss)
        monitor.log_epoch(val_loss=0.5)
    accelerator.end_training()
    values, _ = scalars(tmp_path / "run")
    history = monitor.history
    assert history.events == []
    assert (history.steps["update_norm"] > 0).all()
    assert history.run["optimizer"]["class"] == "AcceleratedOptimizer"
    assert [step for step, _ in values["monitor/loss"]] == history.steps["step"].tolist() == [1, 2, 3, 4]
    assert values["monitor/epoch/val_loss"] == [(4, 0.5)]
    assert all(math.isfinite(value) for _, value in values["monitor/grad_norm"])


def test_accelerate_refuses():
    with pytest.raises(TypeError, match="accelerator must be an Accelerator, got 3"):
        AccelerateCallback(3)
