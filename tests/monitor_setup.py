"""Small trainings for the tests of the monitor."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

import onepass
import onepass.optim
from onepass.monitor import Monitor
from onepass.nn import CrossEntropyLoss

STEPS = 7
# The step in which a gradient is infinite, where one is asked for.
BAD = 4


def network(kind="ours"):
    """A convolution, a linear layer, batch norms, ReLUs and dropouts: ours or torch's."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(4 * 36, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 5),
    )
    if kind == "ours":
        onepass.nn.convert(model, fuse_relu=True)
    return model


def data(batch=12):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 1, 8, 8, generator=generator), torch.randint(5, (batch,), generator=generator)


OPTIMIZERS = {
    "adamw": lambda params: onepass.optim.AdamW(params, lr=1e-2),
    "sgd": lambda params: onepass.optim.SGD(params, lr=1e-2, momentum=0.9),
    "lion": lambda params: onepass.optim.Lion(params, lr=1e-3),
    "adamw-tail": lambda params: onepass.optim.AdamW(
        params, lr=1e-2, max_grad_norm=1.0, skip_nonfinite=True, ema_decay=0.9
    ),
    "adamw-fused": lambda params: onepass.optim.AdamW(params, lr=1e-2, fused=True),
    "torch-adamw": lambda params: torch.optim.AdamW(params, lr=1e-2),
    "torch-sgd": lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9),
    "torch-fused": lambda params: torch.optim.AdamW(params, lr=1e-2, fused=True),
}


def train(
    make,
    *,
    watched=True,
    kind="ours",
    bad=False,
    scaled=False,
    steps=STEPS,
    zero_grad=True,
    model=None,
    closure=False,
    **options,
):
    """Trains a little; returns model, optimizer and monitor."""
    model = network(kind) if model is None else model
    optimizer = make(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0) if scaled else None
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    images, labels = data()
    loss_of = CrossEntropyLoss(return_stats=True)
    monitor = Monitor(model, optimizer, scheduler, scaler, **options) if watched else None
    torch.manual_seed(2)
    with monitor or contextlib.nullcontext():
        for step in range(1, steps + 1):
            given = images * float("inf") if bad and step == BAD else images

            def run(given=given):
                if zero_grad:
                    optimizer.zero_grad()
                loss, stats = loss_of(model(given), labels)
                (loss if scaler is None else scaler.scale(loss)).backward()
                run.stats = stats
                return loss

            if closure:
                loss = optimizer.step(run)
            else:
                loss = run()
                if scaler is None:
                    optimizer.step()
                else:
                    scaler.step(optimizer)
                    scaler.update()
            scheduler.step()
            if monitor:
                monitor.log(loss, stats=run.stats, half=step / 2)
        if monitor:
            monitor.log_epoch(val_loss=2.5, val_stats=run.stats)
    return model, optimizer, monitor
