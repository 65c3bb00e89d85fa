"""Steps whose numbers nobody has read yet, and the rows that are made of them, many at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from onepass.monitor._optimizer import Measured
from onepass.monitor._packed import Packed
from onepass.monitor._sample import Sample
from onepass.nn.cross_entropy import LossStatistics
from onepass.optim._lists.tail import SKIPPED_STEPS
from onepass.optim._step.statistics import GroupStatistics

__all__ = ["Batch", "Pending", "Totals"]

Row = dict[str, Any]


class Pending(NamedTuple):
    """One step as it was logged: numbers and tensors."""

    step: int
    epoch: int
    loss: float | Tensor | None
    lrs: list[float | Tensor]
    measured: Measured | None
    scale: Tensor | None
    """The GradScaler's scale."""
    stats: LossStatistics | None
    more: dict[str, float | Tensor]
    sample: Sample | None
    forgotten: Tensor | None
    """Whether the gradients of the step before were still there."""


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

    def add(self, loss: Any, bins: Any) -> None:
        """Adds a step: its loss, and the rows of each bin with the sums of their accuracy and confidence."""
        if loss is not None:
            self._losses += loss
            self._steps += 1
        if bins is not None:
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
    """Returns the tensors of the bins."""
    return [stats.bin_rows, stats.bin_accuracy, stats.bin_confidence]


def sums_of_bins(arrays: list[Any]) -> Any:
    """Returns rows of the bins, and the sums over them of accuracy and confidence, which are nan without rows."""
    rows, accuracy, confidence = arrays
    return np.stack([rows, np.where(rows > 0, accuracy, 0.0) * rows, np.where(rows > 0, confidence, 0.0) * rows])


class Batch:
    """Steps whose tensors are on their way to the host.

    Args:
        pending: The steps.
    """

    def __init__(self, pending: list[Pending]) -> None:
        self._pending = pending
        self._tensors: list[Tensor] = []
        self._places: list[Row] = [self._plan(one) for one in pending]
        self._numbers = Packed(self._tensors)
        self.is_waiting = any(tensor.device.type == "cuda" for tensor in self._tensors)

    def _place(self, tensor: Tensor) -> int:
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _plan(self, one: Pending) -> Row:
        """Says which tensor is which."""
        places: Row = {}
        for name, value in (("loss", one.loss), ("scale", one.scale), ("forgotten", one.forgotten)):
            if isinstance(value, Tensor):
                places[name] = self._place(value)
        for number, lr in enumerate(one.lrs):
            if isinstance(lr, Tensor):
                places[f"lr {number}"] = self._place(lr)
        for name in ("statistics", "grad_norms", "control", "dropped"):
            value = None if one.measured is None else getattr(one.measured, name)
            if value is not None:
                places[name] = self._place(value)
        if one.stats is not None:
            places["stats"] = self._place(torch.stack([one.stats.accuracy, one.stats.entropy]))
            places["bins"] = [self._place(tensor) for tensor in bins_of(one.stats)]
        for name, value in one.more.items():
            if isinstance(value, Tensor):
                places[f"more {name}"] = self._place(value)
        return places

    def rows(self, totals: Totals) -> Iterator[Row]:
        """Returns the rows of the steps and of their layers, and events; reads the tensors."""
        arrays = self._numbers.arrays()
        for one, places in zip(self._pending, self._places, strict=True):
            found = {
                name: [arrays[p] for p in place] if isinstance(place, list) else arrays[place]
                for name, place in places.items()
            }
            yield from _rows(one, found, totals)


def _rows(one: Pending, found: Row, totals: Totals) -> Iterator[Row]:
    loss = float(found["loss"][0]) if "loss" in found else one.loss
    row: Row = {"kind": "step", "step": one.step, "epoch": one.epoch}
    if loss is not None:
        row["loss"] = loss
    if one.lrs:
        row["lr"] = [float(found[f"lr {n}"][0]) if isinstance(lr, Tensor) else lr for n, lr in enumerate(one.lrs)]
    row.update(_norms(found))
    layers: dict[str, Row] = {}
    if one.sample is not None:
        layers, groups = one.sample.rows()
        if one.measured is not None and "update_norm" not in row:
            row.update(groups)
    if "update_norm" in row:
        pairs = zip(row["update_norm"], row["param_norm"], strict=True)
        row["update_ratio"] = [u / p if p > 0 else math.nan for u, p in pairs]
    row["skipped"] = totals.count_skipped(found)
    if totals.scale is not None:
        row["scale"] = totals.scale
    bins = None
    if "stats" in found:
        bins = sums_of_bins(found["bins"])
        rows = float(bins[0].sum())
        row["accuracy"], row["entropy"] = (float(value) for value in found["stats"])
        row["confidence"] = float(bins[2].sum()) / rows if rows else math.nan
        row["batch"] = int(rows)
    for name, value in one.more.items():
        row[name] = float(found[f"more {name}"][0]) if isinstance(value, Tensor) else value
    totals.add(loss, bins)
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


def _norms(found: Row) -> Row:
    """What was measured for each param group."""
    if "statistics" in found:
        table = found["statistics"].reshape(-1, len(GroupStatistics._fields))
        return {name: table[:, place].tolist() for place, name in enumerate(GroupStatistics._fields)}
    return {"grad_norm": found["grad_norms"].tolist()} if "grad_norms" in found else {}
