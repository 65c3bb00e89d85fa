"""Histories made by hand: a healthy run, and one with the marks of each fault."""

from __future__ import annotations

import math
from typing import Any

from onepass.monitor import History, diagnose

Rows = list[dict[str, Any]]
LAYERS = [("0", "Linear"), ("1", "BatchNorm1d"), ("2", "ReLU"), ("3", "Linear"), ("4", "Linear")]


def rows_of(steps: int = 200, epochs: int = 5, **group: Any) -> Rows:
    """A healthy run: the loss falls from 2.3 to about 0.03, and validation follows."""
    group = {"parameters": 1000, "lr": 0.01, "weight_decay": 0.0, "momentum": 0.9, **group}
    layers = [{"name": name, "type": kind} for name, kind in LAYERS]
    layers[1]["momentum"] = 0.1
    rows: Rows = [
        {
            "kind": "run",
            "format": 1,
            "model": {"class": "Sequential", "parameters": 1000, "layers": layers},
            "optimizer": {"class": "SGD", "groups": [group]},
            "scaler": False,
        }
    ]
    loss = 2.3
    for step in range(1, steps + 1):
        loss = 0.02 + 2.28 * math.exp(-5 * (step - 1) / steps)
        row = {"kind": "step", "step": step, "epoch": (step - 1) * epochs // steps, "loss": loss, "batch": 64}
        row |= {"lr": [0.01], "grad_norm": [1.0], "param_norm": [10.0], "update_norm": [0.03], "nonfinite": [0]}
        rows.append({**row, "lost_updates": [2], "accuracy": 1 - loss / 2.5})
        if step == 1 or step % 20 == 0:
            norms = {"type": "BatchNorm1d", "grad_norm": 0.1, "dead_channels": 0.0, "running_distance": 0.15}
            seen = {name: {"type": kind, "grad_norm": 0.5, "update_ratio": 0.003} for name, kind in LAYERS}
            seen["2"] = {"type": "ReLU", "dead_units": 0.02}
            rows.append({"kind": "layers", "step": step, "layers": {**seen, "1": norms}})
        if step % (steps // epochs) == 0:
            row = {
                "kind": "epoch",
                "epoch": row["epoch"],
                "step": step,
                "train_loss": loss,
                "val_loss": loss + 0.03,
            }
            row |= {"train_accuracy": 1 - loss / 2.5, "val_accuracy": 1 - loss / 2.5 - 0.01}
            rows.append({**row, "val_calibration_error": 0.01, "val_confidence": 0.96 - loss / 2.5})
    return [*rows, {"kind": "end", "steps": steps, "seconds": 1.0}]


def each(rows: Rows, kind: str) -> Rows:
    return [row for row in rows if row["kind"] == kind]


def found(rows: Rows) -> dict[str, str]:
    return {finding.name: finding.confidence for finding in diagnose(History(rows))}


def first(rows: Rows) -> str:
    return diagnose(History(rows))[0].name


def stuck(rows: Rows, at: float = 2.28) -> None:
    for row in each(rows, "step"):
        row["loss"], row["accuracy"] = (at if row["step"] > 1 else 2.3), 0.1
    for row in each(rows, "epoch"):
        row |= {
            "train_loss": at,
            "val_loss": at,
            "train_accuracy": 0.1,
            "val_accuracy": 0.1,
            "val_confidence": 0.1,
        }


def plant(name: str, steps: int = 200) -> Rows:
    """A run with the marks of one fault."""
    rows = rows_of(steps)
    taken, layers, epochs = (each(rows, kind) for kind in ("step", "layers", "epoch"))
    group = rows[0]["optimizer"]["groups"][0]
    if name == "divergence":
        for row in taken[50:]:
            row["loss"] = "nan"
    elif name == "learning_rate_too_high":
        for row in taken:
            row["loss"], row["update_norm"] = 2.0 + 0.8 * math.sin(row["step"] / 15), [0.5]
            row["accuracy"] = 0.3
        for row in epochs:
            row["train_accuracy"] = 0.3
    elif name == "learning_rate_too_low":
        for row in taken:
            row["loss"], row["update_norm"], row["accuracy"] = 2.3 - 0.001 * row["step"], [0.0005], 0.2
        for row in epochs:
            row["train_accuracy"] = 0.2
    elif name == "no_warmup":
        group |= {"betas": [0.9, 0.999]}
        for row in taken[1:8]:
            row["loss"], row["update_norm"] = 9.0, [4.0]
    elif name == "vanishing_gradients":
        stuck(rows)
        for row in layers:
            row["layers"]["0"]["grad_norm"] = 1e-7
    elif name == "exploding_gradients":
        for row in taken[:20]:
            row["grad_norm"], row["loss"] = [1e5], 300.0
    elif name == "dead_units":
        stuck(rows)
        for row in layers:
            row["layers"]["2"]["dead_units"] = 0.95
    elif name in ("stale_running_statistics", "small_batch_statistics"):
        for row in layers:
            row["layers"]["1"]["running_distance"] = 2.0
        for row in epochs if name.startswith("stale") else ():
            row["val_loss"] = 1.5
        for row in taken if name.startswith("small") else ():
            row["batch"] = 2
    elif name == "overconfidence":
        for row in epochs:
            row |= {"val_calibration_error": 0.08, "val_confidence": row["val_accuracy"] + 0.08}
    elif name == "generalization_gap":
        for place, row in enumerate(epochs):
            row |= {"val_loss": 0.4 + 0.1 * place, "val_accuracy": 0.85}
    elif name == "label_noise":
        for row, val, train in zip(epochs, (0.6, 0.7, 0.68, 0.6, 0.5), (0.5, 0.65, 0.8, 0.9, 0.99), strict=True):
            row |= {"val_accuracy": val, "train_accuracy": train, "val_loss": 3 - 2 * val}
    elif name == "lost_updates":
        for row in taken:
            row["lost_updates"] = [900]
    elif name == "scaler_thrashing":
        for row in taken:
            row["skipped"], row["scale"] = row["step"] // 4, 2.0 ** (16 + row["step"] % 4)
    elif name == "missing_zero_grad":
        rows.append({"kind": "event", "step": 2, "name": "missing_zero_grad", "text": ""})
        for row in taken:
            row["grad_norm"] = [float(row["step"])]
    elif name == "decay_on_norms":
        group |= {"weight_decay": 0.2, "decays_norms_or_biases": True}
    elif name == "plateau":
        stuck(rows, 1.5)
    return rows
