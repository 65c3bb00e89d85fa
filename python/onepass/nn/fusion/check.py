"""Runs a model with example inputs and compares what it returned before and after a change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from onepass._arguments import told

__all__ = ["Call", "as_call", "difference", "outputs_of"]


class Call(NamedTuple):
    """Arguments of a model."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def as_call(function: str, inputs: Any) -> Call:
    """Returns example inputs as arguments; raises TypeError where they are of another kind."""
    if isinstance(inputs, Tensor):
        return Call((inputs,), {})
    if isinstance(inputs, (tuple, list)):
        return Call(tuple(inputs), {})
    if isinstance(inputs, Mapping):
        return Call((), dict(inputs))
    raise TypeError(
        f"{function}: example_inputs must be a tensor, a tuple of arguments, a dict of them by name or None, "
        f"got {told(inputs)}"
    )


def outputs_of(model: nn.Module, call: Call) -> list[Any]:
    """Runs a model in evaluation and in training, without gradients, and leaves it as it was.

    Returns:
        The outputs and the buffers behind each run.
    """
    flags = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    found: list[Any] = []
    try:
        with torch.no_grad():
            for training in (False, True):
                model.train(training)
                with torch.random.fork_rng():
                    torch.manual_seed(0)
                    leaves = _pytree.tree_leaves(model(*call.args, **call.kwargs))
                found += [leaf.detach().clone() for leaf in leaves if isinstance(leaf, Tensor)]
                found += [buffer.detach().clone() for buffer, _ in buffers]
    finally:
        for module, flag in flags:
            module.training = flag
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    return found


def difference(before: list[Any], after: list[Any]) -> str:
    """Says how far the results of two runs are apart; empty where roundings explain it.

    The limit is the fourth root of the dtype's epsilon, relative and by norm. That is far more than roundings come
    to, also after many layers in training, and far less than an addition or a ReLU that is missing.
    """
    if len(before) != len(after):
        return f"{len(after)} results instead of {len(before)}"
    for old, new in zip(before, after, strict=True):
        if old.shape != new.shape or old.dtype != new.dtype:
            return f"a result of {new.dtype} {list(new.shape)} instead of {old.dtype} {list(old.shape)}"
        limit = torch.finfo(old.dtype).eps ** 0.25 if old.is_floating_point() else 0.0
        wide, other = old.double().nan_to_num(), new.double().nan_to_num()
        distance, size = float((wide - other).norm()), float(wide.norm())
        if distance > limit * size:
            return f"a result of {old.dtype} {list(old.shape)} that is {distance / max(size, 1e-300):.2g} away"
    return ""
