"""The backend "onepass" of torch.compile: batch norms are fused with what follows them, Inductor does the rest.

Python finds it by the entry point of the group torch_dynamo_backends in pyproject.toml.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from onepass.nn.batch_norm._call import normalise
from onepass.nn.batch_norm._kernels import Running
from onepass.nn.fusion.chain import ADD, DROPOUT, IDENTITY, RELU
from onepass.nn.fusion.match import Found, behind, in_place
from onepass.nn.fusion.rewrite import settle
from onepass.nn.fusion.worth import why_not_worth

__all__ = ["backend", "rewrite"]

# Says of each batch norm in a graph what became of it, at the level INFO.
_log = logging.getLogger("onepass.compile")
_NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_DEFAULTS = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}
_FRESH = (F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.linear)
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Positions in our operator's arguments and results.
_OPERATOR = (
    "input", "weight", "bias", "residual", "running_mean", "running_var", "batches", "seed", "training",
    "momentum", "eps", "activation", "dropout",
)  # fmt: skip
_OUTPUT, _NEW_MEAN, _NEW_VAR = 0, 4, 5


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


def rewrite(module: GraphModule) -> list[tuple[str, str]]:
    """Fuses the batch norms of a graph with what follows them, where that is right and worth it.

    Batch norms of ours become torch's first, so that whatever is not worth it is Inductor's to compile.

    Args:
        module: A graph of dynamo's, which is changed.

    Returns:
        A name of each batch norm, and what became of it.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and _is_ours(node):
            _as_torchs(graph, node)
    norms = [node for node in graph.nodes if node.op == "call_function" and node.target is F.batch_norm]
    result = []
    for one in settle([_checked(behind(node, _no_module)) for node in norms]):
        words = [step.kind for step in one.steps if step.kind != IDENTITY]
        outcome = f"fused with {', '.join(words)}" if words else f"left to Inductor: {one.reason}"
        result.append((_place(one.norm), outcome))
        _log.info("%s %s", *result[-1])
        if words:
            _replace(graph, one)
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


def _no_module(name: str) -> torch.nn.Module:
    # Dynamo of torch 2.4 calls torch's modules by name; none of them is a step then.
    return torch.nn.Module()


def _is_ours(node: Node) -> bool:
    return getattr(node.target, "_qualified_op_name", str(node.target)).removesuffix(".default") in (
        "onepass::batch_norm",
        "onepass.batch_norm",
    )


def _as_torchs(graph: Graph, node: Node) -> None:
    """Puts torch's batch norm in the place of our operator, if it does nothing that torch's does not."""
    given = dict(zip(_OPERATOR, node.args, strict=False)) | node.kwargs
    if any(given.get(name) is not None for name in ("residual", "batches", "seed", "activation")):
        return
    if given.get("dropout") or given.get("momentum") is None:
        return
    parts: dict[int, list[Node]] = {}
    for user in node.users:
        if getattr(user.target, "__name__", "") != "getitem":
            return
        parts.setdefault(cast(int, user.args[1]), []).append(user)
    copies = []
    for at, name in ((_NEW_MEAN, "running_mean"), (_NEW_VAR, "running_var")):
        for value in parts.pop(at, []):
            for user in value.users:
                if user.op != "call_method" or user.target != "copy_" or user.args != (given[name], value):
                    return
                copies.append(user)
            copies.append(value)
    outputs = parts.pop(_OUTPUT, [])
    if parts or not outputs or any(copy.users and copy.op == "call_method" for copy in copies):
        return
    with graph.inserting_before(node):
        call = graph.call_function(F.batch_norm, tuple(given[name] for name in _NAMES))
        call.meta = dict(outputs[0].meta)
    for output in outputs:
        output.replace_all_uses_with(call)
    for old in (*outputs, *sorted(copies, key=lambda one: one.op != "call_method"), node):
        graph.erase_node(old)


