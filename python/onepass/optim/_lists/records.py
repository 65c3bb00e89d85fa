"""The records in which a step's groups reach the core, which reads each entry by its name.

Options are dicts, since a NamedTuple takes twice as long to make (docs/decisions/core.md, "Records that cross the
border").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from torch import Tensor

__all__ = ["ListGroup", "Precision", "StateGroup", "StepOptions"]


class Precision(TypedDict):
    """How a group's 16-bit tensors are rounded (csrc/bind/optim/precision.h)."""

    mode: str
    """Which of "stochastic", "kahan" and "master"; "nearest" only where states are coded."""
    seed: int
    """Seed of the draws of stochastic rounding, else 0."""
    first: int
    """Number of the group's first parameter among all of the optimizer."""
    part: tuple[int, ...] | None
    """Where the elements of the group's parameters are in the tensors by which draws are numbered: the first one;
    how many follow each other, 0 for all; how far the next ones begin after them. None: they are the whole."""
    coded: bool
    """Whether states are kept in 8 bits."""


class StepOptions(TypedDict):
    """The options that all rules have; each rule adds its own."""

    lr: float | Tensor
    capturable: bool
    precision: Precision | None


class StateGroup(TypedDict):
    """A param group of a step that takes its states from the optimizer's state dict."""

    params: list[Tensor]
    options: StepOptions


@dataclass(slots=True)
class ListGroup:
    """A group of a step on explicit lists: tensors or numpy arrays, an entry for each parameter."""

    params: list[Any]
    grads: list[Any]
    options: StepOptions
    states: Mapping[str, list[Any]] = field(default_factory=dict)
    """The rule's states by the names of their lists, for instance ``exp_avgs``, in the core's order."""
    first: list[bool] | None = None
    """Which states hold no value yet; for a rule whose first step differs from the next ones (SGD)."""
    state_steps: list[Any] | None = None
    """Step counts, where the update or its rounding depends on them."""
    scales: list[Any] | None = None
    """The scales of states in 8 bits; the states are then their codes."""
    lows: list[Any] | None = None
    """What 16-bit parameters do not hold themselves (docs/precision.md), None for a parameter without."""
    emas: list[Any] | None = None
    """Moving averages of the parameters."""
    indices: list[int] | None = None
    """Where in its param group each parameter stands, for errors; None: the lists are the whole group."""
