"""Schedulers made of schedulers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau as TorchPlateau

from onepass.optim.lr_scheduler._base import FunctionLR
from onepass.optim.lr_scheduler._cycles import _Cycle
from onepass.optim.lr_scheduler._track import put
from onepass.optim.lr_scheduler._undo import undone_on_error


class _Combined(FunctionLR):
    """What a sequence and a chain share: their parts, and a state that holds those of the parts."""

    _schedulers: Sequence[FunctionLR]

    def _check_parts(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None) -> None:
        name = type(self).__name__
        if len(schedulers) < 1:
            raise ValueError(f"{name}: schedulers must be at least one, got none")
        for i, part in enumerate(schedulers):
            if isinstance(part, TorchPlateau):
                raise ValueError(
                    f"{name}: schedulers[{i}] must be a function of the step, got ReduceLROnPlateau; its argument "
                    "warmup puts a warm-up in front of it"
                )
            if not isinstance(part, FunctionLR):
                kind = f"{type(part).__module__}.{type(part).__qualname__}"
                raise TypeError(
                    f"{name}: schedulers[{i}] must be one of onepass.optim.lr_scheduler with a closed form, got "
                    f"{kind}"
                )
            if part.optimizer is not (optimizer or schedulers[0].optimizer):
                raise ValueError(f"{name}: schedulers[{i}] must belong to the same optimizer, got another's")
            if part.follow != "calls":
                raise ValueError(
                    f"{name}: schedulers[{i}] must have follow='calls', because {name} counts, got {part.follow!r}"
                )

    def _take_parts(self, schedulers: Sequence[LRScheduler]) -> None:
        self._schedulers = schedulers  # type: ignore[assignment]  # checked above
        for part in self._schedulers:
            part._stop_order()
        self.base_lrs = list(self._schedulers[0].base_lrs)

    def _take_new_groups(self) -> None:
        for part in self._schedulers:
            part._take_new_groups()
        self.base_lrs = list(self._schedulers[0].base_lrs)

    def _family(self) -> list[FunctionLR]:
        """This scheduler, its parts and theirs."""
        below = [part._family() if isinstance(part, _Combined) else [part] for part in self._schedulers]
        return [self, *(member for members in below for member in members)]

    def _place(self, part: int, step: int) -> int:
        """The part's own step at a step of the whole."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """As `FunctionLR`'s, with the states of the parts, as torch's class has them."""
        for i, part in enumerate(self._schedulers):
            part.last_epoch = self._place(i, self.last_epoch)
        return {**super().state_dict(), "_schedulers": [part.state_dict() for part in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `FunctionLR`'s; the states of the parts bring their arguments.

        Raises:
            ValueError: As for `FunctionLR`, or the number of parts differs; nothing has been changed.
        """
        states = state_dict.get("_schedulers", [])
        if "_schedulers" in state_dict and len(states) != len(self._schedulers):
            raise ValueError(
                f"{type(self).__name__}: state_dict must have the states of {len(self._schedulers)} schedulers, "
                f"got {len(states)}"
            )
        if "last_epoch" not in state_dict and states:  # torch's chain keeps none of its own
            state_dict = {**state_dict, "last_epoch": states[0].get("last_epoch")}
        with undone_on_error(self.optimizer, self._family()):
            if isinstance(state_dict.get("last_epoch"), int):
                for part, state in zip(self._schedulers, states, strict=False):
                    # torch's class notes -1 for a part whose turn has not come.
                    part.load_state_dict({**state, "last_epoch": max(0, state.get("last_epoch", 0))})
            super().load_state_dict(state_dict)


class SequentialLR(_Combined):
    """One scheduler after the other: at its milestone each begins with its step 0.

    Args:
        optimizer: The optimizer that all of them have.
        schedulers: Of this module; `ReduceLROnPlateau` has a warm-up of its own.
        milestones: Where each gives way to the next: one fewer than schedulers, ascending, at least 0.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`; the schedulers themselves count nothing.

    Raises:
        ValueError: The milestones do not fit, or a scheduler belongs to another optimizer.
        TypeError: A scheduler has no closed form.

    Differs from torch: ``last_epoch=N`` is step N + 1 of the sequence (pytorch/pytorch#162591), and a milestone of
    0 skips a scheduler in every version (pytorch/pytorch#185872).

    Source: torch.optim.lr_scheduler.SequentialLR.
    """

    _settings = ("_milestones",)

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[LRScheduler],
        milestones: list[int],
        last_epoch: int = -1,
        *,
        follow: str = "calls",
    ) -> None:
        self._check_parts(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: milestones must be one fewer than schedulers, got {len(milestones)} for "
                f"{len(schedulers)}"
            )
        if sorted(milestones) != list(milestones) or any(milestone < 0 for milestone in milestones):
            raise ValueError(f"SequentialLR: milestones must be ascending and at least 0, got {milestones}")
        with self._attached(optimizer, last_epoch, follow):
            self._milestones = list(milestones)
            self._take_parts(schedulers)
            self._begin(last_epoch)

    def _place(self, part: int, step: int) -> int:
        begin = self._milestones[part - 1] if part else 0
        return max(0, step - begin)

    def _write(self, step: int) -> None:
        if len(self.optimizer.param_groups) != len(self.base_lrs):
            self._take_new_groups()
        part = bisect_right(self._milestones, step)
        self._schedulers[part]._write(self._place(part, step))

    def lr_at(self, step: int) -> list[float]:
        """As `FunctionLR`'s."""
        part = bisect_right(self._milestones, step)
        return self._schedulers[part].lr_at(self._place(part, step))


class ChainedScheduler(_Combined):
    """The product of schedulers: lr = lr_0 (lr_1 / base_lr_1) (lr_2 / base_lr_2) ...

    Args:
        schedulers: Of this module; one that sets the rate by itself (`CyclicLR`, `OneCycleLR`) must be the first.
        optimizer: The optimizer that all of them have; None for that of the first.
        follow: As for `FunctionLR`; the schedulers themselves count nothing.

    Raises:
        ValueError: A scheduler belongs to another optimizer, or stands at another step.
        TypeError: A scheduler has no closed form.

    Differs from torch: the order does not matter, and a cosine with restarts does not undo the others
    (pytorch/pytorch#129565). With an eta_min the product is of the rates; torch applies a recursion made for one.

    Source: torch.optim.lr_scheduler.ChainedScheduler.
    """

    def __init__(
        self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None, *, follow: str = "calls"
    ) -> None:
        self._check_parts(schedulers, optimizer)
        first = schedulers[0].last_epoch
        for i, part in enumerate(schedulers):
            if i and isinstance(part, _Cycle):
                raise ValueError(
                    f"ChainedScheduler: schedulers[{i}] must be the first, because it sets the rate by itself, "
                    f"got {type(part).__name__} at {i}"
                )
            if part.last_epoch != first:
                raise ValueError(
                    f"ChainedScheduler: schedulers[{i}] must have last_epoch {first} like the first, got "
                    f"{part.last_epoch}"
                )
        with self._attached(schedulers[0].optimizer, first - 1 if first else -1, follow):
            self._take_parts(schedulers)
            self._begin(first - 1)

    def _place(self, part: int, step: int) -> int:
        return step

    def _write(self, step: int) -> None:
        if len(self.optimizer.param_groups) != len(self.base_lrs):
            self._take_new_groups()
        lrs = self.lr_at(step)
        for part in self._schedulers:  # whatever else they move
            part._write(step)
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            put(group, "lr", lr)

    def lr_at(self, step: int) -> list[float]:
        """As `FunctionLR`'s."""
        lrs = self._schedulers[0].lr_at(step)
        for part in self._schedulers[1:]:
            bases = zip(lrs, part.lr_at(step), part.base_lrs, strict=True)
            lrs = [lr * (other / base) if base else 0.0 for lr, other, base in bases]
        return lrs
