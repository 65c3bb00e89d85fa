"""The backend "onepass" of torch.compile: batch norms are fused with what follows them, Inductor does the rest.

Python finds it by the entry point of the group torch_dynamo_backends in pyproject.toml.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from onepass.nn.batch_norm._call import normalise
from onepass.nn.batch_norm._kernels import Running
from onepass.nn.fusion.match import DROPOUT, Found, example, found_in
from onepass.nn.fusion.ours import as_torchs
from onepass.nn.fusion.rewrite import outcome_of

__all__ = ["backend", "rewrite"]

# Says of each batch norm in a graph what became of it, at the level INFO.
_log = logging.getLogger("onepass.compile")
_VECTORS = ("running_mean", "running_var", "weight", "bias")


def backend(module: GraphModule, example_inputs: Sequence[Any], **options: Any) -> Any:
    """Rewrites a graph of dynamo's and compiles it with Inductor; ``torch.compile(model, backend="onepass")``.

    Args:
        module: The graph, before autograd has seen it.
        example_inputs: Its inputs.
        options: Those of Inductor.

    Returns:
        What Inductor returns.
    """
    from torch._inductor.compile_fx import compile_fx

    rewrite(module)
    return compile_fx(module, cast(Any, example_inputs), **options)


def rewrite(module: GraphModule, why_not_worth: Callable[[Found], str] | None = None) -> list[tuple[str, str]]:
    """Fuses the batch norms of a graph with what follows them, where that is right and worth it.

    Batch norms of ours become torch's first, so that whatever is not worth it is Inductor's to compile.

    Args:
        module: A graph of dynamo's, which is changed.
        why_not_worth: Says why a batch norm is Inductor's; None for what was measured.

    Returns:
        A name of each batch norm, and what became of it.
    """
    graph = module.graph
    as_torchs(graph)
    result = []
    for found in found_in(graph, sure=True):
        reason = _why_unsafe(graph, found) or (why_not_worth or _why_not_worth)(found)
        if found.kinds and reason:
            found.cut(reason)
        _, outcome, note = outcome_of(found)
        result.append((_place(found.norm), outcome if found.kinds else f"left to Inductor: {note}"))
        _log.info("%s %s", *result[-1])
        if found.kinds:
            _replace(graph, found)
    graph.lint()
    module.recompile()
    return result


def fused_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    activation: str | None,
    dropout: float,
) -> Tensor:
    """Stands in the graph in place of a batch norm and the steps behind it."""
    # An operator draws the seed when the graph runs; a tensor would be drawn once, while it is compiled.
    seed = torch.ops.onepass.draw_seed(input) if dropout else None
    running = Running(running_mean, running_var, None)
    return normalise(
        input, running, weight, bias, residual, training, momentum, eps, activation, dropout, seed=seed
    )


def _why_not_worth(found: Found) -> str:
    """Says why a batch norm is Inductor's to compile; empty where ours was measured to be faster.

    Inductor makes one loop of torch's batch norm, the steps and what stands around them. An operator of ours is a
    border that no loop crosses, and its call takes longer than that of a loop. A dropout turns it: Inductor
    draws a random number for each element, which takes longer than all the rest.
    """
    return "" if DROPOUT in found.kinds else "Inductor is faster without a dropout"


def _why_unsafe(graph: Graph, found: Found) -> str:
    """Says where a tensor that the pass reads may lie in the memory of the statistics; empty if none may.

    The operators would read what was moved. Dynamo knows of no memory that two inputs share, so what the pass
    reads must have been made in the graph, or the statistics do not move.
    """
    given = found.given
    if not given["training"] or given["running_mean"] is None:
        return ""
    roots = _inputs_below(graph)
    for node in (given["input"], found.residual):
        if node is not None and not (node.op == "call_function" and _memory(node) not in roots):
            return "what it reads was not made in this graph: it may share memory with the statistics"
    vectors = [given[name] for name in _VECTORS if given[name] is not None]
    plain = all(node.op == "placeholder" and _owns(node) for node in vectors)
    return "" if plain and len(set(vectors)) == len(vectors) else "its parameters may share memory"


def _inputs_below(graph: Graph) -> set[int]:
    """Returns the memory of the graph's inputs and constants."""
    return {_memory(node) for node in graph.nodes if node.op in ("placeholder", "get_attr")} - {0}


def _memory(node: Node) -> int:
    value = example(node)
    return 0 if value is None else value.untyped_storage()._cdata


def _owns(node: Node) -> bool:
    """Returns True for a parameter or buffer that fills its own memory."""
    value = example(node)
    return value is not None and value.storage_offset() == 0 and value.untyped_storage().nbytes() == value.nbytes


def _place(norm: Node) -> str:
    """Returns the name of the module that a node comes from."""
    stack = list(norm.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]).removeprefix("L['self'].") if stack else norm.name


def _replace(graph: Graph, found: Found) -> None:
    given, last = found.given, found.nodes[-1]
    options = (given["training"], given["momentum"], given["eps"], found.activation, found.dropout)
    tensors = (given["input"], *(given[name] for name in _VECTORS), found.residual)
    with graph.inserting_before(last):
        call = graph.call_function(fused_batch_norm, (*tensors, *options))
        call.meta = dict(last.meta)
    last.replace_all_uses_with(call)
    for node in reversed((found.norm, *found.nodes)):
        graph.erase_node(node)
