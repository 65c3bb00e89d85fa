"""One step at a time: the lock for which threads wait that share an optimizer."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["Turn", "turn_of"]

Turn = AbstractContextManager[Any]

_TURNS: weakref.WeakSet[Any] = weakref.WeakSet()


def turn_of(optimizer: Any) -> Turn:
    """Returns the optimizer's lock, which is made at the first call and is neither copied nor pickled.

    The thread that holds it may take it again: a step may run inside a step, from a tensor's own code.
    """
    # Two threads that come here at once get the same one.
    turn: Turn = optimizer.__dict__.setdefault("_turn", threading.RLock())
    _TURNS.add(turn)
    return turn


def _free() -> None:
    # In a forked child, the threads of the parent that held a lock are gone. Python's own modules free theirs so.
    for turn in _TURNS:
        if not turn._is_owned():
            turn._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free)
