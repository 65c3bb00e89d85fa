"""Applies all rules to a history."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onepass._arguments import told
from onepass.monitor.diagnosis import generalization, gradients, network, normalization, precision, rate, start
from onepass.monitor.diagnosis.facts import Facts, Recorded
from onepass.monitor.diagnosis.finding import Finding
from onepass.monitor.diagnosis.rule import ALL

if TYPE_CHECKING:
    from onepass.monitor.diagnosis.rule import Rule

__all__ = ["RULES", "diagnose"]

# In the order of the table in the docs. Each file, once imported, has put its own rules into ALL.
_FILES = (start, rate, gradients, normalization, generalization, precision, network)
RULES: dict[str, Rule] = {
    name: rule for file in _FILES for name, rule in ALL.items() if rule.judge.__module__ == file.__name__
}
# What another finding explains comes after it, by at least this much.
_BEHIND = 0.01


def diagnose(history: Recorded) -> list[Finding]:
    """Names the causes that a run's history shows.

    Each rule of `RULES` looks for one cause. Findings come in the order of their weight: that of their confidence,
    then that of their severity. A finding that another one of at least medium confidence explains comes after it.

    Args:
        history: A `History`: of a `Monitor`, or read from a file. It may be empty or broken off; rules that need
            what it does not have find nothing.

    Returns:
        The findings, the weightiest first; an empty list if no rule finds anything.

    Raises:
        TypeError: history is no `History`.

    Example:
        >>> from onepass.monitor import History, diagnose
        >>> run = {"kind": "run", "format": 1}
        >>> steps = [{"kind": "step", "step": 1, "loss": 2.3}, {"kind": "step", "step": 2, "loss": float("nan")}]
        >>> [finding.name for finding in diagnose(History([run, *steps]))]
        ['divergence']

    Source: of each rule, in docs/diagnosis.md.
    """
    for name in ("run", "events", "steps", "layers", "epochs"):
        if not hasattr(history, name):
            raise TypeError(f"diagnose: history must be a History, got {told(history)}")
    # Numbers that are not finite, and zeros to divide by, are part of what is diagnosed.
    with np.errstate(all="ignore"):
        facts = Facts(history)
        findings = [finding for rule in RULES.values() if (finding := rule(facts)) is not None]
    return _ordered(findings)


def _ordered(findings: list[Finding]) -> list[Finding]:
    """Sorts by weight; what another one explains moves behind it."""
    left = sorted(findings, key=lambda finding: -finding.weight)
    sure = {finding.name: finding for finding in left if finding.confidence != "low"}
    done: dict[str, Finding] = {}

    def place(finding: Finding, way: tuple[str, ...]) -> Finding:
        if finding.name in done:
            return done[finding.name]
        causes = [
            place(cause, (*way, finding.name))
            for cause in sure.values()
            if finding.name in RULES[cause.name].explains and cause.name not in (*way, finding.name)
        ]
        weight = min([finding.weight, *(cause.weight - _BEHIND for cause in causes)])
        made = replace(finding, weight=round(weight, 3))
        if not way:
            done[finding.name] = made
        return made

    return sorted([place(finding, ()) for finding in left], key=lambda finding: -finding.weight)
