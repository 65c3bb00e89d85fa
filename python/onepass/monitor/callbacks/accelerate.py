"""AccelerateCallback: the curves of a monitor in the trackers of accelerate."""

from __future__ import annotations

from typing import Any

from onepass._arguments import told
from onepass.monitor.callbacks.base import Callback, scalars_of

__all__ = ["AccelerateCallback"]


class AccelerateCallback(Callback):
    """Logs what a monitor records to the trackers of an accelerate.Accelerator.

    The monitor takes the model, the optimizer and the scheduler that ``accelerator.prepare`` returned, and
    ``accelerator.scaler``.

    Args:
        accelerator: The Accelerator, whose ``init_trackers`` has been called.
        prefix: What the names of the values begin with.

    Raises:
        TypeError: accelerator is none.

    Example:
        >>> from onepass.monitor.callbacks import AccelerateCallback
        >>> class Accelerator:  # stands for accelerate's
        ...     def log(self, values, step):
        ...         print(step, values)
        >>> AccelerateCallback(Accelerator()).on_step({"kind": "step", "step": 3, "loss": 0.5})
        3 {'monitor/loss': 0.5}
    """

    def __init__(self, accelerator: Any, prefix: str = "monitor/") -> None:
        if not callable(getattr(accelerator, "log", None)):
            raise TypeError(f"AccelerateCallback: accelerator must be an Accelerator, got {told(accelerator)}")
        self._accelerator = accelerator
        self._prefix = prefix

    def on_step(self, row: dict[str, Any]) -> None:
        """Logs the numbers at their step.

        Args:
            row: The row of kind "step".
        """
        values = {f"{self._prefix}{name}": value for name, value in scalars_of(row).items()}
        self._accelerator.log(values, step=row["step"])

    def on_layers(self, row: dict[str, Any]) -> None:
        """Logs the numbers at their step.

        Args:
            row: The row of kind "layers".
        """
        self.on_step(row)

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Logs the numbers at the last step of the epoch.

        Args:
            row: The row of kind "epoch".
        """
        self.on_step(row)
