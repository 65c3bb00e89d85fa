"""A trap: an input for which implementations that are in use give a wrong result without an error."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Trap", "trap"]


@dataclass(frozen=True)
class Trap:
    """Describes a case before an implementation is named."""

    name: str
    what: str
    source: str
    rules: tuple[str, ...]
    """The rules that it concerns; all if there is none."""
    body: Callable[[Any], None]
    """Runs it with a subject."""
    required: bool = False

    def concerns(self, rule: str) -> bool:
        """Says whether the trap concerns a rule.

        Args:
            rule: The rule.
        """
        return not self.rules or rule in self.rules


def trap(
    traps: list[Trap], source: str, *rules: str, required: bool = False
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Makes a decorator that adds a function to a list of traps: its name, and its docstring as what it asks.

    Args:
        traps: The list.
        source: Where the fault was seen.
        rules: The rules that it concerns, if not all.
        required: Whether the other cases say nothing where this one is refused.
    """

    def add(body: Callable[[Any], None]) -> Callable[[Any], None]:
        what = " ".join((inspect.getdoc(body) or "").split())
        traps.append(Trap(body.__name__, what, source, rules, body, required))
        return body

    return add
