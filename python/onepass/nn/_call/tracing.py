"""Makes our modules leaves of torch.fx: a node calls the module, which reads its training flag when it runs.

torch.fx takes only modules of torch.nn's own files as leaves and runs the forward of all others with proxies. So a
forward of ours that meets a proxy records the call itself, under any Tracer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import Proxy
from torch.nn.modules import module as _module

from onepass.nn._call.altered import hooked

__all__ = ["node_for"]

_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")


def node_for(module: nn.Module, *inputs: Any, **options: Any) -> Any:
    """Records the module's call as a node of the graph that is being traced; returns None if nothing is traced.

    Args:
        module: The module whose forward asks.
        inputs: Its first arguments.
        options: The other arguments by name; None, the default, is left out.

    Raises:
        RuntimeError: A node could not compute what the module does: the tracer does not know the module as a part
            of another one, it has hooks (traced already, they would run again), or a forward of its own.
    """
    if torch.compiler.is_compiling():
        return None
    options = {name: value for name, value in options.items() if value is not None}
    proxy = next((value for value in (*inputs, *options.values()) if isinstance(value, Proxy)), None)
    if proxy is None:
        return None
    name, tracer = type(module).__name__, proxy.tracer
    if "forward" in module.__dict__ or not type(module).forward.__module__.startswith("onepass.nn."):
        _refuse(name, "have no forward of its own", f"{type(module).__qualname__}'s")
    if hooked(module) or any(getattr(_module, kind) for kind in _GLOBAL_HOOKS):
        _refuse(name, "have no hooks, which are traced already and would run twice", "some")
    path = tracer.path_of_module(module) if hasattr(tracer, "path_of_module") else ""
    if not path and isinstance(module, nn.CrossEntropyLoss):
        # The loss is the model itself: its function is traced, which depends on no training flag.
        return None
    if not path:
        _refuse(name, "be a part of the module that is traced, as in torch.nn.Sequential(module)", "none")
    return tracer.create_proxy("call_module", path, inputs, options)


def _refuse(name: str, wanted: str, got: str) -> None:
    raise RuntimeError(
        f"{name}: under torch.fx the module must {wanted}, got {got}; onepass.nn.revert(model) makes it torch's, "
        "which needs no forward of ours"
    )
