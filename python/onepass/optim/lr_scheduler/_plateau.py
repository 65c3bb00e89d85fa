"""Reduces the learning rate when a metric has stopped improving, after a warm-up if one is asked for."""

from __future__ import annotations

import logging
import weakref
from numbers import Integral
from typing import Any, SupportsFloat

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau as TorchPlateau

from onepass._arguments import told
from onepass.optim import schedules
from onepass.optim.lr_scheduler._arguments import (
    amount,
    as_list,
    check_optimizer,
    check_rates,
    check_state,
    is_list,
    is_number,
    plain,
)
from onepass.optim.lr_scheduler._base import FOLLOWS
from onepass.optim.lr_scheduler._memory import Memory
from onepass.optim.lr_scheduler._neighbours import join
from onepass.optim.lr_scheduler._restore import are_the_same
from onepass.optim.lr_scheduler._track import Track, held_rates, initial_rates, own_tensor, put, put_all
from onepass.optim.lr_scheduler._undo import undone_on_error
from onepass.optim.lr_scheduler._updates import Updates
from onepass.optim.lr_scheduler._wrapped import check_seen
from onepass.optim.schedules import Schedule

_log = logging.getLogger("onepass.optim.lr_scheduler")


class ReduceLROnPlateau(TorchPlateau):
    """Reduces the learning rate when a metric has stopped improving: lr = max(factor lr, min_lr).

    It does so after more than `patience` metrics in a row that were no better than the best, and reports each
    reduction to the logger ``onepass.optim.lr_scheduler`` at level INFO.

    Call ``step(metric)`` after each validation. With a warm-up also call ``step()``, without a metric, after each
    update: it moves the warm-up alone. If you never do, the warm-up counts metrics. Until the warm-up is over,
    metrics are noted and nothing is reduced. A state that was saved without a warm-up, also by torch's class,
    counts as one whose warm-up is over if it has taken as many steps.

    Reductions and warm-up apply to the rate that other schedulers have left. If several groups hold the same
    tensor as their learning rate, each but the first gets a copy of its own.

    Args:
        optimizer: The optimizer, of any class; also one that wraps another.
        mode: "min" if a smaller metric is better, "max" if a larger one is.
        factor: The factor of each reduction, at least 0 and below 1.
        patience: How many metrics in a row may be no better, at least 0.
        threshold: How much better a metric must be, at least 0.
        threshold_mode: "rel": better by the share `threshold` of the best; "abs": better by `threshold`.
        cooldown: How many metrics after a reduction are not judged, at least 0.
        min_lr: The smallest learning rate, at least 0, or one for each group.
        eps: A rate that would fall by this or less is not reduced, at least 0.
        warmup: Steps of a linear warm-up from 0, or a schedule that ends at 1, for instance ``warmup(500, 0.1)``.
        follow: What the warm-up counts: "calls", or "optimizer" for the updates that the optimizer took.
        smoothing: How many of the last metrics are averaged before they are judged, an integer of at least 1.

    Raises:
        TypeError: The optimizer is not one, or an argument is not a number.
        ValueError: An argument is out of range, or follow is "optimizer" without a warm-up, or for an optimizer
            whose updates cannot be seen.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import ReduceLROnPlateau
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
        >>> for loss in (0.9, 0.7, 0.7, 0.7, 0.6):
        ...     scheduler.step(loss)
        ...     print(loss, optimizer.param_groups[0]["lr"])
        0.9 1.0
        0.7 1.0
        0.7 1.0
        0.7 0.5
        0.6 0.5

    Differs from torch: `warmup` (pytorch/pytorch#68978), `follow` and `smoothing`; `load_state_dict` sets the
    rates, too.

    Source: torch.optim.lr_scheduler.ReduceLROnPlateau.
    """

    _updates: Updates | None = None
    _step_count = 0
    base_lrs: list[float]  # type: ignore[assignment]  # torch's may be tensors

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Any = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Any = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
        *,
        warmup: Schedule | int | None = None,
        follow: str = "calls",
        smoothing: int = 1,
    ) -> None:
        name = type(self).__name__
        check_optimizer(name, optimizer)
        check_rates(name, optimizer)
        numbers = {"patience": patience, "threshold": threshold, "cooldown": cooldown, "eps": eps}
        for argument, number in {"factor": factor, **numbers}.items():
            if not is_number(number):
                raise TypeError(f"{name}: {argument} must be a number, got {told(number)}")
        limits: dict[str, tuple[Any, bool, str]] = {
            "mode": (mode, mode in ("min", "max"), "min or max"),
            "threshold_mode": (threshold_mode, threshold_mode in ("rel", "abs"), "rel or abs"),
            "factor": (factor, 0 <= factor < 1, "at least 0 and below 1"),
            **{argument: (number, number >= 0, "at least 0") for argument, number in numbers.items()},
            "follow": (follow, follow in FOLLOWS, f"one of {', '.join(FOLLOWS)}"),
            "smoothing": (smoothing, _is_count(smoothing), "an integer and at least 1"),
        }
        for argument, (value, good, wanted) in limits.items():
            if not good:
                raise ValueError(f"{name}: {argument} must be {wanted}, got {told(value)}")
        if follow == "optimizer" and warmup is None:
            raise ValueError(f"{name}: follow must be calls without a warm-up, got 'optimizer'")
        if follow == "optimizer":
            check_seen(name, optimizer)
        self._warmup = _warmup_of(name, warmup)
        self.min_lrs = as_list(name, "min_lr", min_lr, len(optimizer.param_groups))
        self.default_min_lr = None if is_list(min_lr) else amount(name, "min_lr", min_lr)
        self.optimizer = optimizer
        self.mode, self.threshold, self.threshold_mode = mode, threshold, threshold_mode
        self.factor, self.patience, self.cooldown, self.eps = factor, patience, cooldown, eps
        self.follow, self.smoothing = follow, smoothing
        self._init_is_better(mode, threshold, threshold_mode)
        self._reset()
        self._metrics: list[float] = []
        self._reached_end = self._warmup is None
        self.last_epoch = self.last_step = 0
        self.base_lrs = self._rates_from(0)
        self._memory = Memory(self.base_lrs)
        if follow == "optimizer":
            self._updates = Updates(name, optimizer, 0)
        self._warm_up()
        self._left = self.get_last_lr()
        join(self)

    def _rates_from(self, known: int) -> list[float]:
        groups = self.optimizer.param_groups
        if self._warmup is not None:
            return initial_rates(groups, known)
        for i in range(known, len(groups)):
            own_tensor(groups, i, "lr")
        return [float(group["lr"]) for group in groups[known:]]

    @property
    def _last_lr(self) -> list[float | Tensor]:  # type: ignore[override]  # torch's is an attribute
        return self.get_last_lr()

    def get_last_lr(self) -> list[float | Tensor]:
        """Returns the learning rates that the groups hold; tensors are copied."""
        return held_rates(self.optimizer.param_groups)

    @property
    def _warmup_step(self) -> int:
        """How many steps of the warm-up are over."""
        if self._updates is not None:
            self.last_step = self._updates.total()
            return self.last_step
        return self.last_step or self.last_epoch

    @property
    def warming_up(self) -> bool:
        """Whether the warm-up is not yet over."""
        return (
            self._warmup is not None and not self._reached_end and self._warmup_step < (self._warmup.length or 0)
        )

    def _warm_up(self) -> None:
        """Sets the rates of the warm-up; it ends with the initial rates, and from then on leaves them alone."""
        if self._warmup is None or self._reached_end:
            return
        groups = self.optimizer.param_groups
        if len(groups) > len(self.base_lrs):
            self.base_lrs = self.base_lrs + self._rates_from(len(self.base_lrs))
            self._memory.grow(self.base_lrs)
        step = self._warmup_step
        factor = self._warmup(step)
        self._reached_end = step >= (self._warmup.length or 0)
        self._all_tracks()[0].write(groups, factor)

    def _all_tracks(self) -> list[Track]:
        track = Track("lr", self._warmup or schedules.constant(), self.base_lrs)
        track.memory, track.owner = self._memory, weakref.ref(self)
        return [track]

    @property
    def _memories(self) -> dict[str, Memory]:
        return {"lr": self._memory}

    def step(self, metrics: SupportsFloat | None = None, epoch: int | None = None) -> None:  # type: ignore[override]
        """Judges a metric, or moves the warm-up by a step if there is no metric.

        Args:
            metrics: What is watched, a number or a tensor of one element.
            epoch: The number of the metric, if it is not the next one.

        Raises:
            TypeError: There is neither a metric nor a warm-up, or an argument is not a number; nothing has been
                changed.
        """
        if metrics is None:
            if self._warmup is None:
                raise TypeError(
                    f"{type(self).__name__}: metrics must be given where there is no warm-up, got None"
                )
            self.last_step += 1
            self._warm_up()
            return
        current = _float_of(type(self).__name__, "metrics", metrics)
        if epoch is not None and not is_number(epoch := plain(epoch)):
            raise TypeError(f"{type(self).__name__}: epoch must be a number, got {told(epoch)}")
        was_warming_up = self.warming_up
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._metrics = [*self._metrics, current][-self.smoothing :]
        self._warm_up()  # its end, if this is it, comes before a reduction
        self._judge(sum(self._metrics) / len(self._metrics), was_warming_up)

    def _judge(self, current: float, warming_up: bool) -> None:
        # Older torch, 2.4 to 2.8 among them, calls the method is_better.
        is_better = getattr(self, "_is_better" if hasattr(self, "_is_better") else "is_better")
        if is_better(current, self.best):
            self.best = current
            self.num_bad_epochs = 0
        elif not warming_up:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce_lr(self.last_epoch)
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0

    def _reduce_lr(self, epoch: int) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise ValueError(
                    f"{type(self).__name__}: min_lr must have one entry for each of {len(groups)} groups, got "
                    f"{len(self.min_lrs)}"
                )
            self.min_lrs = [float(self.default_min_lr)] * len(groups)
        for i in range(len(self.base_lrs), len(groups)):
            own_tensor(groups, i, "lr")
        for i, (group, least) in enumerate(zip(groups, self.min_lrs, strict=True)):
            before = float(group["lr"])
            after = float(max(before * self.factor, least))
            if before - after > self.eps:
                put(group, "lr", after)
                _log.info("metric %d: learning rate of group %d reduced from %g to %g", epoch, i, before, after)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state: everything but the optimizer and the warm-up's schedule."""
        left_out = ("optimizer", "_updates", "_warmup", "_left")
        last_step = self.last_step if self._updates is None else self._updates.total()
        kept = {key: value for key, value in self.__dict__.items() if key not in left_out}
        return {
            **{key: plain(value) for key, value in kept.items()},
            "last_step": last_step,
            "_last_lr": plain(self.get_last_lr()),
            "_memory": self._memory.state(),
            "_written": {"last_epoch": self.last_epoch},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state of this class or of torch's, and sets the rates.

        A state of torch's class does not contain what other schedulers did after its last metric. If the
        optimizer's state was loaded before, the rates of that state stay.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            ValueError: The number of groups differs; nothing has been changed.
            TypeError: The state is not a dict; nothing has been changed.
        """
        check_state(type(self).__name__, state_dict)
        lrs = state_dict.get("_last_lr", self.get_last_lr())
        groups = self.optimizer.param_groups
        if len(lrs) != len(groups):
            raise ValueError(
                f"{type(self).__name__}: _last_lr of the state_dict must be as many as param_groups, got "
                f"{len(lrs)} for {len(groups)}"
            )
        with undone_on_error(self.optimizer, (self,)):
            untouched = are_the_same(self.get_last_lr(), self._left)
            memory = Memory(self.base_lrs)
            if "_memory" in state_dict:
                memory.load(state_dict["_memory"])
            left_out = ("_last_lr", "_memory", "_written")
            self.__dict__.update({key: value for key, value in state_dict.items() if key not in left_out})
            self._memory = memory
            if self._warmup is None:
                self._reached_end = True
            elif "_reached_end" not in state_dict:  # torch's, which counts metrics
                self._reached_end = max(self.last_step, self.last_epoch) >= (self._warmup.length or 0)
            self._metrics = list(self._metrics)
            self._init_is_better(self.mode, self.threshold, self.threshold_mode)
            ours = state_dict.get("_written", {}).get("last_epoch") == self.last_epoch
            put_all(groups, "lr", lrs if ours or untouched else self.get_last_lr())
            self._left = self.get_last_lr()
        if self._updates is not None:
            self._updates.reset(self.last_step)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_updates"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begins to count the copied optimizer's updates, because copies of an optimizer have no hooks."""
        self.__dict__.update(state)
        if self.follow == "optimizer":
            self._updates = Updates(type(self).__name__, self.optimizer, self.last_step)


def _float_of(name: str, argument: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        wanted = "a number or a tensor of one element"
        raise TypeError(f"{name}: {argument} must be {wanted}, got {told(value)}") from None


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and int(value) >= 1


def _warmup_of(name: str, given: Schedule | int | None) -> Schedule | None:
    if given is None:
        return None
    if isinstance(given, int) and not isinstance(given, bool):
        given = schedules.warmup(given)
    if not isinstance(given, Schedule) or given.length is None or given(int(given.length) + 1) != 1.0:
        raise ValueError(
            f"{name}: warmup must be a number of steps or a schedule that ends at 1, got {told(given)}"
        )
    return given
