"""What a report says in words: facts about the run, notices about its file, events."""

from __future__ import annotations

from typing import Any

import numpy as np

from onepass.monitor import History

__all__ = ["events_of", "facts_of", "notices_of"]

# Of many events of one name the first ones are listed.
_MOST = 200


def facts_of(history: History) -> list[tuple[str, str]]:
    """Returns names and values of what the first and the last line of the run say."""
    run = history.run
    model, optimizer = _dict(run.get("model")), _dict(run.get("optimizer"))
    groups = [one for one in optimizer.get("groups") or [] if isinstance(one, dict)]
    parameters = model.get("parameters")
    count = f"{parameters:,} parameters" if isinstance(parameters, int) else None
    found = [
        ("model", ", ".join(str(part) for part in (model.get("class"), count, model.get("dtype")) if part)),
        (
            "optimizer",
            ", ".join([str(optimizer.get("class") or ""), *(_options(one) for one in groups)]).strip(", "),
        ),
        ("scheduler", str(run.get("scheduler") or "none")),
        ("gradient scaler", "yes" if run.get("scaler") else "none"),
        ("device", str(run.get("device") or "")),
        ("started", str(run.get("started") or "")),
        ("versions", ", ".join(f"{name} {run[name]}" for name in ("onepass", "torch") if run.get(name))),
        ("length", f"{len(history):,} recorded steps, {len(history.epochs.get('epoch', ())):,} epochs"),
    ]
    seconds = _dict(history.end).get("seconds")
    if isinstance(seconds, (int, float)):
        found.append(("time", f"{seconds:,.1f} s"))
    return [(name, text) for name, text in found if text]


def notices_of(history: History) -> list[str]:
    """Returns what a reader must know about the file before believing its curves."""
    found = []
    if history.truncated is not None:
        found.append(
            f"The file breaks off in the middle of line {history.truncated}: it was read up to the line before."
        )
    if not len(history):
        found.append("The run has no step yet.")
    elif history.end is None:
        found.append("The run has no end: it was stopped, or it still goes on.")
    losses = history.steps.get("loss")
    if losses is not None and len(losses):
        bad = np.flatnonzero(~np.isfinite(losses))
        if len(bad):
            first = int(history.steps["step"][bad[0]])
            found.append(
                f"The loss is not finite in {len(bad):,} of {len(losses):,} steps, first in step {first}."
            )
    return found


def events_of(history: History) -> list[dict[str, str]]:
    """Returns step, name and text of each event, as texts."""
    return [
        {"step": str(one.get("step", "")), "name": str(one.get("name", "")), "text": str(one.get("text", ""))}
        for one in history.events[:_MOST]
    ]


def _options(group: dict[str, Any]) -> str:
    names = ("lr", "weight_decay", "momentum", "betas", "eps")
    return " ".join(f"{name} {group[name]}" for name in names if group.get(name) is not None)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
