"""Rules: what a rule of the diagnosis is, and the list of all rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onepass.monitor.diagnosis.facts import Facts
from onepass.monitor.diagnosis.finding import CONFIDENCES, Cure, Evidence, Finding

__all__ = ["ALL", "Limits", "Rule", "Threshold", "found", "rule"]

# The weight of a finding is that of its confidence, plus up to this much by the severity of its cause.
_BASE = {"low": 0.1, "medium": 0.4, "high": 0.7}
_SPAN = 0.2


@dataclass(frozen=True)
class Threshold:
    """Holds a number of a rule, and why it is that number.

    Example:
        >>> from onepass.monitor import RULES
        >>> RULES["scaler_thrashing"].thresholds["skipped"].value
        0.05
    """

    value: float
    """The number."""
    meaning: str
    """What is compared with it."""
    reason: str
    """Why the line is drawn there."""


@dataclass(frozen=True)
class Limits:
    """Gives a rule its thresholds by name."""

    values: Mapping[str, float]

    def __getattr__(self, name: str) -> float:
        """Returns the threshold of that name."""
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(f"a rule has no threshold {name!r}, only {', '.join(self.values)}") from None


Judge = Callable[[Facts, Limits], "Finding | None"]


@dataclass(frozen=True)
class Rule:
    """Holds one rule: the cause it looks for, its thresholds, where it is from.

    Example:
        >>> from onepass.monitor import RULES
        >>> RULES["plateau"].kind
        'rate'
    """

    name: str
    """The name of its finding."""
    kind: str
    """The file it is in: start, rate, gradients, normalization, generalization, precision or network."""
    cause: str
    """What the finding says, in a sentence."""
    severity: float
    """From 0 to 1: orders findings of one confidence."""
    thresholds: Mapping[str, Threshold]
    """The numbers that it compares with."""
    source: str
    """The paper or documentation that the rule rests on."""
    explains: tuple[str, ...]
    """Findings that this cause brings about: they come after it."""
    judge: Judge
    """Looks for the cause."""

    def __call__(self, facts: Facts) -> Finding | None:
        """Returns the finding, or None if the history does not show it."""
        return self.judge(facts, Limits({name: one.value for name, one in self.thresholds.items()}))


ALL: dict[str, Rule] = {}


def rule(
    kind: str,
    cause: str,
    *,
    severity: float,
    source: str,
    explains: tuple[str, ...] = (),
    **thresholds: tuple[float, str, str],
) -> Callable[[Judge], Judge]:
    """Makes a rule of a function, whose name is the name of the rule.

    Args:
        kind: As in `Rule`.
        cause: As in `Rule`.
        severity: As in `Rule`.
        source: As in `Rule`.
        explains: As in `Rule`.
        thresholds: For each name the value, its meaning and its reason.
    """

    def register(judge: Judge) -> Judge:
        name = judge.__name__
        numbers = {key: Threshold(*value) for key, value in thresholds.items()}
        ALL[name] = Rule(name, kind, cause, severity, numbers, source, explains, judge)
        return judge

    return register


def found(name: str, confidence: str, evidence: list[Evidence], cures: list[Cure]) -> Finding:
    """Makes a finding with the weight of its rule."""
    assert confidence in CONFIDENCES
    weight = _BASE[confidence] + _SPAN * ALL[name].severity
    return Finding(name, confidence, round(weight, 3), evidence, cures)
