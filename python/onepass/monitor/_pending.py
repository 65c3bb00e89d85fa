"""Steps whose numbers nobody has read yet, and the rows that are made of them, many at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from onepass.monitor._packed import Packed, Value
from onepass.monitor._sample import Sample
from onepass.nn.cross_entropy import LossStatistics
from onepass.optim._lists.tail import SKIPPED_STEPS
from onepass.optim._step.statistics import GroupStatistics

__all__ = ["Batch", "Pending", "Totals"]

Row = dict[str, Any]
# Bins of confidence of our loss.
BINS = 15


class Pending(NamedTuple):
    """One step as it was logged."""

    step: int
    epoch: int
    values: dict[str, Value]
    """What `Measured` holds, and "loss", "scale" of the GradScaler, "forgotten": whether the gradients of the step
    before were still there, "accuracy" and "entropy"."""
    more: dict[str, float | Value]
    stats: LossStatistics | None
    sample: Sample | None


class Totals:
    """What runs through all steps: skipped steps, the scale, and the sums of the epoch.

    Args:
        by_scale: Whether a GradScaler drops the steps, which only its falling scale shows.
        before: The steps that our optimizer had skipped before.
    """

    def __init__(self, by_scale: bool, before: int) -> None:
        self._by_scale = by_scale
        self._before = before
        self._own = self._dropped = 0
        self.scale: float | None = None
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Sets the sums of the epoch to 0."""
        self._losses = self._steps = 0.0
        self._bins: Any = None

    def add(self, loss: float) -> None:
        """Adds the loss of a step."""
        self._losses += loss
        self._steps += 1

    def add_bins(self, bins: Any) -> None:
        """Adds what `sums_of_bins` returns of some steps."""
        if len(bins):
            bins = bins.sum(0)
            self._bins = bins if self._bins is None else self._bins + bins

    def count_skipped(self, found: Row) -> int:
        """Counts a step that was skipped; returns how many there were."""
        if "control" in found:
            self._own = int(found["control"][SKIPPED_STEPS]) - self._before
        if "dropped" in found and found["dropped"][0]:
            self._dropped += 1
        if "scale" in found:
            scale = float(found["scale"][0])
            self._dropped += self._by_scale and self.scale is not None and scale < self.scale
            self.scale = scale
        return self._own + self._dropped

    def epoch(self) -> Row:
        """Returns what the steps say of the epoch."""
        row: Row = {"train_loss": self._losses / self._steps} if self._steps else {}
        if self._bins is not None:
            names = ("train_accuracy", "calibration_error", "train_confidence")
            row.update(zip(names, calibration(self._bins), strict=True))
        return row


def calibration(bins: Any) -> tuple[float, float, float]:
    """Returns accuracy, expected calibration error and mean confidence.

    Args:
        bins: The rows of each bin, and the sums of their accuracy and confidence.
    """
    rows, accurate, confident = bins
    total = max(float(rows.sum()), 1.0)
    error = float(np.abs(accurate - confident).sum()) / total
    return float(accurate.sum()) / total, error, float(confident.sum()) / total


def bins_of(stats: LossStatistics) -> list[Tensor]:
    """Returns the tensors of the bins, each of shape (BINS,)."""
    return [stats.bin_rows, stats.bin_accuracy, stats.bin_confidence]


def sums_of_bins(numbers: Any) -> Any:
    """Returns the sums over the rows of each bin, of shape (statistics, 3, BINS): 1, accuracy and confidence.

    Args:
        numbers: The numbers of `bins_of`, one statistics after the other; the means of bins without rows are nan.
    """
    table = numbers.reshape(-1, 3, BINS)
    rows = table[:, :1]
    return np.concatenate([rows, np.where(rows > 0, table[:, 1:], 0.0) * rows], 1)


class Batch:
    """Steps whose tensors are on their way to the host.

    Args:
        pending: The steps.
    """

    def __init__(self, pending: list[Pending]) -> None:
        self._pending = pending
        # Of each step the tensors among its values, and among what the user gave.
        self._names = [
            [
                (place, name)
                for place in ("values", "more")
                for name, value in getattr(one, place).items()
                if isinstance(value, Tensor)
            ]
            for one in pending
        ]
        tensors = [
            getattr(one, place)[name]
            for one, names in zip(pending, self._names, strict=True)
            for place, name in names
        ]
        self._numbers = Packed(tensors)
        self._bins = Packed([bin for one in pending if one.stats is not None for bin in bins_of(one.stats)])
        self.is_waiting = self._numbers.is_waiting or self._bins.is_waiting
        """Whether the numbers are still on their way from a GPU."""

    def rows(self, totals: Totals) -> Iterator[Row]:
        """Returns the rows of the steps and of their layers, and events; reads the tensors."""
        arrays = iter(self._numbers.arrays())
        bins = sums_of_bins(self._bins.together())
        totals.add_bins(bins)
        sums = iter(bins.sum(2).tolist())
        for one, names in zip(self._pending, self._names, strict=True):
            for place, name in names:
                getattr(one, place)[name] = next(arrays).tolist()
            yield from _rows(one, None if one.stats is None else next(sums), totals)


def _rows(one: Pending, sums: list[float] | None, totals: Totals) -> Iterator[Row]:
    """Returns the rows of one step; `sums`: over its bins, those of `sums_of_bins`."""
    found: dict[str, Any] = one.values
    row: Row = {"kind": "step", "step": one.step, "epoch": one.epoch}
    if "loss" in found:
        (row["loss"],) = found["loss"]
    if found["lr"]:
        row["lr"] = found["lr"]
    if "statistics" in found:
        table, width = found["statistics"], len(GroupStatistics._fields)
        row.update({name: table[place::width] for place, name in enumerate(GroupStatistics._fields)})
    elif "grad_norm" in found:
        row["grad_norm"] = found["grad_norm"]
    layers: dict[str, Row] = {}
    if one.sample is not None:
        layers, groups = one.sample.rows()
        if "grad_norm" in row and "update_norm" not in row:
            row.update(groups)
    if "update_norm" in row:
        pairs = zip(row["update_norm"], row["param_norm"], strict=True)
        row["update_ratio"] = [u / p if p > 0 else math.nan for u, p in pairs]
    row["skipped"] = totals.count_skipped(found)
    if totals.scale is not None:
        row["scale"] = totals.scale
    if sums is not None:
        rows, _, confident = sums
        row["accuracy"], row["entropy"] = found["accuracy"][0], found["entropy"][0]
        row["confidence"] = confident / rows if rows else math.nan
        row["batch"] = int(rows)
    for name, value in one.more.items():
        row[name] = value[0] if isinstance(value, list) else value
    if "loss" in row:
        totals.add(row["loss"])
    yield row
    if layers:
        yield {"kind": "layers", "step": one.step, "layers": layers}
    if "forgotten" in found and found["forgotten"][0]:
        yield {
            "kind": "event",
            "step": one.step,
            "name": "missing_zero_grad",
            "text": "the gradients of the step before were still there when this step's were added to them",
        }
