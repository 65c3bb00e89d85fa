"""The learning rate range test: trains a little while the rate grows, and sees where the loss falls."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onepass._arguments import check_module, listed, told
from onepass.monitor._result import Curve, LRRangeResult
from onepass.monitor._snapshot import Snapshot, generators_in
from onepass.optim.lr_scheduler._track import put
from onepass.optim.lr_scheduler._updates import Updates, counted

_NAME = "lr_range_test"
# GradScaler begins at 2^16 and halves its scale at each drop: with this many in a row it does not search any more.
_MAX_DROPPED = 64


@dataclass(frozen=True)
class _Sweep:
    """What the sweeps share, and how one is run."""

    model: nn.Module
    optimizer: Optimizer
    loss_fn: Callable[[Any, Any], Tensor]
    loader: Iterable[Any]
    ratios: list[float]
    """Each group's rate over that of the first group that has one."""
    rates: list[float]
    accumulate: int
    scaler: Any
    autocast: torch.dtype | None
    diverge: float
    smoothing: float
    device: torch.device

    def run(self, seed: int) -> Curve:
        """Runs one sweep over the rates."""
        batches, updates = self._batches(), Updates(_NAME, self.optimizer, 0)
        lrs: list[float] = []
        losses: list[float] = []
        smoothed: list[float] = []
        mean, dropped, in_a_row, diverged = 0.0, 0, 0, False
        try:
            while len(lrs) < len(self.rates) and not diverged:
                lr = self.rates[len(lrs)]
                loss, taken = self._update(lr, batches, updates)
                if not taken and math.isfinite(loss):
                    dropped, in_a_row = dropped + 1, in_a_row + 1
                    if in_a_row > _MAX_DROPPED:
                        raise RuntimeError(
                            f"{_NAME}: updates must succeed now and then, got {in_a_row} dropped in a row at rate "
                            f"{lr:g}"
                        )
                    continue
                in_a_row = 0
                mean = self.smoothing * mean + (1 - self.smoothing) * loss
                lrs.append(lr)
                losses.append(loss)
                smoothed.append(mean / (1 - self.smoothing ** len(lrs)))
                diverged = not math.isfinite(loss) or smoothed[-1] > self.diverge * min(smoothed)
        finally:
            updates.close()
        if diverged and not math.isfinite(losses[-1]):
            del lrs[-1], losses[-1], smoothed[-1]
        return Curve(seed, lrs, losses, smoothed, diverged, dropped)

    def _update(self, lr: float, batches: Iterator[Any], updates: Updates) -> tuple[float, bool]:
        """Takes one update from `accumulate` batches; returns their mean loss, and whether it was not dropped."""
        for group, ratio in zip(self.optimizer.param_groups, self.ratios, strict=True):
            put(group, "lr", lr * ratio)
        self.optimizer.zero_grad()
        before = updates.total()
        total = 0.0
        for _ in range(self.accumulate):
            inputs, targets = self._moved(next(batches))
            amp = nullcontext() if self.autocast is None else torch.autocast(self.device.type, dtype=self.autocast)
            with amp:
                loss = self.loss_fn(self.model(inputs), targets) / self.accumulate
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise TypeError(f"{_NAME}: loss_fn must return a tensor of one element, got {told(loss)}")
            (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            return total, False
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return total, updates.total() > before

    def _batches(self) -> Iterator[Any]:
        while True:
            empty = True
            for batch in self.loader:
                empty = False
                yield batch
            if empty:
                raise ValueError(f"{_NAME}: loader must have at least one batch, got none")

    def _moved(self, batch: Any) -> tuple[Any, Any]:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"{_NAME}: loader must give pairs (input, target), got {type(batch).__name__}")
        inputs, targets = (part.to(self.device) if isinstance(part, Tensor) else part for part in batch)
        return inputs, targets


