"""What an experiment is: cases, a measurement of each for each seed, and checks of its claim."""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from onepass.lab.statistics import Check, decoded, encoded

if TYPE_CHECKING:
    from matplotlib.figure import Figure


__all__ = ["SECTIONS", "Case", "Experiment", "Point", "Points"]

Case = dict[str, Any]
"""The conditions of a measurement by name: strings and numbers."""

# What the docstring of each experiment must say.
SECTIONS = ("Claim", "Criterion", "Limits", "Source")


@dataclass(frozen=True)
class Point:
    """Holds what was measured in one case with one seed."""

    seed: int
    case: Case
    values: dict[str, float]
    """Numbers by name; a name ends with its unit, where it has one: "kept, MiB"."""
    curves: dict[str, list[float]] = field(default_factory=dict)
    """Courses by name, for the picture."""

    def to_json(self) -> dict[str, Any]:
        """Returns the point as strict JSON takes it."""
        values = {name: encoded(value) for name, value in self.values.items()}
        curves = {name: [encoded(value) for value in curve] for name, curve in self.curves.items()}
        return {"seed": self.seed, "case": self.case, "values": values, "curves": curves}

    @staticmethod
    def from_json(written: dict[str, Any]) -> Point:
        """Reads what `to_json` returned.

        Args:
            written: The point.
        """
        values = {name: decoded(value) for name, value in written["values"].items()}
        curves = {name: [decoded(value) for value in curve] for name, curve in written["curves"].items()}
        return Point(written["seed"], written["case"], values, curves)


class Points(list[Point]):
    """Holds all measurements of a run, seed by seed, so that the values of two cases are pairs."""

    def cases(self) -> list[Case]:
        """Lists the cases in their order, each once."""
        found: list[Case] = []
        for point in self:
            if point.case not in found:
                found.append(point.case)
        return found

    def where(self, **case: Any) -> Points:
        """Selects the points whose case has these conditions.

        Args:
            **case: Conditions by name.
        """
        return Points(p for p in self if all(p.case.get(name) == value for name, value in case.items()))

    def of(self, name: str, **case: Any) -> list[float]:
        """Lists a value by seed.

        Args:
            name: Name of the value.
            **case: Conditions that leave one case.

        Raises:
            LookupError: No point, or more than one of a seed, has these conditions.
        """
        found = self.where(**case)
        seeds = [point.seed for point in found]
        if not found or len(set(seeds)) < len(seeds):
            raise LookupError(f"of: {case} must leave one case, got {found.cases()}")
        return [point.values[name] for point in found]


class Experiment(ABC):
    """The base of all experiments.

    A subclass is a frozen dataclass. Its fields are the settings, which have defaults: a test gives smaller ones.
    The docstring has the sections in `SECTIONS`. The criterion is written before the first run.
    """

    name: ClassVar[str]
    """The name on the command line."""
    seeds: ClassVar[int] = 4
    """How many seeds a run has."""
    long_seeds: ClassVar[int] = 8
    """How many seeds a run with --long has."""

    @classmethod
    def said(cls, title: str) -> str:
        """Returns a section of the docstring as one line.

        Args:
            title: A name in `SECTIONS`.

        Raises:
            LookupError: The docstring has no such section.
        """
        text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
        found = re.search(rf"^{title}: (.+?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
        if found is None:
            raise LookupError(f"{cls.__name__}: the docstring must have the section {title}, got none")
        return " ".join(found[1].split())

    def settings(self) -> dict[str, Any]:
        """Returns the fields, as JSON takes them."""
        fields: Any = self
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(fields).items()}

    @abstractmethod
    def cases(self) -> Sequence[Case]:
        """Lists the cases; each is measured once for each seed, and is a step of the progress bar."""

    @abstractmethod
    def measure(self, case: Case, seed: int) -> Iterator[Point]:
        """Measures a case. torch's generator is seeded before, and set back afterwards.

        Args:
            case: One of `cases`.
            seed: Seeds everything that is random.

        Yields:
            Usually one point; several where one training is measured under several conditions.
        """

    @abstractmethod
    def checks(self, points: Points) -> list[Check]:
        """Computes the effects that the criterion names. The claim is shown if every check holds.

        Args:
            points: The measurements.
        """

    @abstractmethod
    def draw(self, result: Any, figure: Figure) -> None:
        """Draws the result, only from what is in it: the documentation draws it from a JSON file.

        Args:
            result: What was found.
            figure: An empty figure of matplotlib with a constrained layout.
        """
