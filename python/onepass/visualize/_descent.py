"""One optimizer on one function of two variables, step by step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau as TorchsPlateau

from onepass import optim
from onepass._arguments import listed, told
from onepass.optim.lr_scheduler import ReduceLROnPlateau, ScheduleLR
from onepass.optim.schedules import Schedule
from onepass.visualize._normals import NOISE, normals
from onepass.visualize._trajectory import Trajectory

__all__ = ["OPTIMIZERS", "Contender", "Descent", "contenders", "descend"]

_NAME = "trajectories"
Window = tuple[tuple[float, float], tuple[float, float]]

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": optim.SGD,
    "momentum": partial(optim.SGD, momentum=0.9),
    "nesterov": partial(optim.SGD, momentum=0.9, nesterov=True),
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "lion": optim.Lion,
}


@dataclass(frozen=True)
class Contender:
    """How one optimizer is made."""

    label: str
    make: Callable[[Tensor], Optimizer]
    """Makes the optimizer of a point."""
    named: bool
    """Whether it was given by its name, and has no rate of its own."""


@dataclass(frozen=True)
class Descent:
    """What all optimizers have in common."""

    function: Callable[[Tensor], Tensor]
    start: tuple[float, float]
    steps: int
    schedule: Schedule | Callable[[Optimizer], Any] | None
    noise: float
    seed: int

    @cached_property
    def shifts(self) -> Tensor:
        """The noise of each step's gradient, (steps, 2)."""
        return self.noise * normals(self.seed, NOISE, 0, 2 * self.steps).view(-1, 2)

    def loss(self, point: Tensor) -> Tensor:
        """Computes the loss of a point, and checks what the function returns."""
        value = self.function(point)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise TypeError(f"{_NAME}: f must return a tensor of one element, got {told(value)}")
        return value

    def check(self) -> None:
        """Raises unless the function has a finite value and a gradient at the start."""
        point = torch.tensor(self.start, dtype=torch.float64, requires_grad=True)
        value = self.loss(point)
        if not value.requires_grad:
            raise TypeError(f"{_NAME}: f must return a tensor with a gradient, got {told(value)}")
        if not math.isfinite(float(value.detach())):
            raise ValueError(f"{_NAME}: f must be finite at start, got {float(value.detach())} at {self.start}")

    def scheduler(self, optimizer: Optimizer) -> Any:
        """Makes the scheduler of an optimizer; None where there is none."""
        if self.schedule is None:
            return None
        if isinstance(self.schedule, Schedule):
            return ScheduleLR(optimizer, self.schedule)
        made = self.schedule(optimizer)
        if not hasattr(made, "step"):
            raise TypeError(f"{_NAME}: schedule must make a scheduler of an optimizer, got {told(made)}")
        return made


def contenders(given: Any) -> list[Contender]:
    """Reads the argument `optimizers`."""
    if isinstance(given, str):
        given = given.split(",")
    if not isinstance(given, Mapping):
        names = listed(_NAME, "optimizers", given, "names")
        for name in names:
            if not isinstance(name, str):
                raise TypeError(
                    f"{_NAME}: optimizers must be names, or a dict from labels to optimizers, got {told(name)}"
                )
        given = {name.strip(): name.strip() for name in names}
    if not given:
        raise ValueError(f"{_NAME}: optimizers must be at least one, got none")
    return [_contender(str(label), one) for label, one in given.items()]


def _contender(label: str, given: Any) -> Contender:
    if isinstance(given, str):
        if given not in OPTIMIZERS:
            raise ValueError(f"{_NAME}: optimizers must be of {', '.join(OPTIMIZERS)}, got {given}")
        # Any rate will do here: the one of the run is put in afterwards.
        return Contender(label, lambda point: OPTIMIZERS[given]([point], lr=1.0), named=True)
    if isinstance(given, Optimizer):
        params = [param for group in given.param_groups for param in group["params"]]
        if len(params) != 1 or params[0].numel() != 2:
            raise ValueError(
                f"{_NAME}: optimizers[{label!r}] must have one parameter of two elements, got {len(params)} with "
                f"{sum(param.numel() for param in params)}"
            )
        return Contender(label, partial(_copied, given), named=False)
    if not callable(given):
        raise TypeError(
            f"{_NAME}: optimizers[{label!r}] must be a name, an optimizer, or a function that makes one, got "
            f"{told(given)}"
        )

    def make(point: Tensor) -> Optimizer:
        made = given([point])
        if not isinstance(made, Optimizer):
            raise TypeError(f"{_NAME}: optimizers[{label!r}] must make an optimizer, got {told(made)}")
        return made

    return Contender(label, make, named=False)


