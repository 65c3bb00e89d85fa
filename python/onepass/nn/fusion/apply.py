"""Runs batch norms with what stands behind them in one pass, in a model whose code stays as it is."""

from __future__ import annotations

from typing import Any

from torch import nn

from onepass._arguments import check_module, told
from onepass.nn.fusion.call import INSTALLED, FusedCall
from onepass.nn.fusion.report import Fusion

__all__ = ["fuse"]


def fuse(model: nn.Module, example_inputs: Any = None) -> Fusion:
    """Runs each batch norm and the addition, ReLU and dropout behind it in one pass, wherever the code says so.

    torch's dynamo records the forward in the model's first call, with guards: whatever the recording depends on is
    checked in each call, and a change is recorded again. In the recorded graph a batch norm takes over what stands
    right behind it, if that is proved to be the same. The rest of the graph runs as eager torch; nothing is
    compiled. Numbers are those of the model before, to rounding, but dropouts that are fused draw other masks.

    Args:
        model: Any module. Its class, parameters, buffers, hooks and state dict stay as they are. A copy or a
            pickle of it is the model as it was written; call `fuse` for it again.
        example_inputs: Records the forward in the current mode now, and not in the first call. No operator runs,
            and nothing is changed. A tuple holds the forward's arguments, a dict those by name; anything else is
            its one argument. With None the first call records.

    Returns:
        A table of the batch norms, with ``revert()``; ``print`` shows it. `onepass.nn.revert` does without it.

    Raises:
        TypeError: model is no module.
        ValueError: The model has been compiled or fused already.
        RuntimeError: torch is older than 2.13: the guards of older ones were not tested.

    Source: none; torch.compile does the same for whole graphs, with a compiler.

    Example:
        >>> import torch
        >>> from onepass.nn import fuse
        >>> class Block(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear, self.norm = torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)
        ...
        ...     def forward(self, x):
        ...         return torch.relu(self.norm(self.linear(x)) + x)
        >>> model = Block()
        >>> print(fuse(model, torch.randn(4, 3)))
        norm  BatchNorm1d  fused with add, ReLU
    """
    check_module("fuse", "model", model)
    if model._compiled_call_impl is not None:
        got = told(model._compiled_call_impl)
        what = "fused" if isinstance(model._compiled_call_impl, FusedCall) else "compiled"
        raise ValueError(f"fuse: model must not be {what} already, got {got}; revert it first")
    fusion = Fusion(_model=model)
    call = FusedCall(model, fusion._note)
    setattr(model, INSTALLED, call)
    if example_inputs is not None:
        args, kwargs = _arguments(example_inputs)
        fusion._reason = call.record(args, kwargs)
    return fusion


def _arguments(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(given, dict):
        return (), given
    return (given if isinstance(given, tuple) else (given,)), {}
