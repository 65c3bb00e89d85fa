"""Finds batch norms and the steps behind them in a graph of torch.fx that calls modules."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, Node

from onepass.nn.batch_norm import OURS as NORMS
from onepass.nn.dropout import OURS as DROPOUTS
from onepass.nn.fusion.chain import ADD, DROPOUT, IDENTITY, RELU
from onepass.nn.fusion.moves import may_move

__all__ = ["Found", "Step", "behind", "found_in", "in_place", "is_norm", "is_step"]

_ORDER = (ADD, RELU, DROPOUT)
_ADDS = (operator.add, operator.iadd, torch.add)
_RELUS = (F.relu, F.relu_, torch.relu, torch.relu_)
_NORMS = {*NORMS, *NORMS.values()}
_DROPOUTS = (nn.Dropout, DROPOUTS[nn.Dropout])
_Resolve = Callable[[str], nn.Module]


@dataclass
class Step:
    """Holds one step behind a batch norm."""

    kind: str
    node: Node
    """The node that does it; what it returns is the next step's input."""
    what: Any = None
    """The other summand's node; the module's name; a probability; or None for a function."""

    @property
    def is_module(self) -> bool:
        """True where a module does it."""
        return self.node.op == "call_module"


@dataclass
class Found:
    """Holds a batch norm in a graph, and what stands behind it."""

    norm: Node
    steps: list[Step]
    reason: str = ""
    """Why nothing more, or nothing at all, runs in its pass."""


def is_norm(module: nn.Module) -> bool:
    """Returns True for exactly torch's or our BatchNorm1d, 2d or 3d."""
    return type(module) in _NORMS


def found_in(graph: Graph, module_of: _Resolve) -> list[Found]:
    """Looks at every batch norm that the graph calls.

    Args:
        graph: Calls modules by their names.
        module_of: Gives the module of a name.
    """
    found = []
    for node in graph.nodes:
        if node.op == "call_module" and is_norm(module_of(str(node.target))):
            found.append(_behind(node, graph, module_of))
    return found


def _behind(norm: Node, graph: Graph, module_of: _Resolve) -> Found:
    module = module_of(str(norm.target))
    if len(norm.args) != 1 or norm.kwargs or not isinstance(norm.args[0], Node):
        return Found(norm, [], "it is called with more than an input")
    if getattr(module, "activation", None) is not None or getattr(module, "dropout", None):
        return Found(norm, [], "it has an activation or dropout of its own")
    found = behind(norm, module_of)
    if found.steps:
        fault = may_move(norm, [step.node for step in found.steps], graph, module_of)
        if fault:
            # What stands right behind the batch norm needs no move.
            return Found(norm, found.steps[: in_place(norm, found.steps)], fault)
    return found


def behind(norm: Node, module_of: _Resolve) -> Found:
    """Follows what is done with a batch norm's result, as long as one pass can do it."""
    steps: list[Step] = []
    value, stage, reason = norm, -1, ""
    while not reason:
        step, reason = _step(value, module_of)
        if step is None:
            break
        if step.kind != IDENTITY:
            at = _ORDER.index(step.kind)
            if at <= stage:
                reason = f"{step.kind} stands behind {_ORDER[stage]}"
                break
            stage = at
        steps.append(step)
        value = step.node
    while steps and steps[-1].kind == IDENTITY:
        steps.pop()
    return Found(norm, steps, reason)


def in_place(norm: Node, steps: list[Step]) -> int:
    """Returns how many steps follow the batch norm without another node between them."""
    node, count = norm.next, 0
    for step in steps:
        if step.node is not node:
            break
        node, count = node.next, count + 1
    return count


def _step(value: Node, module_of: _Resolve) -> tuple[Step | None, str]:
    """Returns what is done with a value, or why that is no step."""
    users = list(value.users)
    if len(users) != 1:
        return None, f"its result is used {len(users)} times"
    (user,) = users
    if user.op == "output":
        return None, "its result is what the forward returns"
    if user.op == "call_module":
        return _of_module(user, module_of(str(user.target)))
    name = getattr(user.target, "__name__", str(user.target)).strip("_")
    if (user.op == "call_function" and user.target in _ADDS) or (
        user.op == "call_method" and user.target in ("add", "add_")
    ):
        return _of_sum(user, value)
    if (user.op == "call_function" and user.target in _RELUS) or (
        user.op == "call_method" and user.target in ("relu", "relu_")
    ):
        return (Step(RELU, user), "") if user.args[:1] == (value,) else (None, "relu has its input by name")
    if user.op == "call_function" and user.target is F.dropout:
        return _of_dropout(user, value)
    return None, f"{name} stands behind it"


def _of_module(user: Node, module: nn.Module) -> tuple[Step | None, str]:
    kind = type(module)
    if len(user.args) == 1 and not user.kwargs:
        if kind is nn.ReLU:
            return Step(RELU, user, user.target), ""
        if kind in _DROPOUTS:
            return Step(DROPOUT, user, user.target), ""
        if kind is nn.Identity:
            return Step(IDENTITY, user, user.target), ""
    return None, f"{kind.__name__} stands behind it"


def _of_sum(user: Node, value: Node) -> tuple[Step | None, str]:
    if user.kwargs or len(user.args) != 2:
        return None, "the sum has options"
    first, second = user.args
    if first is value and second is value:
        return None, "it is added to itself"
    changes = user.target in (operator.iadd, "add_")
    if changes and first is not value:
        return None, "it is added to another tensor in place"
    other = second if first is value else first
    if not isinstance(other, Node):
        return None, "a number is added to it"
    return Step(ADD, user, other), ""


def _of_dropout(user: Node, value: Node) -> tuple[Step | None, str]:
    given = dict(zip(("input", "p", "training", "inplace"), user.args, strict=False)) | user.kwargs
    p, training = given.get("p", 0.5), given.get("training", True)
    if given.get("input") is not value or not isinstance(p, (int, float)) or not isinstance(training, bool):
        return None, "the dropout's arguments are computed"
    return Step(DROPOUT, user, float(p) if training else 0.0), ""


def is_step(value: Node, module_of: _Resolve) -> bool:
    """Returns True if what is done with a value can be a step behind a batch norm."""
    return _step(value, module_of)[0] is not None
