"""Decides whether a batch norm may run later, where the last step behind it runs."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn
from torch.fx import Graph, Node
from torch.nn.modules import activation, batchnorm, conv, dropout, linear, pooling

__all__ = ["may_move"]

# Modules of these files of torch make their output themselves, and change no other tensor unless in place.
_FILES = {module.__name__ for module in (activation, batchnorm, conv, dropout, linear, pooling)}
# Those that may return their input itself.
_PASSING = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
_FRESH = (F.conv1d, F.conv2d, F.conv3d, F.linear, torch.matmul, torch.cat, operator.matmul)
_PURE = (
    *_FRESH,
    operator.add,
    operator.mul,
    torch.add,
    torch.mul,
    torch.relu,
    torch.flatten,
    getattr,
    operator.getitem,
)
_METHODS = ("size", "dim", "flatten", "view", "reshape", "mean")


def may_move(norm: Node, chain: list[Node], graph: Graph, module_of: Callable[[str], nn.Module]) -> str:
    """Says why a batch norm must not be called where the last node of its chain stands; empty if it may.

    Between the two another node could change the batch norm's input in place, call the same batch norm, or read
    its statistics.

    Args:
        norm: The batch norm's node.
        chain: The nodes behind it that go into its pass.
        graph: Their graph.
        module_of: Gives the module of a name.
    """
    between = list(_between(norm, chain))
    if not between:
        return ""
    module = module_of(str(norm.target))
    for node in graph.nodes:
        if node.op == "get_attr" and str(node.target).startswith(f"{norm.target}."):
            return "the forward reads its parameters or statistics"
    for node in between:
        if node.op == "call_module" and any(one is module for one in module_of(str(node.target)).modules()):
            return "it is called twice"
    (source,) = norm.args
    assert isinstance(source, Node)
    if _is_fresh(source, module_of) and len(source.users) == 1:
        return ""
    for node in between:
        if not _is_pure(node, module_of):
            return f"{node.name} runs before the sum and may change the batch norm's input"
    return ""


def _between(norm: Node, chain: list[Node]) -> Iterator[Node]:
    node = norm.next
    while node is not chain[-1]:
        if node not in chain:
            yield node
        node = node.next


def _is_fresh(node: Node, module_of: Callable[[str], nn.Module]) -> bool:
    """Returns True for a result that shares no memory with another value."""
    if node.op == "call_function":
        return node.target in _FRESH
    if node.op != "call_module":
        return False
    module = module_of(str(node.target))
    return _is_known(module) and not isinstance(module, _PASSING)


def _is_known(module: nn.Module) -> bool:
    kind: type = type(module)
    if kind.__module__.startswith("onepass.nn."):
        kind = next((one for one in kind.__mro__ if one.__module__ in _FILES), kind)
    return kind.__module__ in _FILES and not getattr(module, "inplace", False)


def _is_pure(node: Node, module_of: Callable[[str], nn.Module]) -> bool:
    """Returns True for a node that changes no tensor that the batch norm reads."""
    if node.op == "get_attr":
        return True
    if node.op == "call_function":
        return node.target in _PURE or (node.target is F.relu and not node.kwargs.get("inplace"))
    if node.op == "call_method":
        return node.target in _METHODS
    if node.op != "call_module":
        return False
    module = module_of(str(node.target))
    parts = list(module.modules())
    return all(_is_known(one) or type(one) in (nn.Identity, nn.Sequential) for one in parts)
