"""What a diagnosis returns: findings with their evidence and their cures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["CONFIDENCES", "Cure", "Evidence", "Finding"]

CONFIDENCES = ("low", "medium", "high")


@dataclass(frozen=True)
class Evidence:
    """Holds one observation that a finding rests on.

    Example:
        >>> from onepass.monitor import Evidence
        >>> Evidence("the loss is not finite", {"loss": float("inf")}, steps=(7, 7)).steps
        (7, 7)
    """

    text: str
    """What was seen, as a sentence with its numbers."""
    values: dict[str, float] = field(default_factory=dict)
    """The numbers by name."""
    steps: tuple[int, int] | None = None
    """The first and the last step at which it was seen; None if it holds for no particular steps."""
    layers: tuple[str, ...] = ()
    """The layers in which it was seen."""


@dataclass(frozen=True)
class Cure:
    """Holds one thing to try, and the line of code that does it in this run.

    Example:
        >>> from onepass.monitor import Cure
        >>> Cure("Lower the rate.", "optimizer = SGD(model.parameters(), lr=0.01)").text
        'Lower the rate.'
    """

    text: str
    """What to do, and why it helps."""
    code: str
    """Python that applies it, with the classes, rates and layers of the run."""


@dataclass(frozen=True)
class Finding:
    """Holds one cause that a run's history shows.

    Example:
        >>> from onepass.monitor import Evidence, Finding
        >>> print(Finding("plateau", "low", 0.3, [Evidence("the loss stays at 1.2")], []))
        plateau (low): the loss stays at 1.2
    """

    name: str
    """A name of `onepass.monitor.RULES`."""
    confidence: str
    """"low", "medium" or "high"."""
    weight: float
    """Orders the findings: the largest comes first. From 0 to 1."""
    evidence: list[Evidence]
    """What it rests on, the strongest first."""
    cures: list[Cure]
    """What to try, in this order."""

    def __str__(self) -> str:
        """Returns one line: name, confidence and the first evidence."""
        return f"{self.name} ({self.confidence}): {self.evidence[0].text}"

    def to_json(self) -> dict[str, Any]:
        """Returns the finding as JSON takes it; numbers that are not finite become None."""
        made = asdict(self)
        for one in made["evidence"]:
            one["values"] = {
                name: value if abs(value) < float("inf") else None for name, value in one["values"].items()
            }
        return made
