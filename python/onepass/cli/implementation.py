"""What `--impl`, `--kwargs` and `--as` name, for `onepass parity`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
import typer

from onepass._implementation import ImplementationError, load, parse_kwargs, stands_for
from onepass.parity import any_layer, any_optim
from onepass.parity.case import Case
from onepass.parity.check import trap_cases
from onepass.parity.harness import Refusal, Row
from onepass.parity.layer import Layer
from onepass.parity.subject import Subject
from onepass.parity.traps import LAYER_TRAPS, OPTIMIZER_TRAPS


@dataclass(frozen=True)
class Judged:
    """Holds an implementation and what is asked of it."""

    facts: dict[str, Any]
    """What a JSON file says of it."""
    rows: Callable[[Sequence[torch.dtype], int], Iterator[Row | Refusal]]
    cases: list[Case]


def judged(
    op: str, impl: str | None, kwargs: Sequence[str], as_: str | None, device: torch.device, strict: bool
) -> Judged | None:
    """Loads the implementation that the options name; None if they name none.

    Args:
        op: The operation.
        impl: Value of ``--impl``.
        kwargs: Values of ``--kwargs``.
        as_: Value of ``--as``.
        device: Where it runs.
        strict: Whether torch's own faults count.

    Raises:
        typer.BadParameter: There is no such implementation, or the other options do not fit.
    """
    if impl is None:
        for name, value in (("kwargs", kwargs), ("as", as_), ("strict", strict)):
            if value:
                raise typer.BadParameter(f"{name} must come with --impl, got no --impl")
        return None
    if op in ("tail", "augment"):
        raise typer.BadParameter(f"impl must come with optim, batch_norm, dropout or cross_entropy, got {op}")
    if as_ is not None and op in LAYER_TRAPS:
        raise typer.BadParameter(f"as must come with optim, got {op}")
    try:
        implementation = load(impl)
        options = parse_kwargs(kwargs)
        rule = op if op in LAYER_TRAPS else stands_for(implementation, as_, options)
    except ImplementationError as error:
        raise typer.BadParameter(str(error)) from error
    facts = {
        "implementation": impl,
        "package_version": _version(impl),
        "kwargs": list(kwargs),
        "as": rule,
        "strict": strict,
    }
    if op in LAYER_TRAPS:
        layer = Layer(implementation, op, options, device)
        return Judged(
            facts,
            lambda dtypes, steps: any_layer.rows(layer, dtypes, steps),
            trap_cases(LAYER_TRAPS[op], op, layer, layer.torchs(), strict),
        )
    subject = Subject(implementation, rule, options, device)
    return Judged(
        facts,
        lambda dtypes, steps: any_optim.rows(subject, dtypes, steps),
        trap_cases(OPTIMIZER_TRAPS, rule, subject, subject.torchs(), strict),
    )


def _version(impl: str) -> str | None:
    """The version of the installed package that has the module."""
    top = impl.partition(":")[0].partition(".")[0]
    packages = metadata.packages_distributions().get(top, [])
    return metadata.version(packages[0]) if packages else None
