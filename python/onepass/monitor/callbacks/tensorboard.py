"""TensorBoardCallback: the curves of a monitor in TensorBoard."""

from __future__ import annotations

import json
import os
from typing import Any

from onepass._arguments import told
from onepass.monitor.callbacks.base import Callback, scalars_of

__all__ = ["TensorBoardCallback"]


class TensorBoardCallback(Callback):
    """Writes what a monitor records as scalars of TensorBoard.

    Args:
        writer: A torch.utils.tensorboard.SummaryWriter, which stays open, or a folder, for which one is made and
            closed at the end of the run.
        prefix: What the names of the scalars begin with.

    Raises:
        TypeError: writer is neither.
        ImportError: The writer is to be made, and tensorboard is not installed.

    Example:
        >>> from onepass.monitor.callbacks import TensorBoardCallback
        >>> class Writer:  # stands for torch.utils.tensorboard.SummaryWriter
        ...     def add_scalar(self, name, value, step):
        ...         print(step, name, value)
        >>> TensorBoardCallback(Writer()).on_step({"kind": "step", "step": 3, "loss": 0.5})
        3 monitor/loss 0.5
    """

    def __init__(self, writer: Any, prefix: str = "monitor/") -> None:
        self._closes = isinstance(writer, (str, os.PathLike))
        if self._closes:
            from torch.utils.tensorboard import SummaryWriter

            made: Any = SummaryWriter
            writer = made(os.fspath(writer))
        elif not callable(getattr(writer, "add_scalar", None)):
            raise TypeError(f"TensorBoardCallback: writer must be a SummaryWriter or a folder, got {told(writer)}")
        self._writer = writer
        self._prefix = prefix

    def on_run(self, row: dict[str, Any]) -> None:
        """Writes the row as a text.

        Args:
            row: The row of kind "run".
        """
        self._writer.add_text(f"{self._prefix}run", f"```json\n{json.dumps(row, indent=1)}\n```", 0)

    def on_step(self, row: dict[str, Any]) -> None:
        """Writes the numbers at their step.

        Args:
            row: The row of kind "step".
        """
        for name, value in scalars_of(row).items():
            self._writer.add_scalar(f"{self._prefix}{name}", value, row["step"])

    def on_layers(self, row: dict[str, Any]) -> None:
        """Writes the numbers at their step.

        Args:
            row: The row of kind "layers".
        """
        self.on_step(row)

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Writes the numbers at the last step of the epoch.

        Args:
            row: The row of kind "epoch".
        """
        self.on_step(row)

    def on_event(self, row: dict[str, Any]) -> None:
        """Writes the event as a text.

        Args:
            row: The row of kind "event".
        """
        self._writer.add_text(f"{self._prefix}events/{row['name']}", row["text"], row["step"])

    def on_end(self, row: dict[str, Any]) -> None:
        """Writes what is left; closes the writer if it was made here.

        Args:
            row: The row of kind "end".
        """
        self._writer.flush()
        if self._closes:
            self._writer.close()
