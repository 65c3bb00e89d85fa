"""The curves of a run, by tab and chart, as the page's script draws them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass.monitor import History

__all__ = ["POINTS", "charts_of", "thinned"]

POINTS = 4000
"""A curve has at most this many points."""

Floats = NDArray[np.float64]

_NORMS = (
    ("grad_norm", "gradient norm"),
    ("param_norm", "parameter norm"),
    ("update_norm", "update norm"),
    ("update_ratio", "update over parameter norm"),
    ("lost_updates", "updates lost in rounding"),
    ("nonfinite", "elements that are not finite"),
)
# A curve of no more values than this has a dot for each.
_FEW = 20
_KNOWN = {"step", "epoch", "loss", "lr", "skipped", "scale", "accuracy", "entropy", "confidence", "batch"}
_KNOWN |= {name for name, _ in _NORMS}
_EPOCH_KNOWN = {"epoch", "step"}
# A curve of these is one of rare events: thinned or smoothed it would lose them.
_LOG = {"grad_norm", "param_norm", "update_norm", "update_ratio", "scale"}


def thinned(steps: NDArray[Any], values: Floats) -> tuple[list[int], list[float | None]]:
    """Leaves at most `POINTS` points: the smallest and the largest of each interval, in their order.

    Args:
        steps: The places.
        values: The values; where one is not finite the curve has a gap.

    Returns:
        The places and values that stay.
    """
    count = len(values)
    if count > POINTS:
        edges = np.linspace(0, count, POINTS // 2 + 1).astype(int)
        kept: set[int] = set()
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            part = values[low:high]
            finite = np.flatnonzero(np.isfinite(part))
            chosen = [finite[part[finite].argmin()], finite[part[finite].argmax()]] if len(finite) else [0]
            kept.update(low + int(one) for one in chosen)
        index = np.array(sorted(kept))
        steps, values = steps[index], values[index]
    shown = [value if np.isfinite(value) else None for value in values.tolist()]
    return [int(step) for step in steps.tolist()], shown


def charts_of(history: History) -> dict[str, Any]:
    """Returns everything that the page's script reads.

    Args:
        history: The run.
    """
    steps, epochs = history.steps, history.epochs
    groups = next((v.shape[1] for v in steps.values() if v.ndim == 2), 1)
    layers = _layers(history)
    curves = [_chart("loss", "loss", [_curve("training step", steps, "loss"), *_epoch_curves(epochs, "loss")])]
    curves.append(
        _chart(
            "accuracy",
            "accuracy",
            [_curve("training step", steps, "accuracy"), *_epoch_curves(epochs, "accuracy")],
        )
    )
    curves += [_chart(f"more-{i}", name, [_curve(name, steps, name)]) for i, name in enumerate(_more(steps))]
    curves += [
        _chart(f"epoch-{i}", name, [_curve(name, epochs, name, dots=True)])
        for i, name in enumerate(_epoch_more(epochs))
    ]
    schedule = [_chart("lr", "learning rate", _grouped(steps, "lr"))]
    schedule.append(_chart("scale", "loss scale", [_curve("scale", steps, "scale")], log=True))
    schedule.append(_chart("skipped", "steps skipped, in all", [_curve("skipped", steps, "skipped")]))
    norms = [_chart(name, title, _grouped(steps, name), log=name in _LOG) for name, title in _NORMS]
    calibration = [
        _chart(
            "trust",
            "confidence and accuracy",
            [_curve("confidence", steps, "confidence"), _curve("accuracy", steps, "accuracy")],
        ),
        _chart("entropy", "entropy of the predictions (nats)", [_curve("entropy", steps, "entropy")]),
        _chart("calibration", "expected calibration error", _epoch_curves(epochs, "calibration_error")),
    ]
    tabs = {
        name: [one for one in charts if one["curves"]]
        for name, charts in (
            ("curves", curves),
            ("schedule", schedule),
            ("norms", norms),
            ("calibration", calibration),
        )
    }
    bad = steps["step"][~np.isfinite(steps["loss"])] if "loss" in steps else np.array([])
    return {
        "tabs": tabs,
        "groups": groups,
        "layers": layers,
        "quantities": list(layers),
        "not_finite": [int(one) for one in bad[:POINTS].tolist()],
    }


def _chart(name: str, title: str, curves: list[dict[str, Any] | None], *, log: bool = False) -> dict[str, Any]:
    return {"id": f"chart-{name}", "title": title, "curves": [one for one in curves if one], "log": log}


def _curve(
    name: str, columns: dict[str, NDArray[Any]], column: str, group: int | None = None, *, dots: bool = False
) -> dict[str, Any] | None:
    """A column as a curve; None if there is no such column, or no value in it."""
    values = columns.get(column)
    if values is None or values.dtype == object:
        return None
    values = values if group is None or values.ndim == 1 else values[:, group]
    if values.ndim != 1 or not np.isfinite(values.astype(float)).any():
        return None
    x, y = thinned(columns["step"], values.astype(float))
    # Single values between gaps would not be seen as a line.
    dots = dots or sum(value is not None for value in y) <= _FEW
    return {"name": name, "x": x, "y": y, "dots": dots, "group": group}


def _epoch_curves(epochs: dict[str, NDArray[Any]], what: str) -> list[dict[str, Any] | None]:
    """The curves of training and validation, a point for each epoch."""
    named = {"loss": ("train_loss", "val_loss"), "accuracy": ("train_accuracy", "val_accuracy")}
    columns = named.get(what, (what, f"val_{what}"))
    return [
        _curve(f"{kind}, by epoch", epochs, column, dots=True)
        for kind, column in zip(("training", "validation"), columns, strict=True)
    ]


def _grouped(steps: dict[str, NDArray[Any]], column: str) -> list[dict[str, Any] | None]:
    values = steps.get(column)
    if values is None or values.ndim == 1:
        return [_curve("all groups", steps, column)]
    if values.shape[1] == 1:
        return [_curve("all parameters", steps, column, 0)]
    return [_curve(f"group {group}", steps, column, group) for group in range(values.shape[1])]


def _more(steps: dict[str, NDArray[Any]]) -> list[str]:
    """Columns that the user logged."""
    return [
        name
        for name, values in steps.items()
        if name not in _KNOWN and values.ndim == 1 and values.dtype != object
    ]


def _epoch_more(epochs: dict[str, NDArray[Any]]) -> list[str]:
    ends = ("loss", "accuracy", "calibration_error")
    known = {f"{kind}{what}" for kind in ("", "train_", "val_") for what in ends} | _EPOCH_KNOWN
    return [
        name
        for name, values in epochs.items()
        if name not in known and values.ndim == 1 and values.dtype != object
    ]


def _layers(history: History) -> dict[str, list[dict[str, Any]]]:
    """Curves of each quantity of the layers: one for each layer that has it."""
    columns = history.layers
    found: dict[str, list[dict[str, Any]]] = {}
    if "layer" not in columns:
        return found
    names = list(dict.fromkeys(columns["layer"].tolist()))
    for quantity, values in columns.items():
        if quantity in ("step", "layer", "type") or values.ndim != 1 or values.dtype == object:
            continue
        for name in names:
            mask = (columns["layer"] == name) & np.isfinite(values)
            if mask.any():
                x, y = thinned(columns["step"][mask], values[mask])
                found.setdefault(quantity, []).append(
                    {"name": str(name), "x": x, "y": y, "dots": True, "group": None}
                )
    return found
