"""Stands in a module's call: dynamo records and guards the forward, and its graph runs with chains in it."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from itertools import count
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F
from torch.nn.modules import module as torchs

from onepass.nn._call.dispatch import is_transformed
from onepass.nn._call.exporting import asked
from onepass.nn.fusion.chain import has_saving_hooks
from onepass.nn.fusion.rewrite import Outcome, fuse_graph
from onepass.nn.fusion.watch import Watch, why_unguarded

__all__ = ["INSTALLED", "REBUILDS", "FusedCall", "take_away"]

# Where torch.nn.Module looks for what is called in place of its forward and hooks.
INSTALLED = "_compiled_call_impl"

# Settings of dynamo's that make it guard what it takes for granted by default: hooks that are put on a part later,
# parameters that become the same tensor, a parameter's flags, a function's defaults, FSDP's modules. An assertion
# on a tensor raises what the forward says.
_STRICT = {
    "guard_nn_modules": True,
    "skip_nnmodule_hook_guards": False,
    "skip_no_tensor_aliasing_guards_on_parameters": False,
    "skip_tensor_guards_with_matching_dict_tags": False,
    "guard_nn_modules_using_dict_tags": False,
    "skip_guards_on_constant_func_defaults": False,
    "assume_dunder_attributes_remain_unchanged": False,
    "use_recursive_dict_tags_for_guards": False,
    "skip_fsdp_guards": False,
    "rewrite_assert_with_torch_assert": False,
    # What dynamo cannot record runs as it was written.
    "suppress_errors": True,
    "recompile_limit": 32,
}
# What a graph's functions call when they run, and a chain does not.
_CALLED = (
    *((torch, name) for name in ("relu", "relu_", "batch_norm", "dropout", "dropout_", "add")),
    *((Tensor, name) for name in ("add", "add_", "__add__", "__iadd__", "relu", "relu_")),
    *((F, name) for name in ("batch_norm", "relu", "relu_", "dropout")),
)
_FUNCTIONS = [getattr(owner, name) for owner, name in _CALLED]
# How often a model is recorded again because a class has changed.
REBUILDS = 4
_numbers = count()
_len_modes = torch._C._len_torch_dispatch_stack
_is_traced = torch._C._get_tracing_state
_WATCHED = tuple(
    getattr(torchs, name)
    for name in (
        "_global_forward_hooks",
        "_global_forward_pre_hooks",
        "_global_backward_hooks",
        "_global_backward_pre_hooks",
    )
)


class NotRunError(BaseException):
    """Ends a recording before the first operator runs; no `except Exception` of a forward catches it."""


def _strict_guards() -> Callable[[], Callable[[], None]]:
    """Returns what switches dynamo's strict guards on in this thread, and returns what takes that back.

    Raises:
        RuntimeError: This torch has other settings.
    """
    from torch._dynamo import config

    missing = [name for name in _STRICT if not hasattr(config, name)]
    if missing or not hasattr(config, "_make_closure_patcher"):
        what = f"no setting {missing[0]} of dynamo" if missing else "no thread-local settings"
        raise RuntimeError(f"fuse: torch must be 2.13 or later, got {torch.__version__} with {what}")
    made: Callable[[], Callable[[], None]] = config._make_closure_patcher(**_STRICT)
    return made


class FusedCall:
    """Calls a module through dynamo; torch.nn.Module keeps it where `Module.compile` keeps what it makes.

    Copies and pickles of the module do not have it: they are the module as it was written.

    Args:
        module: What is called.
        note: Takes the outcomes of each recorded graph.
    """

    def __init__(self, module: nn.Module, note: Callable[[list[Outcome]], None]) -> None:
        self._module = weakref.ref(module)
        self._note = note
        self._strict = _strict_guards()
        self._is_lazy = True
        self._changes = 0
        self._dry = False
        self.rebuilds = 0
        self.left = ""
        """Why the module runs as it was written; empty if it does not."""
        self._start()

    def __reduce__(self) -> tuple[Any, ...]:
        """A module that pickles or copies all its attributes gets None, as if it had never been fused."""
        return type(None), ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the forward with its hooks, from the module's own ``__call__``."""
        module = self._module()
        if torch.compiler.is_compiling():
            # Whoever records the model around this sees the forward as it was written.
            return _plainly(module, args, kwargs)
        # A shallow copy of the module, such as a replica, brings this along.
        caller = sys._getframe(1).f_locals.get("self")
        if caller is not module and isinstance(caller, nn.Module):
            return _plainly(caller, args, kwargs)
        assert module is not None
        if self.left or not self._may_run(args):
            return _plainly(module, args, kwargs)
        restore = self._strict()
        try:
            return self._run(module, args, kwargs)
        finally:
            restore()
            if self._codes:
                self._watch.add(module, self._codes)
                self._codes.clear()

    def record(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Records the forward without running an operator; says what keeps it from being one graph, or "".

        Args:
            args: The forward's arguments.
            kwargs: Those that are given by name.
        """
        module = self._module()
        assert module is not None
        if self.left or not self._may_run(args):
            return self.left or "its arguments, hooks or lazy parameters are not for dynamo"
        whole = torch.compile(self._function, backend=self._backend, fullgraph=True)
        self._dry, restore = True, self._strict()
        try:
            whole(module, args, kwargs)
        except NotRunError:
            return ""
        except torch._dynamo.exc.TorchDynamoException as error:
            return str(error).strip().partition("\n")[0]
        finally:
            restore()
            self._dry = False
            self._watch.add(module, self._codes)
            self._codes.clear()
        return "it calls no operator"

    def _start(self) -> None:
        """Forgets all recordings: dynamo keeps them by a function's code and a backend, and both are new then."""
        self._codes: list[CodeType] = []
        self._watch = Watch()
        module = self._module()
        assert module is not None
        self._watch.add(module, ())
        # By the name dynamo remembers, too, which sizes have changed in former calls.
        code = _call_of.__code__.replace(co_name=f"fused_{type(module).__name__}_{next(_numbers)}")
        self._function = FunctionType(code, globals())
        self._backend = self._new_backend()
        self._run = torch.compile(self._function, backend=self._backend)

    def _new_backend(self) -> Callable[[GraphModule, Sequence[Any]], Callable[..., Any]]:
        def onepass_fuse(graph: GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
            return self._compile(graph)

        return onepass_fuse

    def _compile(self, graph: GraphModule) -> Callable[..., Any]:
        """Takes a graph of dynamo's, and returns what runs in its place."""
        codes = list(torch._guards.TracingContext.get_traced_code() or ())
        self._codes += codes
        self.left = self.left or why_unguarded(codes) or _why_not_eager(graph)
        if self.left:
            raise torch._dynamo.exc.SkipFrame(f"onepass.nn.fuse: {self.left}")
        self._note(fuse_graph(graph))
        forward = graph.forward

        def run(*inputs: Any) -> Any:
            if self._dry:
                raise NotRunError
            return forward(*inputs)

        return run

    def _may_run(self, args: tuple[Any, ...]) -> bool:
        """Returns False where the forward must run as it was written, in this call."""
        if (
            _len_modes()
            or is_transformed()
            or _is_traced() is not None
            or asked._is_exporting_flag
            or torch.compiler.is_compiling()
            or torch.fx._symbolic_trace.is_fx_symbolic_tracing()
            or has_saving_hooks()
            or any(_WATCHED)
            or any(getattr(owner, name) is not was for (owner, name), was in zip(_CALLED, _FUNCTIONS, strict=True))
        ):
            return False
        for one in args:
            if isinstance(one, Tensor) and type(one) is not Tensor and type(one) is not nn.Parameter:
                return False
        if self._is_lazy:
            module = self._module()
            assert module is not None
            self._is_lazy = any(map(nn.parameter.is_lazy, (*module.parameters(), *module.buffers())))
            if self._is_lazy:
                return False
        return not self._watch.has_changed() or self._starts_again()

    def _starts_again(self) -> bool:
        """Records again if a class stays changed; what torch.fx and others patch for one call is not recorded."""
        self._changes += 1
        if self._changes % 2:
            return False
        if self.rebuilds == REBUILDS:
            self.left = "its classes change again and again"
            return False
        self.rebuilds += 1
        self._start()
        return True


def take_away(module: nn.Module) -> bool:
    """Removes what `fuse` has put into a module's call; returns True if there was something."""
    if not isinstance(module.__dict__.get(INSTALLED), FusedCall):
        return False
    del module.__dict__[INSTALLED]
    return True


def _call_of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Is what dynamo records, under a copy of this code for each module."""
    return module._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]


def _plainly(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Calls a module as if it had not been fused."""
    return module._call_impl(*args, **kwargs)


def _why_not_eager(module: GraphModule) -> str:
    """Says which node does not do by itself what it does in the forward; empty if each does."""
    for node in module.graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            return f"the forward holds {node.target}, such as an activation checkpoint or a control flow"
    return ""
