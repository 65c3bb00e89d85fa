"""A case of a trap suite: what it asks of an implementation, and what a run of it finds."""

from __future__ import annotations

import unittest
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

__all__ = ["AS_TORCH", "REFUSES", "RIGHT", "WRONG", "Case", "Finding", "Inapplicable", "Refused", "Wrong", "asked"]

RIGHT, WRONG, AS_TORCH, REFUSES = "right", "wrong, silently", "as torch", "refuses"


class Wrong(Exception):
    """Says how a result differs from the right one."""


class Refused(Exception):
    """Carries what an implementation raised."""


class Inapplicable(Exception):
    """Says why a case asks nothing of this implementation."""


@contextmanager
def asked() -> Iterator[None]:
    """Takes whatever the block raises for the implementation's refusal; the block calls nothing but it.

    Raises:
        Refused: The block raised.
    """
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split())
        raise Refused(f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__) from error


@dataclass(frozen=True)
class Finding:
    """Holds what a run of a case found.

    Example:
        >>> import torch
        >>> import onepass.parity
        >>> cases = onepass.parity.check_optimizer(torch.optim.SGD, foreach=False)
        >>> finding = next(case for case in cases if case.name == "maximize").run()
        >>> finding.verdict, finding.detail
        ('right', '')
    """

    case: str
    """Name of the case."""
    verdict: str
    """``right``; ``wrong, silently``; ``as torch``: wrong, as torch's plain loop is; ``refuses``: an error."""
    detail: str
    """How the result differs, or the error."""
    what: str
    """What the case asks."""
    source: str
    """Where the fault was seen."""

    def to_json(self) -> dict[str, Any]:
        """Returns the finding as JSON can hold it."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Case:
    """Asks one thing of one implementation.

    The name is the id that pytest shows. The functions `onepass.parity.check_optimizer`, `check_batch_norm`,
    `check_dropout` and `check_cross_entropy` make cases.

    Example:
        >>> import torch
        >>> import onepass.parity
        >>> cases = onepass.parity.check_optimizer(torch.optim.SGD, foreach=False)
        >>> case = next(case for case in cases if case.name == "nesterov")
        >>> case.what
        'Takes nesterov=True into account.'
        >>> case.check()
    """

    name: str
    what: str
    """What the case asks, as a sentence."""
    source: str
    """Where the fault was seen: a row of docs/traps.md, a package, an issue."""
    body: Callable[[], None] = field(repr=False)
    """Runs the case; raises `Wrong`, `Refused` or `Inapplicable`."""
    torchs: Callable[[], None] | None = field(default=None, repr=False)
    """Runs the case with torch's plain loop."""
    strict: bool = False
    """Whether what torch's plain loop does wrong, too, fails `check`."""
    required: bool = False
    """Whether a refusal fails `check`: without this case the others say nothing."""

    @property
    def __name__(self) -> str:
        """The id of the case in pytest."""
        return self.name

    def run(self) -> Finding:
        """Runs the case, with torch's random numbers put back afterwards.

        Returns:
            What was found. The verdict is ``does not apply`` where the case asks nothing of the implementation.
        """
        verdict, detail = _outcome(self.body)
        if verdict == WRONG and self.torchs is not None and _outcome(self.torchs)[0] == WRONG:
            verdict = AS_TORCH
        return Finding(self.name, verdict, detail, self.what, self.source)

    def check(self) -> None:
        """Runs the case as a test: returns if the result is right.

        Raises:
            AssertionError: The result is wrong without an error.
            unittest.SkipTest: The implementation refuses with an error, or the case does not apply to it. pytest
                shows the test as skipped.
        """
        finding = self.run()
        text = f"{self.name}: {finding.verdict}: {finding.detail}. {self.what} ({self.source})"
        if finding.verdict == WRONG or (finding.verdict == AS_TORCH and self.strict):
            raise AssertionError(text)
        if finding.verdict == REFUSES and self.required:
            raise AssertionError(text)
        if finding.verdict not in (RIGHT, AS_TORCH):
            raise unittest.SkipTest(text)


def _outcome(body: Callable[[], None]) -> tuple[str, str]:
    with torch.random.fork_rng(), warnings.catch_warnings():
        # A warning is no refusal, also where the caller's filters make errors of warnings.
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        try:
            body()
        except Wrong as wrong:
            return WRONG, str(wrong)
        except Refused as refused:
            return REFUSES, str(refused)
        except Inapplicable as why:
            return "does not apply", str(why)
        return RIGHT, ""
