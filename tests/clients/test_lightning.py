"""Lightning: precision, clipping and accumulation, schedulers, checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from clients.programs import (
    PACKAGES,
    assert_same,
    client,
    each_rule,
    each_schedule,
    loader,
    model,
    optimizer,
    scheduler,
    weights,
)
from tolerance import SCHEDULE_RTOL

lightning = client("lightning")

EPOCHS = 2
BATCHES = 6

# Lightning turns "16-mixed" into bfloat16 on a CPU, unless it is given the scaler.
PRECISIONS = {"32": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
CLIPS = {"none": {}, "norm": {"gradient_clip_val": 0.1}, "value": {"gradient_clip_val": 0.01}}


class Module(lightning.LightningModule):
    def __init__(self, package, rule, schedule=None, interval="step", options=None):
        super().__init__()
        self.net = model()
        self.made = (package, rule, schedule, interval, options or {})
        self.rates = []
        self.gradients = []

    def training_step(self, batch, _):
        inputs, labels = batch
        loss = cross_entropy(self.net(inputs), labels)
        self.log("loss", loss)
        return loss

    def on_before_zero_grad(self, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])

    def configure_optimizers(self):
        package, rule, schedule, interval, options = self.made
        opt = optimizer(package, rule, self.parameters(), **options)
        if schedule is None:
            return opt
        if schedule == "plateau":
            lrs = PACKAGES[package].lr_scheduler.ReduceLROnPlateau(opt, patience=0, factor=0.5, threshold=0.5)
            return {"optimizer": opt, "lr_scheduler": {"scheduler": lrs, "monitor": "loss"}}
        lrs = scheduler(package, schedule, opt)
        return {"optimizer": opt, "lr_scheduler": {"scheduler": lrs, "interval": interval}}


def trainer(folder, precision="32", clip="none", accumulate=1, epochs=EPOCHS, **options):
    if precision == "16-mixed":
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        plugin = lightning.pytorch.plugins.MixedPrecision("16-mixed", "cpu", scaler)
        options["plugins"] = [plugin]
    else:
        options["precision"] = precision
    options.setdefault("enable_checkpointing", False)
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        accumulate_grad_batches=accumulate,
        gradient_clip_algorithm=clip if clip != "none" else None,
        **CLIPS[clip],
        **options,
    )


def fit(folder, *made, resume=None, **options):
    module = Module(*made)
    run = trainer(folder, **options)
    run.fit(module, loader(), ckpt_path=resume)
    return module, run


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", list(CLIPS))
@pytest.mark.parametrize("precision", list(PRECISIONS))
@each_rule
def test_trains_as_with_torch(rule, precision, clip, accumulate, tmp_path, watch):
    steps = EPOCHS * BATCHES // accumulate
    options = {"precision": precision, "clip": clip, "accumulate": accumulate}
    theirs, _ = fit(tmp_path, "torch", rule, **options)
    watch.assert_steps("torch", steps)
    ours, run = fit(tmp_path, "onepass", rule, **options)
    watch.assert_steps("onepass", steps)
    assert run.global_step == steps
    assert_same(weights(ours), weights(theirs), weights(model()), steps, PRECISIONS[precision])


@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_unscaling_in_the_pass(rule, tmp_path, watch):
    """With fused=True the step unscales, and Lightning refuses to clip, as with torch's fused classes."""
    options = {"precision": "16-mixed"}
    theirs, _ = fit(tmp_path, "torch", rule, None, "step", {"fused": True}, **options)
    ours, _ = fit(tmp_path, "onepass", rule, None, "step", {"fused": True}, **options)
    watch.assert_steps("onepass", EPOCHS * BATCHES)
    assert_same(weights(ours), weights(theirs), weights(model()), EPOCHS * BATCHES, torch.float16)
    for package in PACKAGES:
        with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
            fit(tmp_path, package, rule, None, "step", {"fused": True}, clip="norm", **options)