def _copied(given: Optimizer, point: Tensor) -> Optimizer:
    """Copies an optimizer with its states; the copy's parameter is the point."""
    (old,) = (param for group in given.param_groups for param in group["params"])
    # The memo puts the point in the place of the parameter, in groups and states alike.
    return copy.deepcopy(given, {id(old): point})


def descend(
    descent: Descent,
    contender: Contender,
    lr: float | str | None,
    *,
    within: Window | None = None,
    tried: Iterable[tuple[float, float]] = (),
) -> Trajectory:
    """Runs one optimizer.

    Args:
        descent: Function, start, steps, schedule, noise.
        contender: The optimizer.
        lr: Its rate; None for its own.
        within: The run ends where it leaves this window; None to go on.
        tried: The rates of the search and their scores, to be kept.

    Returns:
        The path. It is shorter than all steps if the loss stops being finite, or at the window's edge.
    """
    point = nn.Parameter(torch.tensor(descent.start, dtype=torch.float64))
    optimizer = contender.make(point)
    if lr is not None:
        for group in optimizer.param_groups:
            group["lr"] = lr
            group.pop("initial_lr", None)
    own = float(optimizer.param_groups[0]["lr"])
    scheduler = descent.scheduler(optimizer)
    seen = _Seen([point.tolist()])
    ended = ""
    while len(seen.rates) < descent.steps and not ended:
        _step(descent, contender, optimizer, point, seen)
        if not all(map(math.isfinite, (*seen.points[-1], seen.losses[-1]))):
            ended = "not finite"
        elif within is not None and not _inside(seen.points[-1], within):
            ended = "left the window"
        elif isinstance(scheduler, (TorchsPlateau, ReduceLROnPlateau)):
            scheduler.step(seen.losses[-1])
        elif scheduler is not None:
            scheduler.step()
    seen.note(*_evaluated(descent, point))
    if not math.isfinite(seen.losses[-1]):
        ended = ended or "not finite"
    return Trajectory(
        label=contender.label,
        optimizer=type(optimizer).__name__,
        lr=own,
        points=np.array(seen.points),
        losses=np.array(seen.losses),
        rates=np.array(seen.rates),
        grad_norms=np.array(seen.norms),
        ended=ended,
        tried=list(tried),
    )


@dataclass
class _Seen:
    """What a run has seen so far."""

    points: list[list[float]]
    losses: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def note(self, value: Tensor, slope: Tensor) -> None:
        """Keeps the loss at a point, and the norm of its gradient."""
        self.losses.append(float(value))
        self.norms.append(float(slope.norm()))


def _step(descent: Descent, contender: Contender, optimizer: Any, point: nn.Parameter, seen: _Seen) -> None:
    """Takes one step and keeps what it sees."""
    step = len(seen.rates)
    shift = descent.shifts[step] if descent.noise else None

    def closure() -> Tensor:
        value, slope = _evaluated(descent, point)
        if len(seen.losses) == step:  # the first call of a step: an optimizer may make more
            seen.note(value, slope)
        point.grad = slope if shift is None else slope + shift
        return value

    seen.rates.append(float(optimizer.param_groups[0]["lr"]))
    optimizer.step(closure)
    if len(seen.losses) == step:
        raise TypeError(f"{_NAME}: optimizers[{contender.label!r}] must call the closure of step, got no call")
    seen.points.append(point.tolist())


def _evaluated(descent: Descent, point: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the loss at a point, and its gradient."""
    with torch.enable_grad():
        value = descent.loss(point)
        (slope,) = torch.autograd.grad(value, point)
    return value.detach(), slope


def _inside(point: list[float], window: Window) -> bool:
    return all(low <= value <= high for value, (low, high) in zip(point, window, strict=True))
