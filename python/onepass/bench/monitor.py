"""A training step of the demo's network with a monitor, next to the same step with other ways to watch it.

``ours`` is the step with `onepass.monitor.Monitor` at its defaults, with a file; ``nothing`` is the step by
itself. ``hooks`` is what is often written by hand: a forward hook on each layer that reads mean and deviation of
its output, and the norm of each gradient, by ``item()``. ``histograms`` does what wandb.watch does to parameters
and gradients: a copy, a check for numbers that are not finite, the least and the largest value by ``item()``, a
histogram of 64 bins on the CPU; in each step, or in each 50th.

A timed call is 50 steps, so that what happens in each 50th counts with its share.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import onepass.nn
import onepass.optim
from onepass.bench.harness import OURS, Case, Step
from onepass.monitor import Monitor
from onepass.nn import CrossEntropyLoss

_BATCH = 64
_STEPS = 50
# A difference of one percent needs many rounds.
_ROUNDS = 41
_BINS = 64
_PACKAGES = ("onepass", "torch")


def cases(device: torch.device) -> list[Case]:
    """Lists all cases: the demo's step with our layers and optimizer, and with torch's.

    Args:
        device: Where the model is.
    """
    return [
        Case(
            name=f"demo-{package}",
            bytes_moved=None,
            rounds=_ROUNDS,
            setup=partial(_competitors, package, device),
        )
        for package in _PACKAGES
    ]


def _competitors(package: str, device: torch.device) -> dict[str, Step]:
    watches: dict[str, Callable[[nn.Module, Optimizer], _Watch]] = {
        OURS: _Monitored,
        "nothing": _Watch,
        "hooks": _Hooks,
        "histograms-1": partial(_Histograms, 1),
        "histograms-50": partial(_Histograms, _STEPS),
    }
    return {name: _training(package, device, watch) for name, watch in watches.items()}


def network() -> nn.Sequential:
    """Makes the network of `onepass demo`, whose module needs this one."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        if outputs < 64:
            layers.append(nn.MaxPool2d(2))
    layers += [nn.Dropout(0.25), nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers, nn.Linear(128, 10))


def _training(package: str, device: torch.device, watch: Callable[[nn.Module, Optimizer], _Watch]) -> Step:
    """Returns 50 steps of a training that is watched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network().to(device)
        images = torch.rand(_BATCH, 1, 28, 28, device=device)
        labels = torch.randint(10, (_BATCH,), device=device)
    if package == "onepass":
        onepass.nn.convert(model, fuse_relu=True)
    kind = onepass.optim.AdamW if package == "onepass" else torch.optim.AdamW
    optimizer = kind(model.parameters(), lr=1e-3)
    loss_of = CrossEntropyLoss(return_stats=True)
    watching = watch(model, optimizer)

    def run() -> None:
        for _ in range(_STEPS):
            optimizer.zero_grad()
            # The annotation is TorchScript's: with return_stats it is a pair.
            found: Any = loss_of(model(images), labels)
            found[0].backward()
            optimizer.step()
            watching.after_step(*found)

    return run


class _Watch:
    """Watches nothing."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.model = model

    def after_step(self, loss: Tensor, stats: Any) -> None:
        """Takes what a step gave."""


class _Monitored(_Watch):
    """Our monitor as a user would write it."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer)
        folder = tempfile.mkdtemp()
        self._monitor = Monitor(model, optimizer, file=Path(folder) / "run.jsonl").__enter__()
        # When the competitor goes.
        weakref.finalize(self, _end, self._monitor, folder)

    def after_step(self, loss: Tensor, stats: Any) -> None:
        self._monitor.log(loss, stats=stats)


def _end(monitor: Monitor, folder: str) -> None:
    monitor.__exit__(None, None, None)
    shutil.rmtree(folder)


class _Hooks(_Watch):
    """Hooks on all layers, and the norms of all gradients."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer)
        self.seen: dict[str, float] = {}
        for name, module in model.named_children():
            module.register_forward_hook(partial(self._look, name))

    def _look(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        with torch.no_grad():
            self.seen[f"{name} mean"] = output.mean().item()
            self.seen[f"{name} std"] = output.std().item()

    def after_step(self, loss: Tensor, stats: Any) -> None:
        self.seen["loss"] = loss.item()
        self.seen["accuracy"] = stats.accuracy.item()
        for name, param in self.model.named_parameters():
            if param.grad is not None:
                self.seen[name] = param.grad.norm().item()


class _Histograms(_Watch):
    """Histograms of all parameters and gradients at an interval, and the loss in each step."""

    def __init__(self, interval: int, model: nn.Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer)
        self._interval = interval
        self._step = 0
        self.seen: dict[str, Any] = {}

    def after_step(self, loss: Tensor, stats: Any) -> None:
        self.seen = {"loss": loss.item(), "accuracy": stats.accuracy.item()}
        self._step += 1
        if self._step % self._interval == 0:
            for name, param in self.model.named_parameters():
                self.seen[f"parameters/{name}"] = _histogram(param)
                if param.grad is not None:
                    self.seen[f"gradients/{name}"] = _histogram(param.grad)


def _histogram(tensor: Tensor) -> tuple[list[float], float, float]:
    with torch.no_grad():
        flat = tensor.detach().clone().reshape(-1).float()
        finite = torch.isfinite(flat)
        if not finite.all():
            flat = flat[finite]
        low, high = flat.min().item(), flat.max().item()
        counts = torch.histc(flat.cpu(), bins=_BINS, min=low, max=high)
        return counts.tolist(), low, high
