"""Finds batch norms, and what stands right behind each of them, in a graph of dynamo's."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Graph, Node

from onepass.nn.fusion.chain import DTYPES

__all__ = ["ADD", "DROPOUT", "NORM", "RELU", "Found", "example", "found_in", "same_layout"]

ADD, RELU, DROPOUT = "add", "ReLU", "dropout"
_ORDER = (ADD, RELU, DROPOUT)
NORM = F.batch_norm
_NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_DEFAULTS = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}
_SUMS: dict[Any, bool] = {operator.add: False, operator.iadd: True, torch.add: False, "add": False, "add_": True}
_RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
# Their results are new memory, so nothing but a user of the result sees a change of it.
_FRESH = (
    NORM,
    torch.conv1d,
    torch.conv2d,
    torch.conv3d,
    torch.conv_transpose1d,
    torch.conv_transpose2d,
    torch.conv_transpose3d,
    F.linear,
)


@dataclass
class Found:
    """Holds a batch norm in a graph, and the steps that may run in its pass."""

    norm: Node
    kinds: list[str] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    """The nodes of the steps, in their order; a dropout that does nothing has no kind."""
    dropout: float = 0.0
    reason: str = ""
    """Why nothing more, or nothing at all, runs in its pass."""

    @property
    def given(self) -> dict[str, Any]:
        """The batch norm's arguments by name, as they are in the graph now."""
        return {**_DEFAULTS, **dict(zip(_NAMES, self.norm.args, strict=False)), **self.norm.kwargs}

    @property
    def residual(self) -> Node | None:
        """The other summand, as it is in the graph now."""
        if self.kinds[:1] != [ADD]:
            return None
        return next(node for node in self.nodes[0].all_input_nodes if node is not self.norm)

    @property
    def activation(self) -> str | None:
        """The activation of the pass."""
        return "relu" if RELU in self.kinds else None

    def cut(self, reason: str) -> None:
        """Takes all steps away."""
        self.kinds, self.nodes, self.dropout, self.reason = [], [], 0.0, reason


def found_in(graph: Graph, sure: bool = False) -> list[Found]:
    """Looks at every batch norm of a graph, and at what may go into its pass.

    A step goes in only if it is the next node, if it alone uses what the node before it returned, and if shapes,
    dtypes and strides are those of the batch norm's input. So nothing runs earlier or later than in the graph.

    Args:
        graph: Holds torch's functions and methods, before autograd has seen them.
        sure: Whether sizes must be known to be the same. Otherwise they must not be known to differ: each call
            compares them.
    """
    found = []
    for node in graph.nodes:
        if node.op == "call_function" and node.target is NORM:
            one = Found(node)
            reason = _why_unfit(one.given)
            if reason:
                one.reason = reason
            else:
                _follow(one, sure)
            found.append(one)
    return found


def example(node: Any) -> Tensor | None:
    """Returns the tensor without memory that dynamo ran the graph with; None for anything else."""
    value = node.meta.get("example_value") if isinstance(node, Node) else None
    return value if isinstance(value, Tensor) else None


def same_layout(one: Any, two: Any, sure: bool) -> bool:
    """Returns True if the tensors of two nodes have the same dtype, device, shape and strides.

    Args:
        one: A node.
        two: Another one.
        sure: True for every call; False unless in every call they differ.
    """
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    first, second = example(one), example(two)
    if first is None or second is None or first.layout != torch.strided or second.layout != torch.strided:
        return False
    if (first.dtype, first.device, first.dim()) != (second.dtype, second.device, second.dim()):
        return False
    sizes = zip((*first.shape, *first.stride()), (*second.shape, *second.stride()), strict=True)
    if sure:
        return all(statically_known_true(a == b) for a, b in sizes)
    return not any(statically_known_true(a != b) for a, b in sizes)


