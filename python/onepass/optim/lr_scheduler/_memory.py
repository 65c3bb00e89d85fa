"""Remembers what a scheduler wrote last, so that it notices what others have changed since."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Factors = float | list[float | None]


class Memory:
    """The last values of one field in all groups, and the factor that they belong to.

    A scheduler sets value = start + (end - start) f. If a group holds another value than was written, another
    scheduler or a hand has changed it, and the change stays: the group gets another end, so that the last factor
    gives the value that it holds. That is torch's recursive step, (value - start) f_new / f_last + start.

    Args:
        ends: The values at factor 1, which the groups are taken to hold.
        begins_again: After a factor of 0, forget what others changed before; otherwise it comes back, too.
    """

    __slots__ = ("_marks", "begins_again", "ends", "factors", "lasts")

    def __init__(self, ends: list[float], begins_again: bool = False) -> None:
        self.begins_again = begins_again
        self.lasts: list[Any] = list(ends)
        self.factors: Factors = 1.0
        # None as long as nobody else has changed a value: the closed form then holds to the bit.
        self.ends: list[float] | None = None
        self._marks: dict[int, tuple[Tensor, int]] = {}

    def holds(self, i: int, now: Any) -> bool:
        """Whether group i still holds what was written; waits for a GPU only if its tensor was written since."""
        last = self.lasts[i]
        if not isinstance(now, Tensor):
            return now is last or bool(now == last)
        mark = self._marks.get(i)
        if mark is not None and mark[0] is now and mark[1] == now._version:
            return True
        return float(now) == as_held(last, now)

    def note(self, i: int, now: Any, value: float) -> None:
        """Notes what group i holds from now on."""
        self._marks.pop(i, None)
        if not isinstance(now, Tensor):
            self.lasts[i] = now
        elif now.device.type == "cpu":
            self.lasts[i] = float(now)
        else:
            self.lasts[i] = value
            if not now.is_inference():
                self._marks[i] = (now, now._version)

    def onto(self, i: int, now: float, start: float, f: float) -> float | None:
        """Returns what factor f makes of the value that another has left in group i; None leaves it as it is.

        Args:
            i: The group.
            now: What it holds.
            start: The value at factor 0.
            f: The new factor.
        """
        last = self.factor(i)
        ends = self.ends
        assert ends is not None
        if f == last:
            if last != 0:
                ends[i] = start + (now - start) / last
            return None
        if last != 0:
            left = (now - start) / last
        elif self.begins_again:
            left = ends[i] - start + (now - start) / f
        elif ends[i] == start:
            left = now - start  # another one arrived at 0 at the same step, and has left it already
        else:
            left = ends[i] - start  # no factor leads away from 0: the value before comes back
        ends[i] = start + left
        return start + left * f

    def factor(self, i: int) -> float:
        """The factor that was last applied to group i."""
        found = self.factors[i] if isinstance(self.factors, list) else self.factors
        return 1.0 if found is None else found

    def grow(self, ends: list[float], factors: list[float] | None = None) -> None:
        """Takes in groups that were added to the optimizer.

        Args:
            ends: The ends of all groups.
            factors: The factors whose values the groups hold; None for 1.
        """
        known = len(self.lasts)
        if self.ends is not None:
            self.ends = self.ends + ends[known:]
        later = [1.0] * len(ends) if factors is None else factors
        self.factors = [*(self.factor(i) for i in range(known)), *later[known:]]
        self.lasts = self.lasts + (ends if factors is None else factors)[known:]

    def state(self) -> dict[str, Any]:
        """Returns plain numbers for a state_dict."""
        return {
            "begins_again": self.begins_again,
            "ends": None if self.ends is None else list(self.ends),
            "factors": list(self.factors) if isinstance(self.factors, list) else self.factors,
            "lasts": [float(last) for last in self.lasts],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Takes over what `state` returned."""
        self.begins_again = state["begins_again"]
        self.ends = None if state["ends"] is None else list(state["ends"])
        self.factors = list(state["factors"]) if isinstance(state["factors"], list) else state["factors"]
        self.lasts = list(state["lasts"])
        self._marks = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.load(state)


def as_held(value: float, now: Any) -> float:
    """Rounds a number to the dtype of the tensor that a group holds, if it holds one."""
    return float(torch.tensor(float(value), dtype=now.dtype)) if isinstance(now, Tensor) else value