def test_clips_in_the_pass_instead(tmp_path, watch):
    """Our max_grad_norm does what gradient_clip_val does, also where the step unscales."""
    theirs, _ = fit(tmp_path, "torch", "sgd", precision="16-mixed", clip="norm")
    made = ("sgd", None, "step", {"fused": True, "max_grad_norm": CLIPS["norm"]["gradient_clip_val"]})
    ours, _ = fit(tmp_path, "onepass", *made, precision="16-mixed")
    watch.assert_steps("onepass", EPOCHS * BATCHES)
    assert_same(weights(ours), weights(theirs), weights(model()), EPOCHS * BATCHES, torch.float16)


@each_schedule
@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_schedulers(schedule, interval, tmp_path):
    theirs, _ = fit(tmp_path, "torch", "sgd", schedule, interval)
    ours, _ = fit(tmp_path, "onepass", "sgd", schedule, interval)
    assert ours.rates == pytest.approx(theirs.rates, rel=SCHEDULE_RTOL)
    assert len(set(ours.rates)) > 1 or (schedule, interval) == ("step", "epoch")
    assert_same(weights(ours), weights(theirs), weights(model()), EPOCHS * BATCHES)


def test_plateau(tmp_path):
    theirs, _ = fit(tmp_path, "torch", "sgd", "plateau", epochs=4)
    ours, _ = fit(tmp_path, "onepass", "sgd", "plateau", epochs=4)
    assert ours.rates == pytest.approx(theirs.rates, rel=SCHEDULE_RTOL)
    assert len(set(ours.rates)) > 1


@each_rule
def test_resumes_from_a_checkpoint(rule, tmp_path, watch):
    """The resumed run equals one without a stop, bit for bit; each package resumes the other's checkpoint."""
    whole, _ = fit(tmp_path, "onepass", rule, "cosine")
    _, half = fit(tmp_path, "onepass", rule, "cosine", epochs=1)
    half.save_checkpoint(tmp_path / "ours.ckpt")
    _, half = fit(tmp_path, "torch", rule, "cosine", epochs=1)
    half.save_checkpoint(tmp_path / "theirs.ckpt")
    watch.quick = 0
    resumed, _ = fit(tmp_path, "onepass", rule, "cosine", resume=tmp_path / "ours.ckpt")
    assert watch.quick >= BATCHES - 1
    assert all(map(torch.equal, weights(resumed), weights(whole)))
    for package, saved in (("onepass", "theirs"), ("torch", "ours")):
        resumed, _ = fit(tmp_path, package, rule, "cosine", resume=tmp_path / f"{saved}.ckpt")
        assert_same(weights(resumed), weights(whole), weights(model()), EPOCHS * BATCHES)


def test_averages_by_the_callback(tmp_path):
    """Lightning's own averaging of weights works, which saves and loads averages next to weights."""
    ends = {}
    for package in PACKAGES:
        average = lightning.pytorch.callbacks.EMAWeightAveraging(decay=0.5)
        module, _ = fit(tmp_path, package, "adamw", callbacks=[average])
        ends[package] = weights(module)
    assert_same(ends["onepass"], ends["torch"], weights(model()), EPOCHS * BATCHES)
    plain, _ = fit(tmp_path, "onepass", "adamw")
    assert not all(map(torch.equal, ends["onepass"], weights(plain)))


def test_manual_optimization(tmp_path, watch):
    """Lightning steps with a closure, and by hand with `toggle_optimizer`."""

    class Manual(Module):
        automatic_optimization = False

        def training_step(self, batch, index):
            opt = self.optimizers()
            self.toggle_optimizer(opt)

            def closure():
                loss = cross_entropy(self.net(batch[0]), batch[1])
                opt.zero_grad()
                self.manual_backward(loss)
                return loss

            if index % 2:
                opt.step(closure=closure)
            else:
                closure()
                self.clip_gradients(opt, gradient_clip_val=0.1, gradient_clip_algorithm="norm")
                opt.step()
            self.untoggle_optimizer(opt)
            self.lr_schedulers().step()

    ends = {}
    for package in PACKAGES:
        module = Manual(package, "adamw", "exponential")
        trainer(tmp_path).fit(module, loader())
        ends[package] = weights(module)
        watch.assert_steps(package, EPOCHS * BATCHES)
    assert_same(ends["onepass"], ends["torch"], weights(model()), EPOCHS * BATCHES)
