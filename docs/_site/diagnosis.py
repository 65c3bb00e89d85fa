"""Tables of the rules of `onepass.monitor.diagnose`, from the rules themselves."""

from __future__ import annotations

from collections.abc import Callable

from _site.markdown import grid
from onepass.monitor import RULES

__all__ = ["TABLES"]


def causes() -> str:
    """What each rule finds, what it puts behind itself, and where it is from."""
    rows = [
        [f"`{rule.name}`", rule.cause, ", ".join(f"`{name}`" for name in rule.explains), rule.source]
        for rule in RULES.values()
    ]
    return grid(["finding", "what it says", "comes before", "source"], rows)


def thresholds() -> str:
    """Each number of each rule, and its reason."""
    rows = [
        [f"`{rule.name}`", name, f"{one.value:g}", one.meaning.replace("|", "\\|"), one.reason]
        for rule in RULES.values()
        for name, one in rule.thresholds.items()
    ]
    return grid(["finding", "threshold", "value", "what is compared", "reason"], rows)


TABLES: dict[str, Callable[[], str]] = {"diagnosis": causes, "diagnosis_thresholds": thresholds}
