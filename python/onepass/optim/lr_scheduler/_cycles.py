"""torch's schedulers that go up and down; two of them may move the momentum against the rate."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

from torch.optim import Optimizer
from torch.optim import lr_scheduler as theirs

from onepass._arguments import renamed, told
from onepass.optim import schedules
from onepass.optim.lr_scheduler._arguments import Setting, as_list, check_optimizer
from onepass.optim.lr_scheduler._base import FunctionLR
from onepass.optim.lr_scheduler._decays import RangeLR
from onepass.optim.lr_scheduler._track import Shape, Track

# The arguments of two schedulers by those of the shapes that are made of them.
_CYCLIC = {"cyclic: up": "step_size_up", "cyclic: down": "step_size_down"}
_ONE_CYCLE = {"one_cycle: steps": "total_steps", "one_cycle: anneal": "anneal_strategy"}


class CosineAnnealingWarmRestarts(RangeLR, theirs.CosineAnnealingWarmRestarts):
    """Lowers the rate along a cosine again and again, in cycles of T_0, T_0 T_mult, T_0 T_mult^2 ... steps.

    lr = eta_min + (base_lr - eta_min) (1 + cos(pi u / n)) / 2, where u is the step within the cycle, and n the
    steps of the cycle. What other schedulers made of the rate is overwritten, as by torch's class.

    Args:
        optimizer: As for `FunctionLR`.
        T_0: Steps of the first cycle, an integer above 0.
        T_mult: How many times as long each cycle is as the one before, an integer of at least 1.
        eta_min: The learning rate that each cycle falls towards, at least 0.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        TypeError: The optimizer is not one, or an argument is not a number.
        ValueError: An argument is out of range, or not an integer.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import CosineAnnealingWarmRestarts
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=2, T_mult=2)
        >>> [round(lr, 3) for lrs in scheduler.preview(7) for lr in lrs]
        [1.0, 0.5, 1.0, 0.854, 0.5, 0.146, 1.0]

    Differs from torch: ``last_epoch=N`` goes on in the right cycle (torch's class goes on counting within the
    first), and ``step(epoch)`` never takes the wrong cycle because a logarithm was rounded.

    Source: Loshchilov and Hutter 2017; torch.optim.lr_scheduler.CosineAnnealingWarmRestarts.
    """

    _chains = False
    _names: ClassVar[dict[str, str]] = {"warm_restarts: steps": "T_0", "warm_restarts: mult": "T_mult"}
    _settings = ("T_0", "T_mult", "eta_min")
    T_0, T_mult = Setting(), Setting()

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
        *,
        follow: str = "calls",
    ) -> None:
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        self._start(optimizer, last_epoch, follow)

    def _shape(self) -> Shape:
        return schedules.warm_restarts(self.T_0, self.T_mult)

    def _cycle(self) -> tuple[int, int]:
        """The step within the current cycle, and the steps of that cycle."""
        step, size = self.last_epoch, self.T_0
        if self.T_mult == 1:
            return step % size, size
        while step >= size:
            step, size = step - size, size * self.T_mult
        return step, size

    @property
    def T_cur(self) -> int:  # type: ignore[override]  # torch's is an attribute
        """The step within the current cycle."""
        return self._cycle()[0]

    @property
    def T_i(self) -> int:  # type: ignore[override]  # torch's is an attribute
        """Steps of the current cycle."""
        return self._cycle()[1]

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as `FunctionLR` does, with the step in the cycle, which torch's class needs."""
        return {**super().state_dict(), "T_cur": self.T_cur, "T_i": self.T_i}


