"""Shared by the tests of clients: a toy model and its data, rules and schedules, and what "the same" means."""

from __future__ import annotations

import importlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import onepass.optim
from onepass import _native
from tolerance import LEAST_MOVEMENT

SAMPLES, FEATURES, CLASSES = 48, 6, 3

# Both packages have classes of the same names, and a module lr_scheduler.
PACKAGES = {"torch": torch.optim, "onepass": onepass.optim}

RULES = {
    "sgd": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}),
    "adam": ("Adam", {"lr": 1e-2}),
    "adamw": ("AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
}
each_rule = pytest.mark.parametrize("rule", list(RULES))

# All are made for 12 steps.
SCHEDULES = {
    "step": ("StepLR", {"step_size": 3, "gamma": 0.5}),
    "cosine": ("CosineAnnealingLR", {"T_max": 12}),
    "exponential": ("ExponentialLR", {"gamma": 0.8}),
    "one-cycle": ("OneCycleLR", {"max_lr": 0.05, "total_steps": 13}),
    "lambda": ("LambdaLR", {"lr_lambda": lambda step: 1 / (1 + step)}),
}
each_schedule = pytest.mark.parametrize("schedule", list(SCHEDULES))


def optimizer(package: str, rule: str, params: Any, **options: Any) -> Any:
    """Makes a package's optimizer of a rule."""
    name, defaults = RULES[rule]
    return getattr(PACKAGES[package], name)(params, **{**defaults, **options})


def scheduler(package: str, schedule: str, optimizer: Any, **options: Any) -> Any:
    """Makes a package's scheduler."""
    name, defaults = SCHEDULES[schedule]
    return getattr(PACKAGES[package].lr_scheduler, name)(optimizer, **{**defaults, **options})


def model(seed: int = 0) -> nn.Sequential:
    """Makes a smooth model, in which a difference in the last place stays small."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, CLASSES))


def image_model(seed: int = 0) -> nn.Sequential:
    """Makes a model with batch norms, ReLUs and dropout, for images of 3 x 8 x 8."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(8, CLASSES),
        )


def data() -> tuple[Tensor, Tensor]:
    """Makes inputs of shape (SAMPLES, FEATURES) and their labels."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SAMPLES, FEATURES, generator=generator)
    return inputs, inputs[:, :CLASSES].argmax(1)


def images() -> Tensor:
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def loader(batch_size: int = 8, **options: Any) -> Any:
    """Yields the data in batches, in the same order in each epoch."""
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=batch_size, **options)


def weights(module: nn.Module) -> list[Tensor]:
    """Copies all parameters."""
    return [p.detach().clone() for p in module.parameters()]


class Watch:
    """Counts calls of the core."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        # Steps that the core took in one call from what it remembers. The first step is no such step: it makes
        # states.
        self.quick = 0

    def assert_steps(self, package: str, steps: int, first: int = 1) -> None:
        """Fails unless the core took all steps, all but the first ones in the regular way."""
        wanted = max(steps - first, 0) if package == "onepass" else 0
        irregular = self.calls["sgd"] + self.calls["adam"]
        assert self.quick == wanted, f"{self.quick} regular native steps, wanted {wanted}; {dict(self.calls)}"
        assert bool(irregular) == (package == "onepass" and first > 0), dict(self.calls)


class _WatchedCore:
    """The core, or one of its modules, which counts calls of its functions.

    A step over explicit lists, `core.adam.step_lists`, is counted as a call of "adam".
    """

    def __init__(self, core: ModuleType, watch: Watch) -> None:
        self._core, self._watch = core, watch

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._core, name)
        if isinstance(value, ModuleType):
            return _WatchedCore(value, self._watch)
        if isinstance(value, type) or not callable(value):
            return value

        def counted(*args: Any, **options: Any) -> Any:
            result = value(*args, **options)
            rule = self._core.__name__.rpartition(".")[2]
            self._watch.calls[rule if name == "step_lists" else name] += 1
            self._watch.quick += name == "step" and result is True
            return result

        return counted


@contextmanager
def watched() -> Iterator[Watch]:
    """Watches the core, also in processes without fixtures."""
    watch, core = Watch(), _native.core
    _native.core = _WatchedCore(core, watch)  # type: ignore[assignment]
    try:
        yield watch
    finally:
        _native.core = core


# A step rounds a weight once and each moment once or a few times, and ours rounds at other places than torch's.
# The allowance is a few units in the last place of the largest weight in each step; a plain loop needs at most
# 0.14.
ULPS_A_STEP = 1
# In autocast a difference in the last place of a weight can, once in some thousand times, round its bfloat16 or
# float16 copy the other way, by 2^-8 or 2^-11 of it, which a gradient shows in part. A share of the total
# movement.
LOW_SHARE = {torch.bfloat16: 2**-9, torch.float16: 2**-12}


def assert_same(
    ours: Sequence[Tensor],
    torchs: Sequence[Tensor],
    start: Sequence[Tensor],
    steps: int,
    low: torch.dtype | None = None,
) -> None:
    """Fails unless two trainings from one start ended at the same weights.

    Args:
        ours: The weights of one.
        torchs: The weights of the other.
        start: Where both began.
        steps: How many they took.
        low: The dtype of autocast.
    """
    assert len(ours) == len(torchs) == len(start) > 0
    moved = max(float((t - s).abs().max()) for t, s in zip(torchs, start, strict=True))
    assert moved > LEAST_MOVEMENT, f"the training moved nothing: {moved}"
    largest = max(float(t.abs().max()) for t in torchs)
    for i, (our, their) in enumerate(zip(ours, torchs, strict=True)):
        assert our.dtype == their.dtype
        limit = steps * ULPS_A_STEP * torch.finfo(their.dtype).eps * largest
        if low is not None:
            limit += moved * LOW_SHARE[low]
        difference = float((our - their).abs().max())
        assert difference <= limit, (
            f"parameter {i}: {difference:.3g} apart, allowed {limit:.3g}, moved {moved:.3g}"
        )


def differs(
    ours: Sequence[Tensor], others: Sequence[Tensor], start: Sequence[Tensor], steps: int, low: Any
) -> bool:
    """Returns whether `assert_same` would notice a difference."""
    try:
        assert_same(ours, others, start, steps, low)
    except AssertionError:
        return True
    return False


def client(name: str) -> Any:
    """Imports a client's module; where it is missing skips the test, or fails if all must be there."""
    if os.environ.get("ONEPASS_REQUIRE_CLIENTS") == "1":
        # Files are collected before a test's own filters apply, and a client's warnings are its own.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"needs {name}: pip install -r tests/clients/requirements.txt")


def prepare_torchvision() -> None:
    """Defines the operators that torchvision's Python code refers to, where its own library does not load.

    The wheel on PyPI is built for CUDA; with a torch for the CPU its library does not load. On import torchvision
    registers fake implementations for these two operators, which fails if they do not exist.
    """
    global _OPERATORS  # they live as long as their library object
    if _OPERATORS is None and importlib.util.find_spec("torchvision") is not None:
        _OPERATORS = torch.library.Library("torchvision", "DEF")
        _OPERATORS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _OPERATORS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_OPERATORS: torch.library.Library | None = None
