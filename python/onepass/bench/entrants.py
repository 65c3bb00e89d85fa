"""Implementations that the user names: classes and functions that join the cases which they fit."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from onepass import _implementation
from onepass._implementation import ImplementationError
from onepass.bench.probe import Step

__all__ = ["TOLERANCE", "Entrant", "Entry", "difference", "entrants_of"]

# The difference from torch's results that is allowed: far above rounding, far below any other formula.
TOLERANCE = 1e-3
# In 16 bits torch's loop itself rounds after each operation.
_TOLERANCE_16_BITS = 0.1


@dataclass(frozen=True)
class Entrant:
    """Holds an implementation that competes next to ours and torch's.

    Args:
        name: Its name in tables and files.
        implementation: A class or function.
        stands_for: What it computes: ``adamw``, ``batch_norm``, ...
        kwargs: Arguments that it gets, besides those that the case gives.
        tolerance: The difference of its results from torch's that is allowed.

    Example:
        >>> import torch
        >>> from onepass.bench import Entrant, measure, optim
        >>> case = next(case for case in optim.cases(torch.device("cpu")) if case.name == "overhead-sgd")
        >>> plain = Entrant("plain", torch.optim.SGD, "sgd", {"foreach": False})
        >>> sorted(measure(case, 1, torch.device("cpu"), entrants=[plain]).times)
        ['fused', 'ours', 'plain']
    """

    name: str
    implementation: Callable[..., Any]
    stands_for: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = TOLERANCE

    @property
    def is_class(self) -> bool:
        """Whether it is a class: an optimizer or a module."""
        return isinstance(self.implementation, type)

    @property
    def dimensions(self) -> str:
        """``1d``, ``2d`` or ``3d`` at the end of its own name; empty without."""
        found = re.search(r"[123]d$", getattr(self.implementation, "__name__", ""))
        return found[0] if found else ""

    def known(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Selects the options that it takes, and adds its own arguments.

        Args:
            options: What the case would give.
        """
        try:
            parameters = inspect.signature(self.implementation).parameters.values()
        except (TypeError, ValueError):  # code without a signature must take what it gets
            return {**options, **self.kwargs}
        takes_all = any(one.kind is one.VAR_KEYWORD for one in parameters)
        names = {one.name for one in parameters}
        taken = {name: value for name, value in options.items() if takes_all or name in names}
        return {**taken, **self.kwargs}

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Calls the implementation with those of the options that it takes, and with its own arguments."""
        return self.implementation(*arguments, **self.known(options))


@dataclass(frozen=True)
class Entry:
    """Holds what a case makes of an entrant: its call, and the comparison with torch's results.

    Args:
        make: Makes the call that is timed.
        compare: Returns which result differs most from torch's, and by how much, as a share of torch's.
        limit: The least difference that is allowed, whatever the entrant's tolerance is.

    Example:
        >>> from onepass.bench import Entry
        >>> Entry(lambda: print, lambda: ("output", 0.0)).compare()
        ('output', 0.0)
    """

    make: Callable[[], Step]
    compare: Callable[[], tuple[str, float]]
    limit: float = 0.0


def limit_of(dtype: torch.dtype) -> float:
    """Returns the least difference that is allowed in a dtype.

    Args:
        dtype: Dtype of the results.
    """
    return _TOLERANCE_16_BITS if dtype.itemsize == 2 else 0.0


def difference(found: Tensor, wanted: Tensor, scale: Tensor | None = None) -> float:
    """Computes the root mean square of a difference, as a share of that of what is wanted.

    Args:
        found: The result that is judged.
        wanted: torch's result.
        scale: What the difference is divided by, instead of `wanted`.

    Returns:
        The share; infinity where the result is not finite and torch's is.

    Raises:
        ValueError: The shapes differ.

    Example:
        >>> import torch
        >>> from onepass.bench import difference
        >>> difference(torch.tensor([1.0, 1.5]), torch.tensor([1.0, 1.0]))
        0.3535533905932738
    """
    if found.shape != wanted.shape:
        raise ValueError(f"results must have shape {tuple(wanted.shape)}, got {tuple(found.shape)}")
    exact = wanted.detach().double()
    apart = (found.detach().double() - exact).square().mean().sqrt().item()
    size = (exact if scale is None else scale.detach().double()).square().mean().sqrt().item()
    if apart == 0:
        return 0.0
    return apart / size if size > 0 and apart == apart else float("inf")


def largest(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[str, float]:
    """Finds the result that differs most.

    Args:
        found: The results that are judged, by name.
        wanted: torch's.
    """
    shares = {name: difference(found[name], wanted[name]) for name in wanted}
    name = max(shares, key=shares.__getitem__)
    return name, shares[name]


def entrants_of(
    texts: Sequence[str],
    kwargs: Sequence[str],
    as_: str | None,
    among: Sequence[str],
    tolerance: float = TOLERANCE,
) -> list[Entrant]:
    """Reads the implementations of a command line.

    Args:
        texts: Each ``module:Name`` or ``module:Name(argument=value, ...)``.
        kwargs: Each ``argument=value``, for a single implementation without parentheses.
        as_: What all of them compute; None to find it out.
        among: What the cases compute.
        tolerance: The difference from torch's results that is allowed.

    Raises:
        ImplementationError: A text has another form, names nothing that can be called, or comes twice; or it
            stands for nothing that the cases compute.
    """
    if not texts:
        for option, given in (("--kwargs", kwargs), ("--as", as_), ("--tolerance", tolerance != TOLERANCE)):
            if given:
                raise ImplementationError(f"{option} must come with --impl, got no --impl")
        return []
    if kwargs and (len(texts) > 1 or "(" in texts[0]):
        raise ImplementationError(
            "--kwargs must come with one --impl without parentheses; "
            f"write module:Name(argument=value) for each, got {', '.join(texts)}"
        )
    found: dict[str, Entrant] = {}
    for text in texts:
        name, inner = _split(text)
        given = [*inner, *kwargs]
        own = _implementation.parse_kwargs(given)
        implementation = _implementation.load(name)
        rule = _implementation.stands_for(implementation, as_, own, among)
        label = f"{name}({', '.join(given)})" if given else name
        if label in found:
            raise ImplementationError(f"--impl must differ from the others, got {label} twice")
        found[label] = Entrant(label, implementation, rule, own, tolerance)
    return list(found.values())


def _split(text: str) -> tuple[str, list[str]]:
    """Splits module:Name(argument=value, ...) into the name and each argument=value."""
    name, parenthesis, _ = text.partition("(")
    if not parenthesis:
        return text, []
    call_text = f"f({text.partition('(')[2]}"
    try:
        call = ast.parse(call_text, mode="eval").body
    except SyntaxError:
        call = None
    if not isinstance(call, ast.Call) or call.args or any(one.arg is None for one in call.keywords):
        raise ImplementationError(f"--impl must be module:Name or module:Name(argument=value, ...), got {text}")
    return name, [f"{one.arg}={ast.get_source_segment(call_text, one.value)}" for one in call.keywords]
