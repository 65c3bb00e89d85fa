"""torch's schedulers that change the learning rate by a factor, each by a shape of `onepass.optim.schedules`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import ClassVar

from torch.optim import Optimizer
from torch.optim import lr_scheduler as theirs

from onepass._arguments import listed, renamed
from onepass.optim import schedules
from onepass.optim.lr_scheduler._arguments import Setting, amount
from onepass.optim.lr_scheduler._base import FunctionLR
from onepass.optim.lr_scheduler._track import Shape, Track


class FactorLR(FunctionLR):
    """Sets lr = base_lr f(step)."""

    # The arguments by those of the shape that is made of them.
    _names: ClassVar[dict[str, str]] = {}

    def _shape(self) -> Shape:
        raise NotImplementedError

    def _make_tracks(self) -> list[Track]:
        return [Track("lr", self._shape(), self.base_lrs)]

    def _start(self, optimizer: Optimizer, last_epoch: int, follow: str) -> None:
        with renamed(type(self).__name__, self._names):
            self._shape()  # refuses a wrong argument before the optimizer is touched
        super().__init__(optimizer, last_epoch, follow=follow)


class StepLR(FactorLR, theirs.StepLR):
    """Multiplies the learning rate by gamma every few steps: lr = base_lr gamma^floor(t / step_size).

    Args:
        optimizer: As for `FunctionLR`.
        step_size: Steps between two decays, above 0.
        gamma: The factor of each decay, at least 0.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        TypeError: The optimizer is not one, or an argument is not a number.
        ValueError: An argument is out of range.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import StepLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> StepLR(optimizer, step_size=2, gamma=0.5).preview(5)
        [[1.0], [1.0], [0.5], [0.5], [0.25]]

    Source: torch.optim.lr_scheduler.StepLR.
    """

    _names: ClassVar[dict[str, str]] = {"step: size": "step_size", "step: gamma": "gamma"}
    _settings = ("step_size", "gamma")
    step_size, gamma = Setting(), Setting()

    def __init__(
        self,
        optimizer: Optimizer,
        step_size: int,
        gamma: float = 0.1,
        last_epoch: int = -1,
        *,
        follow: str = "calls",
    ) -> None:
        self.step_size, self.gamma = step_size, gamma
        self._start(optimizer, last_epoch, follow)

    def _shape(self) -> Shape:
        return schedules.step(self.step_size, self.gamma)


class MultiStepLR(FactorLR, theirs.MultiStepLR):
    """Multiplies the rate by gamma at each milestone: lr = base_lr gamma^(number of milestones up to t).

    Args:
        optimizer: As for `FunctionLR`.
        milestones: Steps, each at least 0; one that is listed twice counts twice.
        gamma: The factor of each decay, at least 0.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        TypeError: The optimizer is not one, or an argument is not a number.
        ValueError: An argument is out of range.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import MultiStepLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> MultiStepLR(optimizer, [1, 3], gamma=0.5).preview(4)
        [[1.0], [0.5], [0.5], [0.25]]

    Source: torch.optim.lr_scheduler.MultiStepLR.
    """

    _names: ClassVar[dict[str, str]] = {"multistep: gamma": "gamma"}
    _settings = ("milestones", "gamma")
    milestones, gamma = Setting(), Setting()

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
        *,
        follow: str = "calls",
    ) -> None:
        if not isinstance(milestones, Mapping):  # a Counter, for instance of a saved scheduler, is taken as it is
            milestones = listed("MultiStepLR", "milestones", milestones, "numbers")
        self.milestones, self.gamma = Counter(milestones), gamma
        self._start(optimizer, last_epoch, follow)

    def _shape(self) -> Shape:
        return schedules.multistep(tuple(Counter(self.milestones).elements()), self.gamma)


class ConstantLR(FactorLR, theirs.ConstantLR):
    """Scales the learning rate for some steps: lr = base_lr factor for t < total_iters, then base_lr.

    Args:
        optimizer: As for `FunctionLR`.
        factor: The factor, at least 0.
        total_iters: Steps with the factor, at least 0.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        TypeError: The optimizer is not one, or an argument is not a number.
        ValueError: An argument is out of range.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import ConstantLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> ConstantLR(optimizer, factor=0.5, total_iters=2).preview(4)
        [[0.5], [0.5], [1.0], [1.0]]

    Differs from torch: a factor of 0 is allowed (torch divides by it when it ends), and so is one above 1.

    Source: torch.optim.lr_scheduler.ConstantLR.
    """

    _names: ClassVar[dict[str, str]] = {"constant: factor": "factor", "constant: steps": "total_iters"}
    _settings = ("factor", "total_iters")
    factor, total_iters = Setting(), Setting()

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 1.0 / 3,
        total_iters: int = 5,
        last_epoch: int = -1,
        *,
        follow: str = "calls",
    ) -> None:
        self.factor, self.total_iters = factor, total_iters
        self._start(optimizer, last_epoch, follow)

    def _shape(self) -> Shape:
        if self.total_iters is None:  # a constant without an end, which nothing can follow
            raise TypeError("constant: steps must be a number, got None")
        return schedules.constant(self.factor, self.total_iters) >> schedules.constant()


class LinearLR(FactorLR, theirs.LinearLR):
    """Moves the learning rate along a straight line.

    lr = base_lr (start_factor + (end_factor - start_factor) min(t, T) / T), T = total_iters.

    Args:
        optimizer: As for `FunctionLR`.
        start_factor: The factor at step 0, at least 0.
        end_factor: The factor from step T on, at least 0.
        total_iters: T, at least 0; with 0 the factor is end_factor from the beginning.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        TypeError: The optimizer is not one, or an argument is not a number.
        ValueError: An argument is out of range.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import LinearLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> LinearLR(optimizer, start_factor=0.25, total_iters=3).preview(5)
        [[0.25], [0.5], [0.75], [1.0], [1.0]]

    Differs from torch: factors may be 0, and above 1.

    Source: torch.optim.lr_scheduler.LinearLR.
    """

    _names: ClassVar[dict[str, str]] = {
        "linear: steps": "total_iters",
        "linear: start": "start_factor",
        "linear: end": "end_factor",
        "constant: factor": "end_factor",
    }
    _settings = ("start_factor", "end_factor", "total_iters")
    start_factor, end_factor, total_iters = Setting(), Setting(), Setting()

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
        *,
        follow: str = "calls",
    ) -> None:
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        self._start(optimizer, last_epoch, follow)

    def _shape(self) -> Shape:
        if self.total_iters == 0:
            return schedules.constant(self.end_factor)
        return schedules.linear(self.total_iters, self.start_factor, self.end_factor)


class ExponentialLR(FactorLR, theirs.ExponentialLR):
    """Multiplies the learning rate by gamma at each step: lr = base_lr gamma^t.

    Args:
        optimizer: As for `FunctionLR`.
        gamma: The factor of each step, at least 0.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        TypeError: The optimizer is not one, or an argument is not a number.
        ValueError: An argument is out of range.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import ExponentialLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> ExponentialLR(optimizer, gamma=0.5).preview(4)
        [[1.0], [0.5], [0.25], [0.125]]

    Source: torch.optim.lr_scheduler.ExponentialLR.
    """

    _names: ClassVar[dict[str, str]] = {"exponential: gamma": "gamma"}
    _settings = ("gamma",)
    gamma = Setting()

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1, *, follow: str = "calls") -> None:
        self.gamma = gamma
        self._start(optimizer, last_epoch, follow)

    def _shape(self) -> Shape:
        return schedules.exponential(self.gamma)


class PolynomialLR(FactorLR, theirs.PolynomialLR):
    """Lowers the learning rate to 0 by a power: lr = base_lr (1 - min(t, T) / T)^power, T = total_iters.

    Args:
        optimizer: As for `FunctionLR`.
        total_iters: T, above 0.
        power: The exponent, at least 0.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        TypeError: The optimizer is not one, or an argument is not a number.
        ValueError: An argument is out of range.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import PolynomialLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> PolynomialLR(optimizer, total_iters=4, power=2).preview(6)
        [[1.0], [0.5625], [0.25], [0.0625], [0.0], [0.0]]

    Source: torch.optim.lr_scheduler.PolynomialLR.
    """

    _names: ClassVar[dict[str, str]] = {"polynomial: steps": "total_iters", "polynomial: power": "power"}
    _settings = ("total_iters", "power")
    total_iters, power = Setting(), Setting()

    def __init__(
        self,
        optimizer: Optimizer,
        total_iters: int = 5,
        power: float = 1.0,
        last_epoch: int = -1,
        *,
        follow: str = "calls",
    ) -> None:
        self.total_iters, self.power = total_iters, power
        self._start(optimizer, last_epoch, follow)

    def _shape(self) -> Shape:
        return schedules.polynomial(self.total_iters, self.power)


class RangeLR(FactorLR):
    """Sets lr = eta_min + (base_lr - eta_min) f(step)."""

    eta_min = Setting()

    def _start(self, optimizer: Optimizer, last_epoch: int, follow: str) -> None:
        amount(type(self).__name__, "eta_min", self.eta_min)
        super()._start(optimizer, last_epoch, follow)

    def _make_tracks(self) -> list[Track]:
        starts = None if self.eta_min == 0 else [float(self.eta_min)] * len(self.base_lrs)
        return [Track("lr", self._shape(), self.base_lrs, starts)]


class CosineAnnealingLR(RangeLR, theirs.CosineAnnealingLR):
    """Lowers the learning rate along half a cosine; beyond T_max it rises again.

    lr = eta_min + (base_lr - eta_min) (1 + cos(pi t / T_max)) / 2.

    At the minimum it forgets what other schedulers made of the rate before, as torch's class does; a `ScheduleLR`
    with ``cosine(T_max, periodic=True)`` keeps it. For a rate that stays at the minimum use `ScheduleLR` with
    ``cosine(T_max, floor)``.

    Args:
        optimizer: As for `FunctionLR`.
        T_max: Steps until the minimum, above 0.
        eta_min: The learning rate at the minimum, at least 0.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        TypeError: The optimizer is not one, or an argument is not a number.
        ValueError: An argument is out of range.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import CosineAnnealingLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scheduler = CosineAnnealingLR(optimizer, T_max=2, eta_min=0.1)
        >>> [round(lr, 3) for lrs in scheduler.preview(5) for lr in lrs]
        [1.0, 0.55, 0.1, 0.55, 1.0]

    Source: Loshchilov and Hutter 2017; torch.optim.lr_scheduler.CosineAnnealingLR.
    """

    _begins_again = True
    _names: ClassVar[dict[str, str]] = {"cosine: steps": "T_max"}
    _settings = ("T_max", "eta_min")
    T_max = Setting()

    def __init__(
        self,
        optimizer: Optimizer,
        T_max: int,
        eta_min: float = 0.0,
        last_epoch: int = -1,
        *,
        follow: str = "calls",
    ) -> None:
        self.T_max, self.eta_min = T_max, eta_min
        self._start(optimizer, last_epoch, follow)

    def _shape(self) -> Shape:
        return schedules.cosine(self.T_max, periodic=True)