def lr_range_test(
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: Callable[[Any, Any], Tensor],
    loader: Iterable[Any],
    *,
    min_lr: float = 1e-6,
    max_lr: float = 10.0,
    steps: int = 100,
    sweep: str = "exponential",
    accumulate: int = 1,
    scaler: Any = None,
    autocast: torch.dtype | None = None,
    diverge: float = 4.0,
    smoothing: float = 0.9,
    seeds: int | Sequence[int] = 3,
    generators: Iterable[torch.Generator] = (),
) -> LRRangeResult:
    """Trains a few times with a growing learning rate, and suggests one; leaves everything as it was.

    Weights, buffers, gradients, modes, the optimizer, the scaler and all random numbers are put back bit for bit,
    also if the test fails or is interrupted. While it runs, memory holds them twice.

    The smoothed loss after n updates is m_n / (1 - b^n), m_n = b m_(n-1) + (1 - b) loss_n, b = smoothing.

    Args:
        model: The model, in training mode; batches go to the device of its first parameter.
        optimizer: An optimizer of any class whose updates can be seen, also one that wraps another. The rates of
            its groups keep their ratios to the first group's. If a rate is 0, as at the beginning of a warm-up,
            the ratios are those of ``initial_lr``; a group whose initial rate is 0, too, stays at 0.
        loss_fn: Called as ``loss_fn(model(input), target)``; returns a tensor of one element.
        loader: Gives pairs (input, target), and is begun again when it ends. It must not be an iterator, which
            could not be put back.
        min_lr: The first learning rate, above 0.
        max_lr: The last learning rate, above min_lr.
        steps: Updates of a sweep, an integer of at least 10.
        sweep: "exponential": neighbouring rates have equal ratios; "linear": equal differences.
        accumulate: Batches of an update, an integer of at least 1; the loss is their mean.
        scaler: A torch.amp.GradScaler, or None. Updates that it drops are not points of the curve: the rate is
            tried again.
        autocast: The dtype of torch.autocast, or None for no autocast.
        diverge: A sweep stops when the smoothed loss is not finite, or more than `diverge` times its least value;
            above 1.
        smoothing: The weight of the past in the smoothed loss, at least 0 and below 1.
        seeds: The number of sweeps, or the seed of each, which determines the order of the loader and dropout.
        generators: Generators that the model or the loader draws from, besides the global ones and the loader's
            own.

    Returns:
        The curves, and the rates that they suggest.

    Raises:
        ValueError: An argument is out of range, the model is not in training mode, the loader is empty, or the
            optimizer's updates cannot be seen.
        TypeError: An argument is of the wrong kind.
        RuntimeError: The scaler drops one update after the other, or a tensor cannot be put back; everything else
            has been then.

    Example:
        >>> import torch
        >>> from onepass.monitor import lr_range_test
        >>> from onepass.optim import SGD
        >>> model = torch.nn.Linear(1, 1, bias=False).double()
        >>> with torch.no_grad():
        ...     _ = model.weight.zero_()
        >>> x = torch.ones(4, 1, dtype=torch.float64)
        >>> optimizer = SGD(model.parameters(), lr=0.1)
        >>> mse = torch.nn.functional.mse_loss
        >>> result = lr_range_test(model, optimizer, mse, [(x, x)], min_lr=1e-3, max_lr=10.0, steps=20, seeds=1)
        >>> round(result.suggestion, 3)
        0.336
        >>> model.weight.item(), optimizer.param_groups[0]["lr"]
        (0.0, 0.1)

    Source: Smith 2017, section 3.3.
    """
    _check_numbers(min_lr, max_lr, steps, sweep, accumulate, diverge, smoothing)
    numbers = _seeds_of(seeds)
    _check_objects(model, loss_fn, loader, scaler, autocast)
    counted(_NAME, optimizer)
    rates = np.geomspace(min_lr, max_lr, steps) if sweep == "exponential" else np.linspace(min_lr, max_lr, steps)
    sweeps = _Sweep(
        model,
        optimizer,
        loss_fn,
        loader,
        ratios=_ratios(optimizer.param_groups),
        rates=[float(rate) for rate in rates],
        accumulate=accumulate,
        scaler=scaler,
        autocast=autocast,
        diverge=diverge,
        smoothing=smoothing,
        device=next(model.parameters()).device,
    )
    own = [*generators_in(_NAME, generators), *_generators_of(loader)]
    snapshot = Snapshot(model, optimizer, scaler, own)
    curves = []
    try:
        for seed in numbers:
            _seed(seed, own)
            curves.append(sweeps.run(seed))
            snapshot.restore()
    finally:
        snapshot.restore()
    options = {
        "min_lr": min_lr,
        "max_lr": max_lr,
        "steps": steps,
        "sweep": sweep,
        "accumulate": accumulate,
        "diverge": diverge,
        "smoothing": smoothing,
        "seeds": numbers,
        "autocast": None if autocast is None else str(autocast),
        "scaler": scaler is not None,
    }
    return LRRangeResult(curves, options)