class Cycle(FunctionLR):
    """Sets the learning rate by itself, and may move the momentum, too."""

    _chains = False
    cycle_momentum, use_beta1 = Setting(), Setting()
    base_momentums, max_momentums = Setting(), Setting()

    def _prepare_momentum(self, optimizer: Optimizer, cycle: bool, base: Any, top: Any) -> None:
        name, groups = type(self).__name__, len(optimizer.param_groups)
        self.cycle_momentum = cycle
        self.use_beta1 = "betas" in optimizer.defaults
        if not cycle:
            self.base_momentums = self.max_momentums = []
            return
        if not self.use_beta1 and "momentum" not in optimizer.defaults:
            raise ValueError(
                f"{name}: cycle_momentum must be False for an optimizer without momentum or betas, got True for "
                f"{type(optimizer).__name__}"
            )
        self.base_momentums = as_list(name, "base_momentum", base, groups)
        self.max_momentums = as_list(name, "max_momentum", top, groups)

    def _write_bounds(self, last_epoch: int) -> None:
        """Puts the bounds into the groups, as torch does, so that an optimizer's state_dict has them."""
        if not self.cycle_momentum or last_epoch != -1:
            return
        bounds = zip(self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=True)
        for group, base, top in bounds:
            group["base_momentum"], group["max_momentum"] = base, top

    def _momentum(self, shape: Shape) -> list[Track]:
        if not self.cycle_momentum:
            return []
        field = "betas[0]" if self.use_beta1 else "momentum"
        return [Track(field, shape, self.base_momentums, self.max_momentums)]

    def _take_new_groups(self) -> None:
        raise ValueError(
            f"{type(self).__name__}: the rates were given for {len(self.base_lrs)} param_groups, got "
            f"{len(self.optimizer.param_groups)} groups now"
        )


