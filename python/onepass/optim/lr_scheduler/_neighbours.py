"""The schedulers that share an optimizer. Nobody is kept alive by it."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, TypeAlias

from torch.optim import Optimizer

from onepass.optim.lr_scheduler._wrapped import stepping

if TYPE_CHECKING:
    from onepass.optim.lr_scheduler._base import FunctionLR
    from onepass.optim.lr_scheduler._plateau import ReduceLROnPlateau

    Scheduler: TypeAlias = FunctionLR | ReduceLROnPlateau

_SCHEDULERS: weakref.WeakKeyDictionary[Optimizer, weakref.WeakSet[Scheduler]] = weakref.WeakKeyDictionary()


def _of(scheduler: Scheduler) -> weakref.WeakSet[Scheduler]:
    optimizer = scheduler.optimizer
    return _SCHEDULERS.setdefault(stepping(optimizer) or optimizer, weakref.WeakSet())


def join(scheduler: Scheduler) -> None:
    """Makes a scheduler known to the others of its optimizer."""
    _of(scheduler).add(scheduler)


def leave(scheduler: Scheduler) -> None:
    """Takes out one that does not write by itself any more."""
    _of(scheduler).discard(scheduler)


def resumed(scheduler: FunctionLR) -> tuple[bool, bool]:
    """Whether others have just been resumed at the same step; whether the same one was made before, too."""
    others = [
        other
        for other in _of(scheduler)
        if other is not scheduler and other.last_epoch == scheduler.last_epoch and other._step_count == 1
    ]
    again = [_is_again(scheduler, other) for other in others]
    return not all(again), any(again)


def _is_again(scheduler: FunctionLR, other: Scheduler) -> bool:
    """Whether the same scheduler was made once more, as in a cell of a notebook that is run again."""
    same = type(other) is type(scheduler) and other.base_lrs == scheduler.base_lrs
    return same and all(getattr(other, name) == getattr(scheduler, name) for name in scheduler._settings)


def scale_zeros(scheduler: Scheduler, field: str, i: int, ratio: float) -> None:
    """Tells a factor to those that hold group i at 0: it cannot be seen in the value, which is to come back."""
    for other in _of(scheduler):
        memory = other._memories.get(field)
        if other is not scheduler and memory is not None and memory.factor(i) == 0:
            tracks = [track for track in other._all_tracks() if track.field == field]
            memory.ends = memory.ends or list(tracks[0].ends)
            memory.ends[i] *= ratio
