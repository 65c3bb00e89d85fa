"""LightningMonitor: a callback of Lightning that makes a monitor and feeds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from onepass.monitor.callbacks._options import check_options
from onepass.monitor.history import History
from onepass.monitor.monitor import Monitor

if TYPE_CHECKING:
    # mypy checks this file without Lightning.
    _Base: Any = object
else:
    try:
        from lightning.pytorch import Callback as _Base
    except ImportError:
        from pytorch_lightning import Callback as _Base

__all__ = ["LightningMonitor"]


class LightningMonitor(_Base):  # type: ignore[misc]
    """Records a training of Lightning's Trainer with a `onepass.monitor.Monitor`.

    It logs a step for each update, with the mean loss of the batches that were accumulated for it, and an epoch
    for each of the Trainer's, with the metrics that the module has logged. The loss is what training_step returns.

    Args:
        optimizer: Which of the module's optimizers.
        **options: `file`, `every`, `layers_every` and `callbacks` of `onepass.monitor.Monitor`. In a distributed
            training only the first process writes the file and calls the callbacks.

    Raises:
        TypeError: An option is none of the Monitor's.
    """

    def __init__(self, *, optimizer: int = 0, **options: Any) -> None:
        super().__init__()
        check_options("LightningMonitor", options)
        self._number = optimizer
        self._options = options
        self._monitor: Monitor | None = None
        self._losses: list[Tensor] = []
        self._updates = 0

    @property
    def monitor(self) -> Monitor:
        """The monitor of the last training.

        Raises:
            RuntimeError: No training has begun.
        """
        if self._monitor is None:
            raise RuntimeError("LightningMonitor.monitor: needs a training that has begun, got none")
        return self._monitor

    @property
    def history(self) -> History:
        """What was recorded."""
        return self.monitor.history

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Makes the monitor."""
        schedulers = [one.scheduler for one in trainer.lr_scheduler_configs]
        options = self._options if trainer.is_global_zero else {**self._options, "file": None, "callbacks": ()}
        optimizer = trainer.optimizers[self._number]
        scheduler = next((one for one in schedulers if getattr(one, "optimizer", None) is optimizer), None)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._losses, self._updates = [], trainer.global_step
        self._monitor = Monitor(pl_module, optimizer, scheduler, scaler, **options)
        self._monitor.__enter__()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs a step if there was an update."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self._losses.append(loss.detach())
        if trainer.global_step > self._updates and self._monitor is not None:
            self._updates = trainer.global_step
            # Lightning has divided each loss by the number of batches of an update.
            self._monitor.log(torch.stack(self._losses).sum() if self._losses else None)
            self._losses = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Logs an epoch with the module's metrics."""
        if self._monitor is not None:
            metrics = {name: v for name, v in trainer.callback_metrics.items() if name not in ("epoch", "step")}
            self._monitor.log_epoch(**metrics)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Ends the record."""
        self._end(None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Ends the record, and says that an error ended the training."""
        self._end(exception)

    def _end(self, error: BaseException | None) -> None:
        if self._monitor is not None:
            self._monitor.__exit__(None if error is None else type(error), error, None)