def _checked(found: Found) -> Found:
    """Takes away the steps that would be wrong, or all of them where they are not worth it."""
    norm = found.norm
    given = _given(norm)
    if found.steps:
        reason = _why_unsafe(norm, found, given)
        if reason:
            found = Found(norm, found.steps[: in_place(norm, found.steps)], reason)
    for at, step in enumerate(found.steps):
        if step.kind == ADD and not _same_kind(step.what, given["input"]):
            found = Found(norm, found.steps[:at], "the other summand has another shape or dtype")
            break
    input = _example(given["input"])
    if found.steps:
        kinds = {step.kind for step in found.steps if step.kind != DROPOUT or step.what}
        reason = _why_unfit(given, input) or why_not_worth(kinds)
        if reason:
            return Found(norm, [], reason)
    return found


def _given(norm: Node) -> dict[str, Any]:
    return {**_DEFAULTS, **dict(zip(_NAMES, norm.args, strict=False)), **norm.kwargs}


def _why_unsafe(norm: Node, found: Found, given: dict[str, Any]) -> str:
    """Says why the batch norm must not be called where the last step is; empty if it may."""
    if in_place(norm, found.steps) == len(found.steps):
        return ""
    source = given["input"]
    if source.op != "call_function" or source.target not in _FRESH or len(source.users) != 1:
        return "what runs before the sum may change the batch norm's input"
    for name in ("running_mean", "running_var"):
        if given[name] is not None and len(given[name].users) != 1:
            return "its statistics are used by something else, too"
    return ""


def _example(node: Any) -> Tensor | None:
    """Returns the tensor without memory that dynamo ran the graph with."""
    value = node.meta.get("example_value") if isinstance(node, Node) else None
    return value if isinstance(value, Tensor) else None


def _why_unfit(given: dict[str, Any], input: Tensor | None) -> str:
    """Says what of a call our operator does not take; empty if it takes it."""
    if input is None or input.device.type != "cpu":
        return "it is not on the CPU, where ours was measured"
    if input.dtype not in _DTYPES or input.dim() < 2 or not isinstance(given["training"], bool):
        return "its input is of another kind"
    if not isinstance(given["momentum"], float) or not isinstance(given["eps"], float) or given["eps"] <= 0:
        return "its momentum or eps is no number, or eps is 0"
    wanted = {input.dtype} if input.dtype.itemsize > 2 else {input.dtype, torch.float32}
    vectors = [_example(given[name]) for name in ("weight", "bias", "running_mean", "running_var")]
    kinds = {vector.dtype for vector in vectors if vector is not None}
    return "" if len(kinds) <= 1 and kinds <= wanted else "its parameters have another dtype"


def _same_kind(other: Any, input: Any) -> bool:
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    one, two = _example(other), _example(input)
    return (
        one is not None
        and two is not None
        and one.dtype == two.dtype
        and one.device == two.device
        and one.dim() == two.dim()
        and all(statically_known_true(a == b) for a, b in zip(one.shape, two.shape, strict=True))
    )


def _place(norm: Node) -> str:
    """Returns the name of the module that a node comes from."""
    stack = list(norm.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]).removeprefix("L['self'].") if stack else norm.name


def _replace(graph: Graph, found: Found) -> None:
    given, value = _given(found.norm), found.norm
    residual, activation, dropout = None, None, 0.0
    for step in found.steps:
        if step.kind == ADD:
            first, second = step.node.args
            residual = second if first is value else first
        elif step.kind == RELU:
            activation = "relu"
        elif step.kind == DROPOUT:
            dropout = step.what
        value = step.node
    options = (given["training"], given["momentum"], given["eps"], activation, dropout)
    tensors = (*(given[name] for name in _NAMES[:5]), residual)
    with graph.inserting_before(value):
        call = graph.call_function(fused_batch_norm, (*tensors, *options))
        call.meta = dict(value.meta)
    value.replace_all_uses_with(call)
    for step in reversed(found.steps):
        graph.erase_node(step.node)
    graph.erase_node(found.norm)