class CyclicLR(Cycle, theirs.CyclicLR):
    """Moves the learning rate up and down: lr = base_lr + (max_lr - base_lr) x s.

    x goes along a straight line from 0 to 1 and back, s scales each cycle or step. What other schedulers made of
    the rate is overwritten, as by torch's class.

    Args:
        optimizer: As for `FunctionLR`.
        base_lr: The learning rate at the bottom, at least 0, or one for each group.
        max_lr: The learning rate at the top, at least 0, or one for each group.
        step_size_up: Steps from the bottom to the top, above 0.
        step_size_down: Steps back, above 0; None for as many.
        mode: "triangular", "triangular2" or "exp_range", see `onepass.optim.schedules.cyclic`.
        gamma: The base of "exp_range", at least 0.
        scale_fn: s as a function of the cycle, which counts from 1, or of the step; the mode is not used then.
        scale_mode: What scale_fn is given: "cycle" or "iterations".
        cycle_momentum: Also move momentum or beta1, from max_momentum to base_momentum and back.
        base_momentum: Momentum at the top, or one for each group.
        max_momentum: Momentum at the bottom, or one for each group.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        TypeError: The optimizer is not one, or an argument is not a number.
        ValueError: The optimizer has no momentum to cycle, or an argument is out of range.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import CyclicLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
        >>> scheduler = CyclicLR(optimizer, base_lr=0.5, max_lr=1.0, step_size_up=2)
        >>> scheduler.preview(5)
        [[0.5], [0.75], [1.0], [0.75], [0.5]]

    Differs from torch: groups that are added later raise, because the rates were given for each group.

    Source: Smith 2017; torch.optim.lr_scheduler.CyclicLR.
    """

    _settings = (
        *("max_lrs", "total_size", "step_ratio", "mode", "gamma", "scale_mode"),
        *("cycle_momentum", "use_beta1", "base_momentums", "max_momentums"),
    )
    max_lrs, total_size, step_ratio = Setting(), Setting(), Setting()
    mode, gamma, scale_mode = Setting(), Setting(), Setting()

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: str = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.8,
        max_momentum: float | list[float] = 0.9,
        last_epoch: int = -1,
        *,
        follow: str = "calls",
    ) -> None:
        check_optimizer("CyclicLR", optimizer)
        groups = len(optimizer.param_groups)
        if scale_mode not in ("cycle", "iterations"):
            raise ValueError(f"CyclicLR: scale_mode must be cycle or iterations, got {told(scale_mode)}")
        if scale_fn is None:
            scale_mode = "iterations" if mode == "exp_range" else "cycle"
        if scale_fn is not None and not callable(scale_fn):
            raise TypeError(f"CyclicLR: scale_fn must be a function or None, got {told(scale_fn)}")
        with renamed("CyclicLR", _CYCLIC):
            schedules.cyclic(step_size_up, step_size_down, 0.0, "triangular" if scale_fn else mode, gamma)
        up = float(step_size_up)
        self.total_size = up + (up if step_size_down is None else float(step_size_down))
        self.step_ratio = up / self.total_size
        self.mode, self.gamma, self.scale_mode = mode, gamma, scale_mode
        self._scale_fn_custom = scale_fn
        self.max_lrs = as_list("CyclicLR", "max_lr", max_lr, groups)
        base_lrs = as_list("CyclicLR", "base_lr", base_lr, groups)
        self._prepare_momentum(optimizer, cycle_momentum, base_momentum, max_momentum)
        fresh = [i for i, group in enumerate(optimizer.param_groups) if "initial_lr" not in group]
        with self._attached(optimizer, last_epoch, follow):
            # As in torch, a scheduler that was there before has determined the initial rate.
            for i in fresh:
                optimizer.param_groups[i]["initial_lr"] = base_lrs[i]
            self._write_bounds(last_epoch)
            self.base_lrs = base_lrs
            self._begin(last_epoch)

    def _shape(self) -> Shape:
        total, up = self.total_size, self.total_size * self.step_ratio
        up = round(up) if abs(up - round(up)) < 1e-6 else up
        scale = self._scale_fn_custom
        if scale is None:
            return schedules.cyclic(up, total - up, 0.0, self.mode, self.gamma)
        triangle = schedules.cyclic(up, total - up)
        if self.scale_mode == "iterations":
            return lambda step: triangle(step) * scale(step)
        return lambda step: triangle(step) * scale(step // total + 1)

    def _make_tracks(self) -> list[Track]:
        shape = self._shape()
        return [Track("lr", shape, self.max_lrs, self.base_lrs), *self._momentum(shape)]

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as `FunctionLR` does, with the attributes of a scale_fn that is an object."""
        scale = self._scale_fn_custom
        kept = None if scale is None or not getattr(scale, "__dict__", None) else scale.__dict__.copy()
        return {**super().state_dict(), "_scale_fn_custom": kept}


class OneCycleLR(Cycle, theirs.OneCycleLR):
    """Raises the learning rate from max_lr / div_factor to max_lr, then lowers it far below where it began.

    lr = max_lr f(t), f being `onepass.optim.schedules.one_cycle`; the last rate is
    max_lr / (div_factor final_div_factor). What other schedulers made of the rate is overwritten, as by torch's
    class.

    Args:
        optimizer: As for `FunctionLR`.
        max_lr: The learning rate at the top, at least 0, or one for each group.
        total_steps: Steps of the training, above 0; by default epochs * steps_per_epoch.
        epochs: Epochs, above 0.
        steps_per_epoch: Steps of an epoch, above 0.
        pct_start: Share of the steps until the top, from 0 to 1.
        anneal_strategy: "cos" or "linear": the form of the way up and down.
        cycle_momentum: Also move momentum or beta1, from max_momentum to base_momentum and back.
        base_momentum: Momentum at the top, or one for each group.
        max_momentum: Momentum at both ends, or one for each group.
        div_factor: max_lr / (the first rate), above 0.
        final_div_factor: The first rate / (the last), above 0.
        three_phase: Come down to the first rate in as many steps as it went up, then to the last.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`.

    Raises:
        TypeError: The optimizer is not one, or an argument is not a number.
        ValueError: The number of steps is not given, the optimizer has no momentum to cycle, or an argument is out
            of range.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import OneCycleLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
        >>> scheduler = OneCycleLR(optimizer, 1.0, total_steps=6, pct_start=0.5, anneal_strategy="linear")
        >>> [round(lr, 3) for lrs in scheduler.preview(6) for lr in lrs]
        [0.04, 0.52, 1.0, 0.667, 0.333, 0.0]

    Differs from torch: beyond the last step the rate stays at its last value, and step total_steps + 1 warns,
    once; torch's rate rises a little at step total_steps, and the step after it raises. A state of torch's class
    brings total_steps and the step; the other arguments stay.

    Source: Smith and Topin 2019; torch.optim.lr_scheduler.OneCycleLR.
    """

    _settings = (
        *("total_steps", "pct_start", "_anneal_func_type", "div_factor", "final_div_factor", "three_phase"),
        *("cycle_momentum", "use_beta1", "base_momentums", "max_momentums", "max_lrs"),
    )
    total_steps, pct_start, _anneal_func_type = Setting(), Setting(), Setting()
    div_factor, final_div_factor, three_phase, max_lrs = Setting(), Setting(), Setting(), Setting()
    _has_warned = False

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
        *,
        follow: str = "calls",
    ) -> None:
        check_optimizer("OneCycleLR", optimizer)
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError(
                    "OneCycleLR: total_steps must be given, or epochs and steps_per_epoch, got "
                    f"{total_steps}, {epochs}, {steps_per_epoch}"
                )
            total_steps = epochs * steps_per_epoch
        self.total_steps, self.pct_start, self._anneal_func_type = total_steps, pct_start, anneal_strategy
        self.div_factor, self.final_div_factor, self.three_phase = div_factor, final_div_factor, three_phase
        with renamed("OneCycleLR", _ONE_CYCLE):
            self._shape(self.div_factor)
        self.max_lrs = as_list("OneCycleLR", "max_lr", max_lr, len(optimizer.param_groups))
        self._prepare_momentum(optimizer, cycle_momentum, base_momentum, max_momentum)
        with self._attached(optimizer, last_epoch, follow):
            self.base_lrs = [lr / self.div_factor for lr in self.max_lrs]
            if last_epoch == -1:
                for group, top, first in zip(optimizer.param_groups, self.max_lrs, self.base_lrs, strict=True):
                    group.update(initial_lr=first, max_lr=top, min_lr=first / self.final_div_factor)
            self._write_bounds(last_epoch)
            self._begin(last_epoch)

    def _shape(self, div_factor: float) -> schedules.one_cycle:
        return schedules.one_cycle(
            self.total_steps,
            self.pct_start,
            div_factor,
            self.final_div_factor,
            self._anneal_func_type,
            self.three_phase,
        )

    def _write(self, step: int) -> None:
        if step > self.__dict__["total_steps"] and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"OneCycleLR: step() must be called at most total_steps={self.total_steps} times, got {step}; "
                "the rate stays at its last value.",
                UserWarning,
                stacklevel=4,
            )
        super()._write(step)

    def _make_tracks(self) -> list[Track]:
        # The momentum begins and ends at max_momentum, as if the first and the last rate were 0.
        return [Track("lr", self._shape(self.div_factor), self.max_lrs), *self._momentum(self._shape(math.inf))]

    def state_dict(self) -> dict[str, Any]:
        """Returns the state as `FunctionLR` does, with the phases in the form of torch's class."""
        names = ("initial", "max", "initial", "min") if self.three_phase else ("initial", "max", "min")
        momentum = {"initial": "max_momentum", "max": "base_momentum", "min": "max_momentum"}
        phases = [
            {
                "end_step": float(end),
                "start_lr": f"{first}_lr",
                "end_lr": f"{last}_lr",
                "start_momentum": momentum[first],
                "end_momentum": momentum[last],
            }
            for (_, end, _, _), (first, last) in zip(
                self._shape(self.div_factor).phases, pairwise(names), strict=True
            )
        ]
        return {**super().state_dict(), "_schedule_phases": phases}
