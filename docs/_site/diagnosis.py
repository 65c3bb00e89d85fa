"""Tables of the rules of `onepass.monitor.diagnose`, from the rules themselves."""

from __future__ import annotations

from collections.abc import Callable

from _site import lab
from _site.markdown import grid
from onepass.lab import Points, diagnose
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


def proof() -> str:
    """Each planted fault: how often it was found first, and what it and its cure do to the validation loss."""
    found = lab.result("diagnose")
    rows = []
    for row in found.rows:
        if row.case["kind"] != diagnose.PLANTED:
            continue
        of = {
            key: found.points.where(kind=key, training=row.case["training"]) for key in (row.case["kind"], "cured")
        }
        planted, cured = of.values()
        right = sum(1 - point.values[diagnose.WRONG] for point in planted)
        losses = [" to ".join(_ends(points)) for points in (planted, cured)]
        rows.append([f"`{row.case['training']}`", f"{right:.0f} of {len(planted)}", *losses])
    return grid(["planted", "found first", "validation loss", "the same, cured"], rows)


def _ends(points: Points) -> list[str]:
    """The least and the largest validation loss."""
    values = [point.values[diagnose.LOSS] for point in points]
    return [f"{value:.2g}" for value in (min(values), max(values))] if values else []


TABLES: dict[str, Callable[[], str]] = {
    "diagnosis": causes,
    "diagnosis_thresholds": thresholds,
    **({"diagnosis_proof": proof} if "diagnose" in lab.NAMES else {}),
}
