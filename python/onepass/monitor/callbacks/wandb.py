"""WandbCallback: the curves of a monitor in Weights & Biases."""

from __future__ import annotations

import importlib
from typing import Any

from onepass._arguments import told
from onepass.monitor.callbacks.base import Callback, scalars_of

__all__ = ["WandbCallback"]


class WandbCallback(Callback):
    """Logs what a monitor records to a run of Weights & Biases.

    Names begin with ``monitor/``, and their axis is ``monitor/step``. So it does not matter how often the training
    logs to the same run. With ``WANDB_MODE=offline`` nothing leaves the machine.

    Args:
        run: A run, which stays open; None for the one that ``wandb.init`` has made, or a new one, which is
            finished at the end.
        **init: Arguments of ``wandb.init`` for the new run.

    Raises:
        TypeError: run is no run, or comes with arguments for a new one.
        ImportError: run is None, and wandb is not installed.

    Example:
        >>> from onepass.monitor.callbacks import WandbCallback
        >>> class Run:  # stands for wandb's
        ...     def __init__(self):
        ...         self.config, self.summary, self.logged = {}, {}, []
        ...     def define_metric(self, name, step_metric):
        ...         pass
        ...     def log(self, values):
        ...         self.logged.append(values)
        >>> run = Run()
        >>> WandbCallback(run).on_step({"kind": "step", "step": 3, "loss": 0.5})
        >>> run.logged
        [{'monitor/loss': 0.5, 'monitor/step': 3}]
    """

    def __init__(self, run: Any = None, **init: Any) -> None:
        self._finishes = False
        if run is None:
            wandb: Any = importlib.import_module("wandb")
            self._finishes = wandb.run is None
            run = wandb.init(**init) if self._finishes or init else wandb.run
        elif init:
            raise TypeError(f"WandbCallback: run must be None with arguments for a new run, got {told(run)}")
        elif not callable(getattr(run, "log", None)) or not callable(getattr(run, "define_metric", None)):
            raise TypeError(f"WandbCallback: run must be a wandb.Run or None, got {told(run)}")
        self._run = run
        run.define_metric("monitor/*", step_metric="monitor/step")

    def on_run(self, row: dict[str, Any]) -> None:
        """Adds the row to the run's configuration.

        Args:
            row: The row of kind "run".
        """
        self._run.config.update({"onepass": row})

    def on_step(self, row: dict[str, Any]) -> None:
        """Logs the numbers.

        Args:
            row: The row of kind "step".
        """
        values: dict[str, float] = {f"monitor/{name}": value for name, value in scalars_of(row).items()}
        self._run.log({**values, "monitor/step": row["step"]})

    def on_layers(self, row: dict[str, Any]) -> None:
        """Logs the numbers.

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

    def on_event(self, row: dict[str, Any]) -> None:
        """Writes the event into the run's summary.

        Args:
            row: The row of kind "event".
        """
        self._run.summary[f"monitor/events/{row['name']}"] = f"step {row['step']}: {row['text']}"

    def on_end(self, row: dict[str, Any]) -> None:
        """Finishes the run if it was made here.

        Args:
            row: The row of kind "end".
        """
        if self._finishes:
            self._run.finish(exit_code=1 if "error" in row else 0)
