"""The rules as tables in Markdown: what docs/diagnosis.md shows."""

from __future__ import annotations

from collections.abc import Iterator

from onepass.monitor.diagnosis.diagnose import RULES

__all__ = ["markdown"]


def markdown() -> str:
    """Returns two tables: what each rule finds, and the thresholds of each."""
    return "\n".join([*_causes(), "", *_thresholds()]) + "\n"


def _causes() -> Iterator[str]:
    yield "| finding | what it says | comes before | source |"
    yield "|---|---|---|---|"
    for rule in RULES.values():
        explains = ", ".join(f"`{name}`" for name in rule.explains)
        yield f"| `{rule.name}` | {rule.cause} | {explains} | {rule.source} |"


def _thresholds() -> Iterator[str]:
    yield "| finding | threshold | value | what is compared | reason |"
    yield "|---|---|---|---|---|"
    for rule in RULES.values():
        for name, one in rule.thresholds.items():
            yield f"| `{rule.name}` | {name} | {one.value:g} | {one.meaning} | {one.reason} |"
