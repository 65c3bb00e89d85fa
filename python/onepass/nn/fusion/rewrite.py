"""Puts chains in the place of their nodes in a graph that runs eagerly."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any, cast

from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from onepass.nn.fusion.chain import INPUTS, Chain, Operation, Options, Slot, own_norm
from onepass.nn.fusion.match import Found, found_in
from onepass.nn.fusion.ours import as_torchs

__all__ = ["Outcome", "fuse_graph", "outcome_of"]

# A batch norm's node, and what became of it.
Outcome = tuple[Node, str, str]
_log = logging.getLogger("onepass.fuse")


def fuse_graph(module: GraphModule) -> list[Outcome]:
    """Fuses the batch norms of a graph with what follows them.

    Args:
        module: A graph of dynamo's, which is changed.

    Returns:
        The nodes of the batch norms, with what became of each and why not more.
    """
    graph = module.graph
    ours = as_torchs(graph)
    outcomes = []
    for number, found in enumerate(found_in(graph)):
        outcomes.append(outcome_of(found))
        if found.kinds or found.norm in ours:
            _replace(graph, found, f"onepass_chain_{number}", ours)
    graph.lint()
    module.recompile()
    return outcomes


def outcome_of(found: Found) -> Outcome:
    """Returns what becomes of a batch norm, in the words of the report."""
    outcome = f"fused with {', '.join(found.kinds)}" if found.kinds else "left"
    _log.debug("%s: %s %s", found.norm.name, outcome, found.reason)
    return found.norm, outcome, "" if found.kinds else found.reason


def _replace(graph: Graph, found: Found, name: str, ours: Collection[Node]) -> None:
    last = found.nodes[-1] if found.nodes else found.norm
    given, is_ours = found.given, found.norm in ours
    inputs: list[Any] = [*(given[name] for name in INPUTS[:-1]), found.residual]
    slots: dict[Node, Slot] = {}
    for at, value in enumerate(inputs):
        if isinstance(value, Node):
            slots.setdefault(value, Slot(at))
    operations = []
    for node in (found.norm, *found.nodes):
        args, kwargs = cast(Any, map_arg)((node.args, node.kwargs), slots.__getitem__)
        target = own_norm if node is found.norm and is_ours else node.target
        operations.append(Operation(node.op == "call_method", target, args, kwargs))
        slots[node] = Slot(len(INPUTS) + len(operations) - 1)
    how = Options(
        given["training"], given["momentum"], given["eps"], found.activation, found.dropout, ours=is_ours
    )
    with graph.inserting_before(last):
        call = graph.call_function(Chain(name, how, operations), tuple(inputs))
        call.meta = dict(last.meta)
    last.replace_all_uses_with(call)
    for node in reversed((found.norm, *found.nodes)):
        graph.erase_node(node)
