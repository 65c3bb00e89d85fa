"""One call at a time: the lock for which threads wait that share an optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from onepass._turns import Turn, new_turn

__all__ = ["Turn", "in_turn", "turn_of"]

P = ParamSpec("P")
R = TypeVar("R")
Self = TypeVar("Self")


def turn_of(optimizer: Any) -> Turn:
    """Returns the optimizer's lock, which is made at the first call and is neither copied nor pickled.

    The thread that holds it may take it again: a step may run inside a step, from a tensor's own code.
    """
    # Two threads that come here at once get the same one.
    turn: Turn = optimizer.__dict__.setdefault("_turn", new_turn())
    return turn


def in_turn(method: Callable[Concatenate[Self, P], R]) -> Callable[Concatenate[Self, P], R]:
    """Makes a method of an optimizer wait until no other thread steps it.

    Args:
        method: One that replaces or reads groups or states: a step in another thread holds pointers to them.
    """

    @functools.wraps(method)
    def waiting(self: Self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with turn_of(self):
            return method(self, *args, **kwargs)

    return waiting
