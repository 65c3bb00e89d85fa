"""Knows the schedulers that share an optimizer, and keeps none of them alive."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Protocol

from torch.optim import Optimizer

from onepass.optim.lr_scheduler._memory import Memory
from onepass.optim.lr_scheduler._wrapped import stepping


class Field(Protocol):
    """What is asked of a `Track` here."""

    field: str
    ends: list[float]


class Neighbour(Protocol):
    """What a scheduler shows the others of its optimizer."""

    optimizer: Optimizer
    base_lrs: list[float]
    last_epoch: int
    _step_count: int

    @property
    def _memories(self) -> Mapping[str, Memory]: ...

    def _all_tracks(self) -> Sequence[Field]: ...


_NEIGHBOURS: weakref.WeakKeyDictionary[Optimizer, weakref.WeakSet[Neighbour]] = weakref.WeakKeyDictionary()


def _all_of(scheduler: Neighbour) -> weakref.WeakSet[Neighbour]:
    optimizer = scheduler.optimizer
    return _NEIGHBOURS.setdefault(stepping(optimizer) or optimizer, weakref.WeakSet())


def join(scheduler: Neighbour) -> None:
    """Makes a scheduler known to the others of its optimizer."""
    _all_of(scheduler).add(scheduler)


def leave(scheduler: Neighbour) -> None:
    """Takes out a scheduler that has become a part of another, which writes for it."""
    _all_of(scheduler).discard(scheduler)


def resumed(scheduler: Neighbour, settings: Sequence[str]) -> tuple[bool, bool]:
    """Looks for schedulers that have just been resumed at the same step.

    Args:
        scheduler: The one that is being made.
        settings: Names of the attributes that are its arguments.

    Returns:
        Whether there is another one, and whether the same one was made before.
    """
    others = [
        other
        for other in _all_of(scheduler)
        if other is not scheduler and other.last_epoch == scheduler.last_epoch and other._step_count == 1
    ]
    again = [_is_again(scheduler, other, settings) for other in others]
    return not all(again), any(again)


def _is_again(scheduler: Neighbour, other: Neighbour, settings: Sequence[str]) -> bool:
    """Whether the same scheduler was made once more, for instance by a cell of a notebook that was run again."""
    same = type(other) is type(scheduler) and other.base_lrs == scheduler.base_lrs
    return same and all(getattr(other, name) == getattr(scheduler, name) for name in settings)


def scale_zeros(scheduler: Neighbour, field: str, i: int, ratio: float) -> None:
    """Passes a factor to schedulers that hold group i at 0: its value, which is to come back, does not show it."""
    for other in _all_of(scheduler):
        memory = other._memories.get(field)
        if other is not scheduler and memory is not None and memory.factor(i) == 0:
            tracks = [track for track in other._all_tracks() if track.field == field]
            memory.ends = memory.ends or list(tracks[0].ends)
            memory.ends[i] *= ratio