def _why_unfit(given: dict[str, Any]) -> str:
    """Says what of a batch norm's call our pass does not take; empty if it takes it."""
    input = example(given["input"])
    if input is None or input.device.type != "cpu":
        return "it is not on the CPU, where ours was measured"
    if input.dtype not in DTYPES or input.dim() < 2 or type(given["training"]) is not bool:
        return "its input is of another kind"
    if type(given["momentum"]) is not float or type(given["eps"]) is not float or given["eps"] <= 0:
        return "its momentum is no constant number, or its eps is not positive"
    if (given["running_mean"] is None) != (given["running_var"] is None):
        return "it has one of running mean and variance"
    for name in _NAMES[1:5]:
        node = given[name]
        if node is not None and (not isinstance(node, Node) or example(node) is None):
            return f"its {name} is no tensor"
    wanted = {input.dtype} if input.dtype.itemsize > 2 else {input.dtype, torch.float32}
    kinds = {value.dtype for name in _NAMES[1:5] if (value := example(given[name])) is not None}
    return "" if len(kinds) <= 1 and kinds <= wanted else "its parameters have another dtype"


def _follow(found: Found, sure: bool) -> None:
    value, stage = found.norm, -1
    while True:
        user, found.reason = _only_user(value)
        if user is None:
            return
        kind, reason = _kind(user, value, found, sure)
        if not kind:
            found.reason = reason
            return
        at = _ORDER.index(kind)
        if at <= stage:
            found.reason = f"{kind} stands behind {_ORDER[stage]}"
            return
        if not same_layout(user, found.given["input"], sure):
            found.reason = f"the result of {kind} has another shape, dtype or layout"
            return
        stage, value = at, user
        found.nodes.append(user)
        if kind != DROPOUT or found.dropout:
            found.kinds.append(kind)


def _only_user(value: Node) -> tuple[Node | None, str]:
    """Returns the node that alone uses a value and comes next, or why there is none."""
    users = list(value.users)
    if len(users) != 1:
        return None, f"its result is used {len(users)} times"
    (user,) = users
    if user.op == "output":
        return None, "its result leaves the graph"
    after = value.next
    while after.op == "get_attr" or _counts(after):
        after = after.next
    if after is not user:
        return None, f"{after.name} runs between it and {user.name}"
    return user, ""


def _counts(node: Node) -> bool:
    """Returns True for the count of batches, which batch norms of ours move behind their statistics."""
    counted = example(node.args[0]) if node.op == "call_method" and node.target == "add_" else None
    return counted is not None and counted.dtype == torch.int64 and not counted.dim() and not node.users


def _kind(user: Node, value: Node, found: Found, sure: bool) -> tuple[str, str]:
    """Returns what kind of step a node is, or why it is none."""
    target = user.target
    if user.op not in ("call_function", "call_method"):
        return "", f"{user.name} stands behind it"
    if _is(target, _SUMS):
        return _sum(user, value, sure)
    if _is(target, _RELUS):
        plain = user.args[:1] == (value,) and len(user.all_input_nodes) == 1
        return (RELU, "") if plain else ("", "the ReLU is called in another way")
    if target is F.dropout:
        return _dropout(user, value, found)
    return "", f"{getattr(target, '__name__', target)} stands behind it"


def _is(target: Any, known: Iterable[Any]) -> bool:
    return any(target is one or (isinstance(one, str) and target == one) for one in known)


def _sum(user: Node, value: Node, sure: bool) -> tuple[str, str]:
    if user.kwargs or len(user.args) != 2 or not all(isinstance(arg, Node) for arg in user.args):
        return "", "the addition is no sum of two tensors"
    first, second = user.args
    if first is second:
        return "", "both summands are its result"
    other = second if first is value else first
    assert isinstance(other, Node)
    if not same_layout(other, value, sure):
        return "", "the other summand has another shape, dtype or layout"
    in_place = next(flag for target, flag in _SUMS.items() if _is(user.target, (target,)))
    if in_place and first is not value and not _is_private(other):
        return "", "the addition changes the other summand, which others may see"
    return ADD, ""


def _is_private(node: Node) -> bool:
    """Returns True for a result in memory of its own, which only one node uses."""
    return len(node.users) == 1 and node.op == "call_function" and _is(node.target, _FRESH)


def _dropout(user: Node, value: Node, found: Found) -> tuple[str, str]:
    names = ("input", "p", "training", "inplace")
    given: dict[str, Any] = {
        "p": 0.5,
        "training": True,
        **dict(zip(names, user.args, strict=False)),
        **user.kwargs,
    }
    p, training = given["p"], given["training"]
    if given["input"] is not value or type(p) not in (float, int) or type(training) is not bool:
        return "", "the dropout's arguments are computed"
    if training and p and not found.given["training"]:
        return "", "the dropout drops, the batch norm evaluates"
    found.dropout = float(p) if training else 0.0
    return DROPOUT, ""
