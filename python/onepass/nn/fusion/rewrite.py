"""Puts the chains of a module's graph in the place of their nodes, also where they begin within its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import Graph, Node

from onepass.nn.fusion.capture import Capture, Variant
from onepass.nn.fusion.chain import ADD, IDENTITY
from onepass.nn.fusion.guards import CHILDREN, INLINED, Guard, children_of, original_class, under
from onepass.nn.fusion.match import Found, found_in, is_norm, is_step
from onepass.nn.sequential import runs_in_turn

__all__ = ["Tails", "in_turn", "inline_tails", "replace", "settle"]

_Capture = Callable[[nn.Module], Capture]


def in_turn(container: nn.Sequential) -> Variant:
    """Returns the recording of an nn.Sequential that runs its modules in turn."""
    graphs = []
    for _ in range(2):
        graph = Graph()
        value = graph.placeholder("input")
        for name in container._modules:
            value = graph.call_module(name, (value,))
        graph.output(value)
        graphs.append(graph)
    guard = Guard(CHILDREN, "", "", children_of(container))
    return Variant({"input": "tensor"}, {}, (graphs[0], graphs[1]), [guard])


@dataclass
class Tails:
    """Knows which modules end in a batch norm, whose pass may take what stands behind the module."""

    capture: _Capture

    def of(self, module: nn.Module, training: bool) -> Variant | None:
        """Returns the recording of a module that ends in a batch norm; None for any other."""
        variant = self._recorded(module)
        if variant is None:
            return None
        last = _result(variant.graphs[training])
        while last is not None and last.op == "call_module" and len(last.users) == 1:
            part = module.get_submodule(str(last.target))
            if is_norm(part):
                return variant
            if type(part) is not nn.Identity:
                return variant if len(last.args) == 1 and self.of(part, training) is not None else None
            last = last.args[0] if isinstance(last.args[0], Node) else None
        return None

    def _recorded(self, module: nn.Module) -> Variant | None:
        if isinstance(module, nn.Sequential):
            return in_turn(module) if runs_in_turn(module) and len(module) else None
        if type(module).__module__.startswith("torch.nn.") or not any(map(is_norm, module.modules())):
            return None
        variants = self.capture(module).variants
        plain = bool(variants) and len(variants[0].kinds) == 1 and not variants[0].asks_kinds
        return variants[0] if plain else None


def inline_tails(block: nn.Module, variant: Variant, training: bool, tails: Tails) -> None:
    """Writes the calls of parts that end in a batch norm into the graph, where a step stands behind them."""
    graph = variant.graphs[training]
    again = True
    while again:
        again = False
        claimed = {step.node for found in settle(found_in(graph, block.get_submodule)) for step in found.steps}
        for node in list(graph.nodes):
            if node.op != "call_module" or len(node.args) != 1 or node.kwargs or len(node.users) != 1:
                continue
            part = block.get_submodule(str(node.target))
            if is_norm(part) or not is_step(node, block.get_submodule) or next(iter(node.users)) in claimed:
                continue
            inner = tails.of(part, training)
            if inner is not None:
                _inline(graph, node, inner.graphs[training])
                kept = [Guard(INLINED, "", "", original_class(part)), *inner.guards]
                variant.guards += [one for one in under(str(node.target), kept) if one not in variant.guards]
                again = True
                break


def _inline(graph: Graph, call: Node, inner: Graph) -> None:
    values: dict[Node, Any] = {}
    with graph.inserting_before(call):
        for node in inner.nodes:
            if node.op == "placeholder":
                values[node] = call.args[0]
            elif node.op != "output":
                copied = graph.node_copy(node, values.__getitem__)
                if node.op in ("call_module", "get_attr"):
                    copied.target = f"{call.target}.{node.target}"
                values[node] = copied
    result = _result(inner)
    assert result is not None
    call.replace_all_uses_with(values[result])
    graph.erase_node(call)


def _result(graph: Graph) -> Node | None:
    output = next(reversed(graph.nodes))
    return output.args[0] if isinstance(output.args[0], Node) else None


def settle(found: list[Found]) -> list[Found]:
    """Gives a sum of two batch norms to the later one of them."""
    claimed: set[Node] = set()
    for one in reversed(found):
        for at, step in enumerate(one.steps):
            if step.node in claimed:
                one.steps, one.reason = one.steps[:at], "the sum runs in the pass of its other summand"
                break
        while one.steps and one.steps[-1].kind == IDENTITY:
            one.steps.pop()
        claimed.update(step.node for step in one.steps)
    return found


def replace(graph: Graph, found: list[Found], chain: Callable[..., Any]) -> None:
    """Replaces each batch norm and its steps by one call of `chain`."""
    for one in found:
        if not one.steps:
            continue
        last = one.steps[-1].node
        with graph.inserting_before(last):
            value, steps = one.norm, []
            for step in one.steps:
                what = step.what
                if step.kind == ADD:
                    # What a chain that was replaced before returned has another node now.
                    first, second = step.node.args
                    what = second if first is value else first
                elif step.is_module:
                    what = graph.create_node("get_attr", str(step.what))
                steps.append((step.kind, what))
                value = step.node
            norm = graph.create_node("get_attr", str(one.norm.target))
            call = graph.call_function(chain, (norm, one.norm.args[0], *steps))
        last.replace_all_uses_with(call)
        for step in reversed(one.steps):
            graph.erase_node(step.node)
        graph.erase_node(one.norm)
