"""What a monitor calls, and the numbers of a row by the names that other packages show."""

from __future__ import annotations

from typing import Any

from onepass.monitor._table import as_number

__all__ = ["Callback", "scalars_of"]

# What says where a row stands, and is no curve.
_PLACES = ("kind", "step", "epoch")


class Callback:
    """Receives the rows of a `onepass.monitor.Monitor`, as they are in the run file.

    A subclass defines the methods that it needs. Rows come in their order and many at a time: the numbers of a
    step are read some steps later. An error in a method is a warning that names the class, once, and the training
    goes on.

    Example:
        >>> from onepass.monitor.callbacks import Callback
        >>> class Losses(Callback):
        ...     def on_step(self, row):
        ...         print(row["step"], row["loss"])
        >>> Losses().on_step({"kind": "step", "step": 1, "loss": 0.5})
        1 0.5
    """

    def on_run(self, row: dict[str, Any]) -> None:
        """Receives the first row: versions, model, optimizer.

        Args:
            row: The row of kind "run".
        """

    def on_step(self, row: dict[str, Any]) -> None:
        """Receives a step.

        Args:
            row: The row of kind "step".
        """

    def on_layers(self, row: dict[str, Any]) -> None:
        """Receives what was seen of the layers in a step.

        Args:
            row: The row of kind "layers".
        """

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Receives an epoch.

        Args:
            row: The row of kind "epoch".
        """

    def on_event(self, row: dict[str, Any]) -> None:
        """Receives an event.

        Args:
            row: The row of kind "event": a step, a name and a text.
        """

    def on_end(self, row: dict[str, Any]) -> None:
        """Receives the last row.

        Args:
            row: The row of kind "end".
        """


def scalars_of(row: dict[str, Any]) -> dict[str, float]:
    """Returns the numbers of a row by names for curves.

    What is measured for each param group has the group's number behind it if there are several: ``lr/1``. Values
    of layers are ``layers/NAME/VALUE``, those of epochs ``epoch/VALUE``.

    Args:
        row: A row of kind "step", "layers" or "epoch".

    Returns:
        The numbers; those that are not finite, too.

    Example:
        >>> from onepass.monitor.callbacks import scalars_of
        >>> scalars_of({"kind": "step", "step": 7, "loss": 0.5, "lr": [0.1, 0.2], "grad_norm": ["inf"]})
        {'loss': 0.5, 'lr/0': 0.1, 'lr/1': 0.2, 'grad_norm': inf}
        >>> scalars_of({"kind": "layers", "step": 50, "layers": {"fc": {"type": "Linear", "grad_norm": 2.0}}})
        {'layers/fc/grad_norm': 2.0}
    """
    if row["kind"] == "layers":
        parts = {f"layers/{name}/": values for name, values in row["layers"].items()}
    else:
        parts = {"epoch/" if row["kind"] == "epoch" else "": row}
    found: dict[str, float] = {}
    for prefix, values in parts.items():
        for name, value in values.items():
            several = value if isinstance(value, list) else [value]
            for place, one in enumerate(several):
                number = None if name in _PLACES else as_number(one)
                if number is not None:
                    found[f"{prefix}{name}/{place}" if len(several) > 1 else f"{prefix}{name}"] = number
    return found
