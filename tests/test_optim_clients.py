"""Lightning and accelerate with mixed precision: what they unscale, clip and skip, ours against torch's class."""

from __future__ import annotations

import pytest
import torch

import onepass
from tolerance import AUTOCAST_STEPS, FLOAT32_STEPS

# What those packages warn of themselves, on import and in a training.
pytestmark = pytest.mark.filterwarnings("ignore")

CLASSES = ["SGD", "Adam", "AdamW"]
PACKAGES = {"onepass": onepass.optim, "torch": torch.optim}


def batches(count, rows=4):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, 8, generator=generator) for _ in range(count)]


def fit(package, rule, fused, precision, clip, accumulate):
    """The weights after four updates of Lightning's, and how often the optimizer was called."""
    lightning = pytest.importorskip("lightning", reason="needs the extra integrations")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = torch.nn.Linear(8, 2)
            self.calls = 0

        def training_step(self, batch, index):
            # The third batch's gradients overflow once they are scaled.
            factor = 1e38 if index == 2 and precision == "16-mixed" else 10.0
            return self.net(batch).float().square().sum() * factor

        def configure_optimizers(self):
            optimizer = getattr(package, rule)(self.parameters(), lr=0.1, fused=fused)
            optimizer.register_step_post_hook(lambda *_: setattr(self, "calls", self.calls + 1))
            return optimizer

    how = {"precision": precision}
    if precision == "16-mixed":  # for the CPU the trainer itself would take bfloat16, and no scaler
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        how = {"plugins": [lightning.pytorch.plugins.MixedPrecision("16-mixed", "cpu", scaler)]}
    module = Module()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        **how,
        gradient_clip_val=clip,
        accumulate_grad_batches=accumulate,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader(batches(4 * accumulate), batch_size=None))
    return torch.cat([p.detach().flatten() for p in module.parameters()]), module.calls


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [None, 1.0], ids=["", "clipped"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("rule", CLASSES)
def test_lightning(rule, precision, clip, accumulate):
    """The report: RuntimeError with gradient_clip_val in mixed precision."""
    mine, theirs = (fit(package, rule, None, precision, clip, accumulate) for package in PACKAGES.values())
    torch.testing.assert_close(mine[0], theirs[0], **AUTOCAST_STEPS)
    assert mine[1] == theirs[1]
    assert mine[0].isfinite().all()


@pytest.mark.parametrize("package", PACKAGES.values(), ids=PACKAGES)
def test_lightning_refuses_to_clip_what_the_step_unscales(package):
    """Asked for by fused=True, as with torch's class."""
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping because it performs unscaling"):
        fit(package, "AdamW", True, "16-mixed", 1.0, 1)


@pytest.mark.parametrize("fused", [None, False, True])
@pytest.mark.parametrize("rule", CLASSES)
def test_accelerate_sees_a_dropped_step(rule, fused):
    """Its scheduler stands still then: with ours it moved on, silently."""
    accelerate = pytest.importorskip("accelerate", reason="needs the extra integrations")
    found = {}
    for name, package in PACKAGES.items():
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = accelerate.Accelerator(cpu=True)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 2)
        optimizer = getattr(package, rule)(model.parameters(), lr=0.1, fused=fused)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
        seen = []
        for step, batch in enumerate(batches(4)):
            optimizer.zero_grad()
            accelerator.backward(model(batch).square().sum())
            if step in (0, 2):
                model.weight.grad[0, 0] = float("inf")
            optimizer.step()
            scheduler.step()
            seen.append((optimizer.step_was_skipped, optimizer.param_groups[0]["lr"]))
        found[name] = (seen, [p.detach().clone() for p in model.parameters()])
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    assert found["onepass"][0] == found["torch"][0]
    if not fused:
        assert [skipped for skipped, _ in found["onepass"][0]] == [True, False, True, False]
    for mine, theirs in zip(found["onepass"][1], found["torch"][1], strict=True):
        torch.testing.assert_close(mine, theirs, **FLOAT32_STEPS)