def _ratios(groups: list[dict[str, Any]]) -> list[float]:
    """Each group's rate over the first one's: a warm-up may hold groups at 0, a frozen group is to stay there."""
    lrs = [float(group["lr"]) for group in groups]
    if 0 in lrs:
        lrs = [float(group.get("initial_lr", group["lr"])) for group in groups]
    first = next((lr for lr in lrs if lr), None)
    return [1.0 if first is None else lr / first for lr in lrs]


def _seeds_of(given: int | Sequence[int]) -> list[int]:
    seeds = list(range(given)) if isinstance(given, int) else listed(_NAME, "seeds", given, "ints")
    for i, seed in enumerate(seeds):
        if not isinstance(seed, (int, Integral)):
            raise TypeError(f"{_NAME}: seeds[{i}] must be an int, got {told(seed)}")
        if not 0 <= int(seed) < 2**32:  # numpy's limit
            raise ValueError(f"{_NAME}: seeds[{i}] must be at least 0 and below 2**32, got {told(seed)}")
    if not seeds:
        raise ValueError(f"{_NAME}: seeds must be at least one, got {told(given)}")
    return seeds


def _check_objects(model: nn.Module, loss_fn: Any, loader: Any, scaler: Any, autocast: Any) -> None:
    check_module(_NAME, "model", model)
    if next(model.parameters(), None) is None:
        raise ValueError(f"{_NAME}: model must have a parameter, got none")
    if not callable(loss_fn):
        raise TypeError(f"{_NAME}: loss_fn must be a function, got {told(loss_fn)}")
    if not isinstance(loader, Iterable) and not hasattr(type(loader), "__getitem__"):
        raise TypeError(f"{_NAME}: loader must be iterable again and again, got {told(loader)}")
    if autocast is not None and not isinstance(autocast, torch.dtype):
        raise TypeError(f"{_NAME}: autocast must be a torch.dtype or None, got {told(autocast)}")
    if not model.training:
        raise ValueError(f"{_NAME}: model must be in training mode, got one in evaluation mode")
    if isinstance(loader, Iterator):  # not by iter(): that draws a random number in a DataLoader
        raise TypeError(f"{_NAME}: loader must be iterable again and again, got the iterator {told(loader)}")
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise TypeError(f"{_NAME}: scaler must be a torch.amp.GradScaler, got {type(scaler).__name__}")


def _check_numbers(
    min_lr: float, max_lr: float, steps: int, sweep: str, accumulate: int, diverge: float, smoothing: float
) -> None:
    wanted: dict[str, tuple[Any, Callable[[Any], bool], str]] = {
        "min_lr": (min_lr, lambda v: 0 < v < math.inf, "finite and above 0"),
        "max_lr": (max_lr, lambda v: min_lr < v < math.inf, f"finite and above min_lr {min_lr!r}"),
        "steps": (steps, lambda v: isinstance(v, int) and v >= 10, "an integer and at least 10"),
        "accumulate": (accumulate, lambda v: isinstance(v, int) and v >= 1, "an integer and at least 1"),
        "diverge": (diverge, lambda v: v > 1, "above 1"),
        "smoothing": (smoothing, lambda v: 0 <= v < 1, "at least 0 and below 1"),
    }
    for name, (value, good, text) in wanted.items():
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"{_NAME}: {name} must be a number, got {told(value)}")
        if not good(value):
            raise ValueError(f"{_NAME}: {name} must be {text}, got {told(value)}")
    if sweep not in ("exponential", "linear"):
        raise ValueError(f"{_NAME}: sweep must be exponential or linear, got {told(sweep)}")


def _generators_of(loader: Any) -> list[torch.Generator]:
    """The random number generators of a DataLoader and its samplers."""
    sampler = getattr(loader, "sampler", None)
    batch_sampler = getattr(loader, "batch_sampler", None)
    owners = (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    found = {id(g): g for owner in owners if isinstance(g := getattr(owner, "generator", None), torch.Generator)}
    return list(found.values())


def _seed(seed: int, generators: list[torch.Generator]) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # the global generator that loaders' workers and transforms use
    torch.manual_seed(seed)
    for generator in generators:
        generator.manual_seed(seed)
