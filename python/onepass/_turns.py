"""Locks by which threads take turns, and which a fork frees."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["Turn", "new_turn"]

Turn = AbstractContextManager[Any]

_TURNS: weakref.WeakSet[Any] = weakref.WeakSet()


def new_turn() -> Turn:
    """Makes a lock that its thread may take again, as Python code of a tensor may ask it to."""
    turn = threading.RLock()
    _TURNS.add(turn)
    return turn


def _free() -> None:
    # In a forked child, the threads of the parent that held a lock are gone. Python's own modules free theirs so.
    for turn in _TURNS:
        if not turn._is_owned():
            turn._at_fork_reinit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free)
