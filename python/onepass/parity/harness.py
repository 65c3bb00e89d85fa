"""The rows of every operation's parity table: errors gathered over steps, and the verdict."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from onepass.parity.rule import error, ulp, within


@dataclass(frozen=True)
class Row:
    """Holds the largest errors of one kind of tensor, over all its tensors and steps, and the verdict."""

    rule: str
    dtype: str
    options: str
    tensor: str
    """The kind of tensor: param, or the name of a state."""
    ours_abs: float
    torch_abs: float
    ours_ulp: float
    torch_ulp: float
    worst_step: int
    """The step, from 1, at which our error was nearest to what the rule allows, or furthest beyond it."""
    share_of_limit: float
    """Our error in that step as a part of the error allowed there; the rule breaks above 1."""
    ok: bool

    def to_json(self) -> dict[str, Any]:
        """Returns the row as JSON can hold it: numbers that are not finite become text."""
        return {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def is_fault(row: Row, strict: bool) -> bool:
    """Says whether a row breaks the rule; where torch's loop is infinite or nan, too, only a strict run counts it.

    Args:
        row: The row.
        strict: Whether torch's own faults count.
    """
    return not row.ok and (strict or math.isfinite(row.torch_abs))


@dataclass(frozen=True)
class Refusal:
    """Holds what an implementation raised in the place of rows."""

    rule: str
    dtype: str
    options: str
    error: str

    def to_json(self) -> dict[str, Any]:
        """Returns the refusal as JSON can hold it."""
        return asdict(self)


class Tally:
    """Collects the errors of one row, a tensor and a step at a time."""

    def __init__(self) -> None:
        self._ours_abs = self._torch_abs = self._ours_ulp = self._torch_ulp = 0.0
        self._worst_step, self._share, self._ok = 0, -1.0, True

    def add(self, step: int, ours: Tensor, torchs: Tensor, exact: Tensor) -> None:
        """Judges one tensor after a step.

        Args:
            step: Number of the step, from 1.
            ours: Our result.
            torchs: torch's result from the same inputs, in the same dtype.
            exact: The result in float64.
        """
        verdict = within(ours, torchs, exact)
        if verdict.share > self._share:
            self._share, self._worst_step = verdict.share, step
        self._ok = self._ok and verdict.ok
        mine, theirs = error(ours, exact), error(torchs, exact)
        unit = _unit(exact, ours)
        self._ours_abs = max(self._ours_abs, _largest(mine))
        self._torch_abs = max(self._torch_abs, _largest(theirs))
        self._ours_ulp = max(self._ours_ulp, _largest(mine / unit))
        self._torch_ulp = max(self._torch_ulp, _largest(theirs / unit))

    def row(self, rule: str, dtype: str, options: str, tensor: str) -> Row:
        """Makes the row of all that was added.

        Args:
            rule: What is computed.
            dtype: In which dtype.
            options: With which options.
            tensor: The kind of tensor that was added.
        """
        return Row(
            rule=rule,
            dtype=dtype,
            options=options,
            tensor=tensor,
            ours_abs=self._ours_abs,
            torch_abs=self._torch_abs,
            ours_ulp=self._ours_ulp,
            torch_ulp=self._torch_ulp,
            worst_step=self._worst_step,
            share_of_limit=self._share,
            ok=self._ok,
        )


def _unit(exact: Tensor, ours: Tensor) -> Tensor:
    """Returns the ulp in which errors are shown: each element's, but at least that of the root mean square.

    Near zero, where two terms cancel, the ulp of the difference says nothing about how well they were computed.
    The verdict uses each element's own ulp.
    """
    exact = exact.detach().cpu()
    scale = exact.square().nan_to_num(nan=0.0, posinf=0.0).mean().sqrt()
    return ulp(exact.abs().clamp(min=scale.item()).nan_to_num(nan=scale.item()), ours.dtype)


def _largest(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0
