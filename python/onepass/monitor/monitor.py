"""Monitor: records what a training does, without changing or stopping it."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterable
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from onepass._arguments import check_module, listed, told
from onepass.monitor._header import header_of
from onepass.monitor._layers import LayerProbe
from onepass.monitor._optimizer import OptimizerWatch, rates_of
from onepass.monitor._outlet import Outlet
from onepass.monitor._packed import Packed, Value, kept, kept_all
from onepass.monitor._pending import Batch, Pending, Totals, bins_of, calibration, sums_of_bins
from onepass.monitor._zero_grad import ZeroGradWatch
from onepass.monitor.history import History
from onepass.nn.cross_entropy import LossStatistics
from onepass.nn.functional import cross_entropy
from onepass.optim._step.statistics import GroupStatistics
from onepass.optim.lr_scheduler._wrapped import stepping

__all__ = ["Monitor"]

# Steps whose numbers are read together, and the seconds after which they are read in any case.
_BATCH = 50
_SECONDS = 1.0
# In the first steps a forgotten zero_grad is looked for, too, not only in those whose layers are looked at.
_FIRST = range(2, 5)
# Columns that the monitor fills itself.
_OWN = frozenset({"kind", "step", "epoch", "lr", *GroupStatistics._fields, "update_ratio", "skipped", "scale"})


class Monitor:
    """Records a training: losses, rates, norms, skipped steps, layers, epochs.

    It is a context manager. Inside it call `log` once a step and `log_epoch` once an epoch; `history` has the
    columns, and the file, if one is asked for, the same rows as JSON Lines. Nothing that the monitor does stops or
    changes the training: it draws no random number and writes no parameter, and an error inside it is a warning
    that names the part, which is then left out.

    A plain step costs some microseconds: numbers stay tensors and are read 50 steps at a time, or after a second.
    Our optimizers measure norms in the step's own pass, as with `telemetry`. For others the gradients' norm is one
    call of torch's foreach function a step; their updates are measured in the steps in which layers are looked at.

    Args:
        model: The model.
        optimizer: An optimizer of any class, also one that wraps another. If its steps cannot be seen, only what
            `log` is given is recorded, and the history says so.
        scheduler: The learning rate's scheduler, or None. The record names it.
        scaler: A torch.amp.GradScaler, or None. Its scale is recorded, and the steps that it drops are counted.
        file: Where to write the run, a new file; None for no file. A killed run keeps what was written.
        every: Record each step with a number that this divides, and the first one; at least 1.
        layers_every: Look at the layers in the first step, and in each one with a number that this divides; None
            for never.
        callbacks: Objects with some of the methods of `onepass.monitor.callbacks.Callback`.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: every or layers_every is below 1.
        RuntimeError: `log` or `log_epoch` is called outside the block, or the block is entered a second time.
        FileExistsError: On entry: the file holds something already.

    Example:
        >>> import torch
        >>> from onepass.monitor import Monitor
        >>> from onepass.optim import SGD
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = SGD(model.parameters(), lr=0.1)
        >>> with Monitor(model, optimizer) as monitor:
        ...     for _ in range(3):
        ...         loss = model(torch.ones(4, 2)).square().mean()
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        ...         monitor.log(loss=loss)
        ...     monitor.log_epoch(val_loss=0.5)
        >>> monitor.history.steps["step"]
        array([1, 2, 3])
        >>> bool((monitor.history.steps["update_norm"] > 0).all())
        True
        >>> monitor.history.epochs["val_loss"]
        array([0.5])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        scheduler: Any = None,
        scaler: Any = None,
        *,
        file: str | os.PathLike[str] | None = None,
        every: int = 1,
        layers_every: int | None = 50,
        callbacks: Iterable[Any] = (),
    ) -> None:
        check_module("Monitor", "model", model)
        if not isinstance(getattr(optimizer, "param_groups", None), list):
            raise TypeError(f"Monitor: optimizer must be an optimizer with param_groups, got {told(optimizer)}")
        if scaler is not None and not callable(getattr(scaler, "get_scale", None)):
            raise TypeError(f"Monitor: scaler must be a torch.amp.GradScaler or None, got {told(scaler)}")
        if scheduler is not None and not callable(getattr(scheduler, "step", None)):
            raise TypeError(f"Monitor: scheduler must be a scheduler or None, got {told(scheduler)}")
        if file is not None and not isinstance(file, (str, os.PathLike)):
            raise TypeError(f"Monitor: file must be a path or None, got {told(file)}")
        self._every = _positive("every", every)
        self._layers_every = None if layers_every is None else _positive("layers_every", layers_every)
        self._model, self._optimizer, self._scheduler, self._scaler = model, optimizer, scheduler, scaler
        self._path = None if file is None else Path(file)
        self._out = Outlet(listed("Monitor", "callbacks", callbacks, "callbacks"))
        self._step = self._epoch = 0
        self._pending: list[Pending] = []
        self._flying: Batch | None = None
        self._is_running = self._was_entered = False
        self._was_looking = True  # so that the first step is announced

    @property
    def history(self) -> History:
        """What was recorded up to now. Reading it waits for the numbers of the last steps."""
        self._out.guarded("history", self._drain)
        return self._out.history

    def diagnose(self) -> list[Any]:
        """Names what goes wrong in this training, the weightiest finding first."""
        # Not at the head of the file: the rules read a History.
        found: list[Any] = importlib.import_module("onepass.monitor.diagnosis").diagnose(self.history)
        return found

    def __enter__(self) -> Monitor:
        if self._was_entered:
            raise RuntimeError("Monitor: a monitor must be entered once, got a second time; make another one")
        if self._path is not None:
            self._out.open(self._path)
        self._was_entered = self._is_running = True
        self._began = self._flushed = time.monotonic()
        inner = stepping(self._optimizer)
        self._probe = LayerProbe(self._model, inner)
        self._zero_grad = ZeroGradWatch(inner)
        self._watch = None if inner is None else OptimizerWatch(inner, self._probe, self._out.failed)
        by_scale = self._scaler is not None and not (self._watch and self._watch.is_scaled_inside)
        self._totals = Totals(by_scale, self._watch.skipped_before if self._watch else 0)
        options = (self._model, self._optimizer, self._scheduler, self._scaler, self._every, self._layers_every)
        self._out.guarded("the header", lambda: self._out.emit([header_of(*options)]))
        if self._watch is None:
            text = f"the steps of {type(self._optimizer).__name__} cannot be seen: it calls no step hooks"
            self._out.event("no_step_hooks", text)
        else:
            self._out.guarded("the optimizer's step", self._watch.start)
        self._expect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_running:
            return
        self._is_running = False
        if self._watch is not None:
            self._out.guarded("the optimizer's step", self._watch.stop)
        self._probe.disarm()
        self._zero_grad.disarm()
        self._out.guarded("the last steps", self._drain)
        end: dict[str, Any] = {
            "kind": "end",
            "steps": self._step,
            "seconds": round(time.monotonic() - self._began, 3),
        }
        if kind is not None:
            end["error"] = kind.__name__
        self._out.guarded("the end", lambda: self._out.emit([end]))
        self._out.close()

    def log(
        self,
        loss: float | Tensor | None = None,
        *,
        logits: Tensor | None = None,
        target: Tensor | None = None,
        stats: LossStatistics | None = None,
        **more: float | Tensor,
    ) -> None:
        """Records a step, after the optimizer's.

        Accuracy, entropy and confidence come from `stats`, which costs nothing more, or from `logits` and
        `target`, which costs a pass over the logits.

        Args:
            loss: The loss, a number or a tensor of one element; nothing waits for it. None where it is not known.
            logits: What the model returned, of shape (N, C) or (N, C, ...), with `target`.
            target: The labels, or probabilities.
            stats: The `LossStatistics` of our cross-entropy with ``return_stats=True``.
            **more: Further numbers or tensors of one element, each a column.

        Raises:
            RuntimeError: The call is outside the block.
        """
        if not self._is_running:
            raise RuntimeError(
                "Monitor.log: must be called inside the block, got a call outside of `with monitor:`"
            )
        self._step += 1
        self._out.step = self._step
        try:
            sample = self._probe.take() if self._samples else None
            forgotten = self._zero_grad.take() if self._looks else None
            measured = None if self._watch is None else self._watch.take()
            if self._records:
                if logits is not None or target is not None:
                    stats = self._stats_of(logits, target, stats)
                if stats is not None and not isinstance(stats, LossStatistics):
                    self._out.refused("log", "stats", "LossStatistics", stats)
                    stats = None
                values = {"lr": self._rates()} if measured is None else measured
                if forgotten is not None:
                    values["forgotten"] = forgotten
                self._add(values, loss, stats)
                _keep(values)
                others = self._numbers("log", more) if more else {}
                self._pending.append(Pending(self._step, self._epoch, values, others, stats, sample))
                if len(self._pending) >= _BATCH or time.monotonic() - self._flushed > _SECONDS:
                    self._flush()
        except Exception as error:  # whatever goes wrong here, the training goes on
            self._out.failed("log", error)
        self._expect()

    def log_epoch(
        self,
        *,
        train_loss: float | Tensor | None = None,
        val_loss: float | Tensor | None = None,
        train_stats: LossStatistics | Iterable[LossStatistics] | None = None,
        val_stats: LossStatistics | Iterable[LossStatistics] | None = None,
        **more: float | Tensor,
    ) -> None:
        """Records an epoch, and begins the next one. Waits for the numbers.

        Args:
            train_loss: The loss on what was trained on. The default is the mean of the losses that `log` got.
            val_loss: The loss on what was held out.
            train_stats: `LossStatistics` of what was trained on, of one batch or of several. The default is those
                that `log` got.
            val_stats: `LossStatistics` of what was held out, of one batch or of several.
            **more: Further numbers or tensors of one element, each a column.

        Raises:
            RuntimeError: The call is outside the block.
        """
        if not self._is_running:
            raise RuntimeError("Monitor.log_epoch: must be called inside the block, got a call outside of `with`")
        losses = {"train_loss": train_loss, "val_loss": val_loss}
        stats = {"": train_stats, "val_": val_stats}
        self._out.guarded("log_epoch", lambda: self._end_epoch(losses, stats, more))
        self._epoch += 1
        self._totals.begin_epoch()

    def _end_epoch(self, losses: dict[str, Any], stats: dict[str, Any], more: dict[str, Any]) -> None:
        self._drain()
        row: dict[str, Any] = {"kind": "epoch", "epoch": self._epoch, "step": self._step, **self._totals.epoch()}
        given = {name: value for name, value in losses.items() if value is not None}
        for name, value in self._numbers("log_epoch", {**given, **more}).items():
            row[name] = value if isinstance(value, (int, float)) else float(value[0])
        for prefix, found in stats.items():
            if found is not None:
                accuracy, error, confidence = calibration(_pooled(found))
                row[f"{prefix or 'train_'}confidence"] = confidence
                row[f"{prefix or 'train_'}accuracy"], row[f"{prefix}calibration_error"] = accuracy, error
        self._out.emit([row])

    def _expect(self) -> None:
        """Says what the next step is to measure."""
        number = self._step + 1
        self._records = self._every == 1 or number == 1 or number % self._every == 0
        every = self._layers_every
        self._samples = self._records and every is not None and (number == 1 or number % every == 0)
        self._looks = self._records and (self._samples or number in _FIRST)
        if not self._looks and self._every == 1 and not self._was_looking:
            return
        self._was_looking = self._looks
        try:
            if self._watch is not None:
                self._watch.expect(self._records, self._samples)
            if self._samples:
                self._probe.arm()
            if self._looks:
                self._zero_grad.arm()
        except Exception as error:  # as in log
            self._out.failed("looking at layers", error)

    def _rates(self) -> Value:
        return rates_of(self._optimizer)

    def _add(self, values: dict[str, Value], loss: Any, stats: LossStatistics | None) -> None:
        """Adds to a step's values."""
        if isinstance(loss, Tensor) and _is_number(loss):
            values["loss"] = loss
        elif loss is not None:
            found = _number(loss)
            if found is None:
                self._out.refused("log", "loss", "a number or a tensor of one element", loss)
            else:
                values["loss"] = [found] if isinstance(found, (int, float)) else found
        scale = None if self._scaler is None else getattr(self._scaler, "_scale", None)
        if scale is not None:
            values["scale"] = scale if isinstance(scale, Tensor) else [float(scale)]
        if stats is not None:
            values["accuracy"], values["entropy"] = stats.accuracy, stats.entropy

    def _stats_of(self, logits: Any, target: Any, stats: Any) -> Any:
        """The statistics of logits and target."""
        if stats is not None or logits is None or target is None:
            got = ", ".join(
                n for n, v in (("logits", logits), ("target", target), ("stats", stats)) if v is not None
            )
            self._out.warn("log", f"Monitor.log: stats, or both logits and target, must be given, got {got}")
            return stats
        try:
            with torch.no_grad():
                return cross_entropy(logits.detach(), target, return_stats=True)[1]
        except Exception as error:  # logits of another kind of task
            self._out.failed("log's logits", error)
            return None

    def _numbers(self, function: str, values: dict[str, Any]) -> dict[str, float | Value]:
        """Those of the values that can be recorded; each other one is a warning, once."""
        found: dict[str, float | Value] = {}
        for name, value in values.items():
            number = _number(value)
            if name in _OWN:
                self._out.refused(function, name, "another name: the monitor fills this column", value)
            elif number is None:
                self._out.refused(function, name, "a number or a tensor of one element", value)
            else:
                found[name] = number
        return found

    def _flush(self) -> None:
        """Lets the numbers of the pending steps be read; on a GPU those of the steps before are read now."""
        self._flushed = time.monotonic()
        pending, self._pending = self._pending, []
        ready, self._flying = self._flying, Batch(pending) if pending else None
        if ready is not None:
            self._out.emit(list(ready.rows(self._totals)))
        if self._flying is not None and not self._flying.is_waiting:
            ready, self._flying = self._flying, None
            self._out.emit(list(ready.rows(self._totals)))

    def _drain(self) -> None:
        """Reads the numbers of all steps."""
        self._flush()
        self._flush()


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"Monitor: {name} must be an int, got {told(value)}")
    if value < 1:
        raise ValueError(f"Monitor: {name} must be at least 1, got {told(value)}")
    return int(value)


def _number(value: Any) -> float | Value | None:
    """The number, or what is kept of the tensor; None if it is neither."""
    if isinstance(value, Tensor):
        return kept(value) if _is_number(value) else None
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else None


def _keep(values: dict[str, Value]) -> None:
    """Puts numbers, or what is kept of them, in the place of tensors that the next step may change."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    if tensors:
        values.update(zip(tensors, kept_all(list(tensors.values())), strict=True))


def _is_number(value: Tensor) -> bool:
    return value.numel() == 1 and not value.is_complex()


def _pooled(stats: LossStatistics | Iterable[LossStatistics]) -> Any:
    """The sums of the bins of all of them."""
    found = [stats] if isinstance(stats, LossStatistics) else list(stats)
    return sums_of_bins(Packed([tensor for one in found for tensor in bins_of(one)]).together()).sum(0)
