"""TransformersMonitor: a callback of transformers' Trainer that makes a monitor and feeds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from onepass.monitor.callbacks._options import check_options
from onepass.monitor.history import History
from onepass.monitor.monitor import Monitor

if TYPE_CHECKING:
    # mypy checks this file without transformers.
    _Base: Any = object
else:
    from transformers import TrainerCallback as _Base

__all__ = ["TransformersMonitor"]


class TransformersMonitor(_Base):  # type: ignore[misc]
    """Records a training of transformers' Trainer with a `onepass.monitor.Monitor`.

    It logs a step for each update and an epoch for each of the Trainer's, with the metrics of the evaluation that
    ends it: ``eval_loss`` is ``val_loss``. The Trainer hands no loss of a step to callbacks, so it is taken from
    the output of the model; a model that returns no loss is recorded without it.

    Args:
        **options: `file`, `every`, `layers_every` and `callbacks` of `onepass.monitor.Monitor`. In a distributed
            training only the first process writes the file and calls the callbacks.

    Raises:
        TypeError: An option is none of the Monitor's.
    """

    def __init__(self, **options: Any) -> None:
        check_options("TransformersMonitor", options)
        self._options = options
        self._monitor: Monitor | None = None
        self._hook: Any = None
        self._losses: list[Tensor] = []
        self._are_shares = False
        self._is_epoch_open = False
        self._metrics: dict[str, Any] = {}

    @property
    def monitor(self) -> Monitor:
        """The monitor of the last training.

        Raises:
            RuntimeError: No training has begun.
        """
        if self._monitor is None:
            raise RuntimeError("TransformersMonitor.monitor: needs a training that has begun, got none")
        return self._monitor

    @property
    def history(self) -> History:
        """What was recorded."""
        return self.monitor.history

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Makes the monitor."""
        self._end()
        first = getattr(state, "is_world_process_zero", True)
        options = self._options if first else {**self._options, "file": None, "callbacks": ()}
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        scaler = getattr(optimizer, "scaler", None)  # of accelerate's wrapper
        self._losses, self._metrics, self._is_epoch_open = [], {}, False
        self._monitor = Monitor(model, optimizer, kwargs.get("lr_scheduler"), scaler, **options)
        self._monitor.__enter__()
        self._hook = model.register_forward_hook(self._keep_loss, with_kwargs=True)

    def _keep_loss(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if module.training and torch.is_grad_enabled():
            loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
            if isinstance(loss, Tensor) and loss.numel() == 1:
                self._losses.append(loss.detach())
                # The model has then divided by the number of items of all batches of the update.
                self._are_shares = kwargs.get("num_items_in_batch") is not None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Logs a step."""
        losses, self._losses = self._losses, []
        if self._monitor is not None:
            loss = torch.stack(losses).sum() if losses else None
            self._monitor.log(loss if loss is None or self._are_shares else loss / len(losses))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Logs the epoch before this one, if no evaluation has."""
        self._log_epoch()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Waits for the evaluation of the epoch, which comes afterwards."""
        self._is_epoch_open = True

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Keeps the metrics; logs the epoch that has ended."""
        self._metrics = {
            f"val_{name.removeprefix('eval_')}": value
            for name, value in (metrics or {}).items()
            if name.startswith("eval_") and isinstance(value, (int, float))
        }
        self._log_epoch()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends the record."""
        self._log_epoch()
        self._end()

    def _log_epoch(self) -> None:
        if self._is_epoch_open and self._monitor is not None:
            self._monitor.log_epoch(**self._metrics)
            self._metrics, self._is_epoch_open = {}, False

    def _end(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if self._monitor is not None:
            self._monitor.__exit__(None, None, None)
