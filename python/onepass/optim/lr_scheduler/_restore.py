"""What schedulers that share an optimizer keep in their states, and how they are resumed from it.

A scheduler alone needs its step and nothing else. If another scheduler or a hand has changed the values, the state
also holds them, and what the scheduler itself wrote last. States of torch's classes hold the latter in
``_last_lr``.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

from torch import Tensor
from torch.optim import Optimizer

from onepass.optim.lr_scheduler._memory import as_held
from onepass.optim.lr_scheduler._track import Track, get, put_all

# torch's recursion adds up rounding errors, float32 ones if the rate is a float32 tensor.
_NUMBERS, _TENSORS, _NEAR_ZERO = 1e-9, 1e-4, 1e-12


class _Scheduler(Protocol):
    """What is asked of a `FunctionLR` here."""

    optimizer: Optimizer
    last_epoch: int
    _step_count: int
    _first_lrs: list[Any]

    def lr_at(self, step: int) -> list[float]: ...

    def get_last_lr(self) -> list[Any]: ...

    def _all_tracks(self) -> list[Track]: ...

    def _restart(self, step: int) -> None: ...


def written(scheduler: _Scheduler) -> dict[str, Any]:
    """Returns the values that do not follow from the step alone, by field.

    The step is noted with them, because torch's classes hand them on unchanged in the states of later steps.
    """
    fields = {}
    groups = scheduler.optimizer.param_groups
    for track in scheduler._all_tracks() if _has_begun(scheduler) else ():
        now = [get(group, track.field) for group in groups]
        if not _is_alone(track, now, scheduler.last_epoch):
            memory = None if track.memory is None else track.memory.state()
            fields[track.field] = {"values": [float(value) for value in now], "memory": memory}
    return {"last_epoch": scheduler.last_epoch, "fields": fields}


def _has_begun(scheduler: _Scheduler) -> bool:
    """False for a part of torch's sequence whose turn has not come: it is at step -1."""
    return scheduler.last_epoch >= 0


def _is_alone(track: Track, now: list[Any], step: int) -> bool:
    """Whether the groups hold the closed form of a step."""
    if track.memory is not None and track.memory.ends is not None:
        return False
    wanted = track.values(step)
    # Groups that were added since the last step are not compared.
    pairs = zip(wanted, now, strict=False)
    return all(value is None or as_held(value, held) == held for value, held in pairs)


def is_untouched(scheduler: _Scheduler) -> bool:
    """Whether the groups still hold the rates that the scheduler wrote."""
    if not _has_begun(scheduler):
        return False
    track = scheduler._all_tracks()[0]
    now = [get(group, track.field) for group in scheduler.optimizer.param_groups]
    if track.memory is not None:
        return are_the_same(now, track.memory.lasts)
    if scheduler._step_count > 1:
        return _is_alone(track, now, scheduler.last_epoch)
    return are_the_same(now, scheduler._first_lrs)


def are_the_same(now: list[Any], lasts: list[Any]) -> bool:
    """Whether these are the very same objects: numbers from an optimizer's state may be equal by chance."""
    pairs = zip(now, lasts, strict=False)
    return all(float(a) == as_held(float(b), a) if isinstance(a, Tensor) else a is b for a, b in pairs)


def restore(scheduler: _Scheduler, state: dict[str, Any], untouched: bool) -> None:
    """Sets the values of `last_epoch`, and what others had changed.

    Args:
        scheduler: The scheduler, which has taken over the rest of the state.
        state: The state, of this class or of torch's.
        untouched: Whether the groups held what the scheduler had written before it took over the state.
    """
    kept = state.get("_written", {})
    if not _has_begun(scheduler):
        return
    if kept.get("last_epoch") == scheduler.last_epoch:
        scheduler._restart(scheduler.last_epoch)
        for track in scheduler._all_tracks():
            if track.field in kept["fields"]:
                _put_back(scheduler, track, **kept["fields"][track.field])
    elif "_last_lr" in state:
        _restore_torchs(scheduler, state["_last_lr"], untouched)
    else:
        scheduler._restart(scheduler.last_epoch)


def adopt(scheduler: _Scheduler) -> None:
    """Begins with rates that already have the scheduler's factor."""
    now = scheduler.get_last_lr()
    scheduler._restart(scheduler.last_epoch)
    track = scheduler._all_tracks()[0]
    if track.memory is not None:
        put_all(scheduler.optimizer.param_groups, "lr", now)
        track.take_over([float(lr) for lr in now])


def _put_back(scheduler: _Scheduler, track: Track, values: list[float], memory: dict[str, Any] | None) -> None:
    put_all(scheduler.optimizer.param_groups, track.field, values)
    if track.memory is not None and memory is not None:
        track.memory.load(memory)


def _restore_torchs(scheduler: _Scheduler, lasts: list[Any], untouched: bool) -> None:
    """Restores from ``_last_lr``, what torch wrote; what others wrote since is in the optimizer's state."""
    groups = scheduler.optimizer.param_groups
    now = [group["lr"] for group in groups]
    numbers = [float(lr) for lr in now]
    wanted = scheduler.lr_at(scheduler.last_epoch)
    scheduler._restart(scheduler.last_epoch)
    if _close(numbers, wanted, now):
        return
    own = _close([float(lr) for lr in lasts], wanted, [*lasts, *now])
    if untouched and own:
        return
    track = scheduler._all_tracks()[0]
    put_all(groups, "lr", lasts if untouched else numbers)
    if track.memory is not None and not own:
        track.take_over([float(lr) for lr in lasts])


def _close(lrs: list[float], wanted: list[float], held: list[Any]) -> bool:
    tolerance = _TENSORS if any(isinstance(lr, Tensor) for lr in held) else _NUMBERS
    least = _NEAR_ZERO * max(map(abs, wanted), default=0.0)
    pairs = zip(lrs, wanted, strict=True)
    return all(math.isclose(lr, value, rel_tol=tolerance, abs_tol=least) for lr, value in pairs)
