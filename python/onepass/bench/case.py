"""A case of a benchmark: what competes, made when its turn comes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onepass.bench.entrants import Entrant, Entry
from onepass.bench.probe import Step

__all__ = ["OURS", "STREAM", "Case", "Prepared", "SelfTimed", "choose"]

# The names, in all operations, of the two competitors that the others are compared with.
OURS = "ours"
STREAM = "stream"


@dataclass(frozen=True)
class Prepared:
    """Holds a competitor that needs preparation before each call, which is not timed.

    Args:
        prepare: Called before each call, outside the clock.
        run: The call that is timed.

    Example:
        >>> from onepass.bench import Prepared
        >>> filled, emptied = [], Prepared(lambda: filled.append(1), lambda: filled.pop())
        >>> emptied()
        1
    """

    prepare: Callable[[], object]
    run: Callable[[], object]

    def __call__(self) -> object:
        """Prepares and runs, for torch.compile and the warm-up."""
        self.prepare()
        return self.run()


class SelfTimed(ABC):
    """A competitor that measures its time itself, such as one in another process."""

    @abstractmethod
    def seconds(self) -> float:
        """Makes a call and returns the time it took."""

    def __call__(self) -> object:
        """Makes a call, for the warm-up."""
        return self.seconds()


@dataclass(frozen=True)
class Case:
    """Describes one size of one operation: what competes, and how many bytes it must move.

    A competitor is a function without arguments. ``setup`` makes all of them, by name. ``ours`` is the one whose
    time the others' is divided by; a case may lack it. Where ``bytes_moved`` is given and ``setup`` makes no
    ``stream``, the harness adds that bandwidth probe.

    Args:
        name: Name of the case; differs from the names of the other cases.
        bytes_moved: The least bytes that a call must read and write; None where memory does not bound the time.
        rounds: How many times each competitor is timed.
        setup: Makes the competitors. It is called when the case's turn comes: all cases together need much memory.
        compiled: Makes torch's operation under torch.compile, if there is one (``--compile``).
        notes: Makes lines that are shown with the times, about anything else that is measured.
        stands_for: What an implementation must compute to join the case (``--impl``): ``adamw``, ``dropout``, ...
        join: Makes an implementation's `Entry`; None where the implementation does not fit.
        more_compiled: Makes more competitors by name, under torch.compile (``--compile``).
        figures: Measures more about the competitors after they are timed; gets them and the number of rounds,
            returns figures by name of the competitor.
        table: Makes the table of the result, in the place of the usual one.
        plot: Draws all results of the operation: gets them, a caption and the path.
        in_processes: Whether each competitor lives in a process of its own, which sets its malloc itself.
        states: States in which competitors are timed, too: ``ours (STATE)`` is what ``torch (STATE)`` is compared
            with.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The name is empty, or a number is below 1.

    Example:
        >>> import torch
        >>> from onepass.bench import Case, measure
        >>> def setup():
        ...     x = torch.randn(1000)
        ...     return {"ours": lambda: x.mul_(2), "copy": lambda: x * 2}
        >>> result = measure(Case("double", 8 * 1000, 3, setup), 3, torch.device("cpu"))
        >>> sorted(result.times)
        ['copy', 'ours', 'stream']
    """

    name: str
    bytes_moved: int | None
    rounds: int
    setup: Callable[[], dict[str, Step]]
    compiled: Callable[[], Step] | None = None
    notes: Callable[[], list[str]] | None = None
    stands_for: str | None = None
    join: Callable[[Entrant], Entry | None] | None = None
    more_compiled: Callable[[], dict[str, Step]] | None = None
    figures: Callable[[Mapping[str, Step], int], dict[str, dict[str, Any]]] | None = None
    table: Callable[[Any], Any] | None = None
    plot: Callable[[Any, str, Any], None] | None = None
    in_processes: bool = False
    states: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"Case: name must be a str, got {type(self.name).__name__}")
        if not self.name:
            raise ValueError("Case: name must not be empty")
        for name, value in (("rounds", self.rounds), ("bytes_moved", self.bytes_moved)):
            optional = name == "bytes_moved"
            if value is None and optional:
                continue
            if not isinstance(value, int) or isinstance(value, bool):
                wanted = "an int or None" if optional else "an int"
                raise TypeError(f"Case: {name} must be {wanted}, got {type(value).__name__}")
            if value < 1:
                raise ValueError(f"Case: {name} must be at least 1, got {value}")
        for name in ("setup", "compiled", "notes", "join", "more_compiled", "figures", "table", "plot"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name == "setup"):
                raise TypeError(f"Case: {name} must be callable, got {type(value).__name__}")

    def baseline(self, name: str) -> str:
        """Returns the name of ours that a competitor is compared with: in its own state.

        Args:
            name: The competitor's.
        """
        return next((f"{OURS} ({one})" for one in self.states if name.endswith(f" ({one})")), OURS)


def choose(cases: list[Case], wanted: list[str]) -> list[Case]:
    """Selects the cases that the user asks for.

    Args:
        cases: All cases of the operation.
        wanted: Names, or parts of names; empty for all. A whole name selects only that case.

    Returns:
        The cases, in their own order.

    Raises:
        ValueError: A name fits none.
    """
    chosen: dict[str, Case] = {}
    for name in wanted:
        fitting = [c for c in cases if c.name == name] or [c for c in cases if name in c.name]
        if not fitting:
            raise ValueError(f"bench: case must be part of one of {', '.join(c.name for c in cases)}, got {name}")
        chosen.update((c.name, c) for c in fitting)
    return [c for c in cases if c.name in chosen or not wanted]
