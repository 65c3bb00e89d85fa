"""One step at a time: the lock for which threads wait that share an optimizer."""

from __future__ import annotations

from typing import Any

from onepass._turns import Turn, new_turn

__all__ = ["Turn", "turn_of"]


def turn_of(optimizer: Any) -> Turn:
    """Returns the optimizer's lock, which is made at the first call and is neither copied nor pickled.

    The thread that holds it may take it again: a step may run inside a step, from a tensor's own code.
    """
    # Two threads that come here at once get the same one.
    turn: Turn = optimizer.__dict__.setdefault("_turn", new_turn())
    return turn
