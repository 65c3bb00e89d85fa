"""The scheduler that puts others one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim import lr_scheduler as theirs
from torch.optim.lr_scheduler import LRScheduler

from onepass._arguments import listed, told
from onepass.optim.lr_scheduler._arguments import check_optimizer, is_number, plain
from onepass.optim.lr_scheduler._base import FunctionLR
from onepass.optim.lr_scheduler._combined import Combined
from onepass.optim.lr_scheduler._track import Track, put_all


class SequentialLR(Combined, theirs.SequentialLR):
    """Puts schedulers one after the other: at its milestone each begins with its step 0.

    lr(t) = lr_i(t - m_i), where m_i is the last milestone up to t, and lr_i the scheduler that begins there. At
    the beginning and at each milestone it overwrites what other schedulers made of the rate, as torch's class
    does.

    Args:
        optimizer: The optimizer that the schedulers share.
        schedulers: Schedulers of this module or of torch, at least one; `ReduceLROnPlateau` has a warm-up of its
            own instead. If one of them is torch's, they are called as torch's class calls them, and what needs a
            closed form (`lr_at`, `preview`, ``step(epoch)``, ``last_epoch=N``) raises.
        milestones: The steps at which a scheduler gives way to the next: one fewer than schedulers, ascending, at
            least 0.
        last_epoch: As for `FunctionLR`.
        follow: As for `FunctionLR`; the schedulers themselves count nothing.

    Raises:
        ValueError: The milestones do not fit, or a scheduler belongs to another optimizer.
        TypeError: One of them is not a scheduler, or has no closed form where one is needed.
        KeyError: last_epoch is not -1, and a group has no initial_lr.

    Example:
        >>> import torch
        >>> from onepass.optim import SGD
        >>> from onepass.optim.lr_scheduler import ExponentialLR, LinearLR, SequentialLR
        >>> optimizer = SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedulers = [LinearLR(optimizer, 0.5, total_iters=2), ExponentialLR(optimizer, 0.5)]
        >>> SequentialLR(optimizer, schedulers, milestones=[2]).preview(5)
        [[0.5], [0.75], [1.0], [0.5], [0.25]]

    Differs from torch: ``last_epoch=N`` is step N + 1 of the sequence (pytorch/pytorch#162591), and a milestone of
    0 skips a scheduler in every version (pytorch/pytorch#185872).

    Source: torch.optim.lr_scheduler.SequentialLR.
    """

    _settings = ("_milestones",)
    _schedulers: Any
    _active = -1

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[LRScheduler],
        milestones: list[int],
        last_epoch: int = -1,
        *,
        follow: str = "calls",
    ) -> None:
        check_optimizer("SequentialLR", optimizer)
        self._check_parts(schedulers, optimizer)
        milestones = listed("SequentialLR", "milestones", milestones, "numbers")
        _check_number(milestones, schedulers)
        for i, milestone in enumerate(milestones):
            if not is_number(milestone):
                raise TypeError(f"SequentialLR: milestones[{i}] must be a number, got {told(milestone)}")
        if sorted(milestones) != list(milestones) or any(milestone < 0 for milestone in milestones):
            raise ValueError(f"SequentialLR: milestones must be ascending and at least 0, got {told(milestones)}")
        with self._attached(optimizer, last_epoch, follow):
            self._milestones = plain(list(milestones))
            self._take_parts(schedulers)
            if last_epoch != -1:
                self._need_closed_forms(f"last_epoch={last_epoch}")
            self._begin(last_epoch)

    def _check_state(self, state_dict: dict[str, Any]) -> None:
        _check_number(state_dict.get("_milestones", self._milestones), self._schedulers)
        super()._check_state(state_dict)

    def _own_step(self, part: int, step: int) -> int:
        begin = self._milestones[part - 1] if part else 0
        return max(0, step - begin)

    def _turn(self, step: int) -> tuple[int, Any, int]:
        """Whose turn it is at a step: its number, the scheduler, and its own step."""
        part = bisect_right(self._milestones, step)
        return part, self._schedulers[part], step - (self._milestones[part - 1] if part else 0)

    def _first_write(self) -> None:
        if self._without_formula is None:
            self._restart(self.last_epoch)
            return
        groups = self.optimizer.param_groups
        put_all(groups, "lr", [group["initial_lr"] for group in groups])
        for part in self._schedulers:
            _undo_first_step(part)
        self._begin_parts()

    def _begin_parts(self) -> None:
        self._turn(0)[1]._initial_step()

    def _step_parts(self, step: int) -> None:
        part, scheduler, own_step = self._turn(step)
        if part > 0 and own_step == 0:
            scheduler._update_lr(0)
        else:
            scheduler.step()

    def _write(self, step: int) -> None:
        if self._without_formula is not None:
            super()._write(step)
            return
        if len(self.optimizer.param_groups) != len(self.base_lrs):
            self._take_new_groups()
        # `_turn` without the call, which would make a step 7 % slower.
        part = bisect_right(self._milestones, step)
        own_step = step - (self._milestones[part - 1] if part else 0)
        if part == self._active:
            self._schedulers[part]._write(own_step)
        else:
            self._schedulers[part]._restart(own_step)
            self._active = part

    def _restart(self, step: int) -> None:
        self._need_closed_forms("a step that is not the next one")
        self._active, scheduler, own_step = self._turn(step)
        scheduler._restart(own_step)

    def _write_others(self, step: int, restart: bool) -> None:
        part, scheduler, own_step = self._turn(step)
        scheduler._write_others(own_step, restart or part != self._active)
        self._active = part

    def _lr_at(self, step: int) -> list[float]:
        _, scheduler, own_step = self._turn(step)
        return scheduler.lr_at(own_step)  # type: ignore[no-any-return]  # it has a closed form

    def _all_tracks(self) -> list[Track]:
        return []  # the part whose turn it is has them

    def _is_untouched(self) -> bool:
        scheduler = self._turn(self.last_epoch)[1]
        return self._without_formula is None and scheduler._is_untouched()

    def _restore(self, state_dict: dict[str, Any], untouched: bool) -> None:
        if self._without_formula is not None:
            return
        for i, other in enumerate(self._schedulers):
            other.last_epoch = self._own_step(i, self.last_epoch)
        self._active, scheduler, _ = self._turn(self.last_epoch)
        states = state_dict.get("_schedulers")
        scheduler._restore(states[self._active] if states else {}, untouched)


def _undo_first_step(part: Any) -> None:
    """Sets a part back as torch's sequence does, because it took its first step when it was made."""
    inner = None if isinstance(part, FunctionLR) else getattr(part, "_schedulers", None)
    if inner is None:
        part.last_epoch -= 1
        return
    for one in inner:
        _undo_first_step(one)


def _check_number(milestones: Sequence[int], schedulers: Sequence[Any]) -> None:
    if len(milestones) != len(schedulers) - 1:
        raise ValueError(
            f"SequentialLR: milestones must be one fewer than schedulers, got {len(milestones)} for "
            f"{len(schedulers)}"
        )
