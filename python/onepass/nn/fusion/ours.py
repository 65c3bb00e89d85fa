"""Puts torch's batch norm in the place of our operator in a graph, so that steps behind it can be found."""

from __future__ import annotations

from typing import Any, cast

from torch.fx import Graph, Node

from onepass.nn.fusion.match import NORM

__all__ = ["as_torchs"]

# Positions in our operator's arguments and results.
_OPERATOR = (
    "input", "weight", "bias", "residual", "running_mean", "running_var", "batches", "seed", "training",
    "momentum", "eps", "activation", "dropout",
)  # fmt: skip
_NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_OUTPUT, _NEW_MEAN, _NEW_VAR = 0, 4, 5


def as_torchs(graph: Graph) -> list[Node]:
    """Replaces our batch norms in a graph that do no more than torch's.

    Our operator returns new running statistics, which the graph copies to where they belong. The nodes that do so
    must follow the operator, with nothing but the count of batches between them.

    Args:
        graph: Dynamo's graph.

    Returns:
        The nodes of torch's batch norm that were put in.
    """
    nodes = [node for node in graph.nodes if node.op == "call_function" and _is_ours(node)]
    return [made for node in nodes if (made := _replaced(graph, node)) is not None]


def _is_ours(node: Node) -> bool:
    name = getattr(node.target, "_qualified_op_name", str(node.target))
    return name.removesuffix(".default") in ("onepass::batch_norm", "onepass.batch_norm")


def _replaced(graph: Graph, node: Node) -> Node | None:
    given = dict(zip(_OPERATOR, node.args, strict=False)) | node.kwargs
    if any(given.get(name) is not None for name in ("residual", "batches", "seed", "activation")):
        return None
    if given.get("dropout") or given.get("momentum") is None:
        return None
    parts = _parts(node, given)
    if parts is None or not _follow_each_other(node, [one for many in parts for one in many]):
        return None
    outputs, copies, values = parts
    with graph.inserting_before(node):
        call = graph.call_function(NORM, tuple(given[name] for name in _NAMES))
        call.meta = {**outputs[0].meta, "nn_module_stack": node.meta.get("nn_module_stack", {})}
    for output in outputs:
        output.replace_all_uses_with(call)
    for old in (*outputs, *copies, *values, node):
        graph.erase_node(old)
    return call


def _parts(node: Node, given: dict[str, Any]) -> tuple[list[Node], list[Node], list[Node]] | None:
    """Returns the nodes that take the output, copy new statistics, and hold them; None if others use them."""
    outputs, copies, values = [], [], []
    for user in node.users:
        if getattr(user.target, "__name__", "") != "getitem":
            return None
        at = cast(int, user.args[1])
        if at == _OUTPUT:
            outputs.append(user)
            continue
        name = {_NEW_MEAN: "running_mean", _NEW_VAR: "running_var"}.get(at)
        if name is None:
            return None
        values.append(user)
        for copy in user.users:
            if copy.op != "call_method" or copy.target != "copy_" or copy.args != (given[name], user):
                return None
            if copy.users or copy.kwargs:
                return None
            copies.append(copy)
    # Both statistics move in training, as torch's do, or none.
    if len(outputs) != 1 or len(copies) not in (0, 2):
        return None
    moves = given["training"] and given["running_mean"] is not None
    return (outputs, copies, values) if moves == (len(copies) == 2) else None


def _follow_each_other(node: Node, parts: list[Node]) -> bool:
    missing, after = set(parts), node.next
    while missing:
        if after not in missing:
            return False
        missing.discard(after)
        after = after.next
    return True
