"""The findings of a run, as the report shows them."""

from __future__ import annotations

import importlib
from typing import Any

from onepass.monitor import History

__all__ = ["findings_of"]

_MODULE = "onepass.monitor.diagnosis"


def findings_of(history: History) -> tuple[list[dict[str, Any]], str]:
    """Diagnoses a run.

    Args:
        history: The run.

    Returns:
        The findings, the weightiest first, and a note where there is none.
    """
    if not len(history):
        return [], "The run has no step that could be judged."
    try:
        diagnose = importlib.import_module(_MODULE).diagnose
    except ModuleNotFoundError as error:
        if error.name != _MODULE:
            raise
        return [], "This installation has no diagnosis."
    found = [_shown(one) for one in diagnose(history)]
    return found, "" if found else "No rule found anything to point out."


def _shown(finding: Any) -> dict[str, Any]:
    return {
        "name": finding.name,
        "title": finding.name.replace("_", " "),
        "confidence": finding.confidence,
        "evidence": [one.text for one in finding.evidence],
        "cures": [{"text": cure.text, "code": cure.code or ""} for cure in finding.cures],
    }
