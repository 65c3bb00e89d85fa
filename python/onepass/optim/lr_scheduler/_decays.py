"""torch's schedulers that only change the learning rate by a factor: each a shape of `onepass.optim.schedules`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch.optim import Optimizer
from torch.optim import lr_scheduler as theirs

from onepass.optim import schedules
from onepass.optim.lr_scheduler._arguments import Setting, amount
from onepass.optim.lr_scheduler._base import FunctionLR
from onepass.optim.lr_scheduler._track import Shape, Track


class FactorLR(FunctionLR):
    """lr = base_lr f(step)."""

    def _shape(self) -> Shape:
        raise NotImplementedError

    def _make_tracks(self) -> list[Track]:
        return [Track("lr", self._shape(), self.base_lrs)]

    def _start(self, optimizer: Optimizer, last_epoch: int, follow: str) -> None:
        self._shape()  # a wrong argument must not have touched the optimizer
        super().__init__(optimizer, last_epoch, follow=follow)


class StepLR(FactorLR, theirs.StepLR):
    """lr = base_lr gamma^floor(t / step_size).

    Args:
        optimizer: As for `FunctionLR`.
        step_size: Steps between two decays, above 0.
        gamma: Factor of each decay, at least 0.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Source: torch.optim.lr_scheduler.StepLR.
    """

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
    """lr = base_lr gamma^(number of milestones that are at most t).

    Args:
        optimizer: As for `FunctionLR`.
        milestones: Steps, each at least 0; one that is there twice counts twice.
        gamma: Factor of each decay, at least 0.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Source: torch.optim.lr_scheduler.MultiStepLR.
    """

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
        self.milestones, self.gamma = Counter(milestones), gamma
        self._start(optimizer, last_epoch, follow)

    def _shape(self) -> Shape:
        return schedules.multistep(tuple(Counter(self.milestones).elements()), self.gamma)


class ConstantLR(FactorLR, theirs.ConstantLR):
    """lr = base_lr factor for t < total_iters, then base_lr.

    Args:
        optimizer: As for `FunctionLR`.
        factor: At least 0.
        total_iters: Steps with the factor, at least 0.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Differs from torch: a factor of 0 ends, where torch divides by it; one above 1 is allowed.

    Source: torch.optim.lr_scheduler.ConstantLR.
    """

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
        return schedules.constant(self.factor, self.total_iters) >> schedules.constant()


class LinearLR(FactorLR, theirs.LinearLR):
    """lr = base_lr (start_factor + (end_factor - start_factor) min(t, T) / T), T = total_iters.

    Args:
        optimizer: As for `FunctionLR`.
        start_factor: At step 0, at least 0.
        end_factor: From step T on, at least 0.
        total_iters: T, at least 0; with 0 the end is there at once.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Differs from torch: factors may be 0, and above 1.

    Source: torch.optim.lr_scheduler.LinearLR.
    """

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
    """lr = base_lr gamma^t.

    Args:
        optimizer: As for `FunctionLR`.
        gamma: Factor of each step, at least 0.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Source: torch.optim.lr_scheduler.ExponentialLR.
    """

    _settings = ("gamma",)
    gamma = Setting()

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1, *, follow: str = "calls") -> None:
        self.gamma = gamma
        self._start(optimizer, last_epoch, follow)

    def _shape(self) -> Shape:
        return schedules.exponential(self.gamma)


class PolynomialLR(FactorLR, theirs.PolynomialLR):
    """lr = base_lr (1 - min(t, T) / T)^power, T = total_iters.

    Args:
        optimizer: As for `FunctionLR`.
        total_iters: T, above 0.
        power: At least 0.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Source: torch.optim.lr_scheduler.PolynomialLR.
    """

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
    """lr = eta_min + (base_lr - eta_min) f(step)."""

    eta_min = Setting()

    def _start(self, optimizer: Optimizer, last_epoch: int, follow: str) -> None:
        amount(type(self).__name__, "eta_min", self.eta_min)
        super()._start(optimizer, last_epoch, follow)

    def _make_tracks(self) -> list[Track]:
        starts = None if self.eta_min == 0 else [float(self.eta_min)] * len(self.base_lrs)
        return [Track("lr", self._shape(), self.base_lrs, starts)]


class CosineAnnealingLR(RangeLR, theirs.CosineAnnealingLR):
    """lr = eta_min + (base_lr - eta_min) (1 + cos(pi t / T_max)) / 2; beyond T_max it goes up again.

    Args:
        optimizer: As for `FunctionLR`.
        T_max: Steps until the minimum, above 0.
        eta_min: The rate there.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Beyond the minimum what other schedulers made of the rate before is forgotten, as by torch's class; a
    `ScheduleLR` with ``cosine(T_max, periodic=True)`` keeps it. For a rate that stays at the minimum use
    `ScheduleLR` with ``cosine(T_max, floor)``.

    Source: Loshchilov and Hutter 2017; torch.optim.lr_scheduler.CosineAnnealingLR.
    """

    _begins_again = True
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
