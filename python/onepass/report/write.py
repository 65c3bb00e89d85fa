"""Puts a report together: facts, findings and curves of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from onepass._arguments import told
from onepass._page import check_installed, render
from onepass.monitor import History
from onepass.report._charts import charts_of
from onepass.report._facts import events_of, facts_of, notices_of
from onepass.report._findings import findings_of

__all__ = ["write_report"]

_NAME = "write_report"


def write_report(
    run: History | str | os.PathLike[str], path: str | os.PathLike[str], title: str = ""
) -> list[str]:
    """Writes the report of a run: one HTML file with curves, findings, schedule, norms and calibration.

    Curves of more than 4,000 points are thinned: in each interval the smallest and the largest value stay.

    Args:
        run: What a monitor recorded, or the file that it wrote. A file that breaks off is read up to its last
            whole line, and the report says so.
        path: The file that is written.
        title: The title; "" for the model's class and the file's name.

    Returns:
        What the report points out about the file: that it breaks off, has no end, or has losses that are not
        finite.

    Raises:
        TypeError: run is neither.
        OSError: A file cannot be read or written.
        ValueError: The file is empty or no run file.
        ModuleNotFoundError: plotly or jinja2 is not installed.

    Example:
        >>> import pathlib, tempfile
        >>> from onepass.monitor import History
        >>> from onepass.report import write_report
        >>> steps = [{"kind": "step", "step": i, "epoch": 0, "loss": 1 / i, "lr": [0.1]} for i in range(1, 9)]
        >>> history = History([{"kind": "run", "format": 1}, *steps, {"kind": "end", "steps": 8, "seconds": 1.0}])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "report.html"
        ...     notices = write_report(history, path)
        ...     "<h1>" in path.read_text(), notices
        (True, [])
    """
    check_installed(_NAME)
    if isinstance(run, (str, os.PathLike)):
        history, name = History.read(run), Path(run).name
    elif isinstance(run, History):
        history, name = run, ""
    else:
        raise TypeError(f"{_NAME}: run must be a History or the path of a run file, got {told(run)}")
    Path(path).write_text(page_of(history, title, name), encoding="utf-8")
    return notices_of(history)


def page_of(history: History, title: str, name: str) -> str:
    """Makes the page of a history.

    Args:
        history: The run.
        title: The title; "" for the model's class and the file's name.
        name: The file's name, or "".
    """
    model = history.run.get("model")
    kind = model.get("class") if isinstance(model, dict) else None
    parts = [str(part) for part in (kind, name) if part]
    charts = charts_of(history)
    findings, note = findings_of(history)
    context: dict[str, Any] = {
        "facts": facts_of(history),
        "notices": notices_of(history),
        "events": events_of(history),
        "findings": findings,
        "note": note,
        "tabs": charts["tabs"],
        "groups": charts["groups"],
        "quantities": charts["quantities"],
    }
    return render("report", _NAME, title or f"Training report: {', '.join(parts) or 'run'}", charts, **context)
