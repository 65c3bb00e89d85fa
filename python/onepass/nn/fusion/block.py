"""The classes of modules whose forward has been rewritten: each stands for the class that a module had."""

from __future__ import annotations

import copy
import copyreg
import importlib
import inspect
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.fx import Graph

from onepass.nn.fusion.guards import Guard, hold

__all__ = ["Code", "Recording", "Rewritten", "code_of", "rewritten_class"]


class Code(NamedTuple):
    """Source of a function, and the global names in it: objects, modules by their name."""

    source: str
    names: tuple[tuple[str, bool, Any], ...]


class Recording(NamedTuple):
    """What a forward does for arguments of some kinds, while the guards hold."""

    arguments: tuple[str, ...]
    lists: tuple[bool, ...]
    """Whether each argument has to be a list instead of a tensor."""
    defaults: tuple[tuple[str, Any], ...]
    """The other arguments, with the values that they have to have."""
    evaluation: Code
    training: Code
    guards: tuple[Guard, ...]


class Rewritten(nn.Module):
    """Marks a module of which `fuse` has rewritten the forward."""

    _stands_for: ClassVar[type[nn.Module]]
    _recordings: ClassVar[tuple[Recording, ...]]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles name the class that this one stands for: classes made while running have no name."""
        made = cast(Any, super().__reduce_ex__(max(2, protocol)))
        kind = type(self)
        plain = made[0] is copyreg.__newobj__  # type: ignore[attr-defined]
        if not plain or kind is not rewritten_class(kind._stands_for, kind._recordings):
            return made
        return (_empty, (kind._stands_for, kind._recordings), *made[2:])

    def __prepare_scriptable__(self) -> nn.Module:
        """Gives TorchScript, which compiles source, the module as it was."""
        plain = copy.copy(self)
        plain.__class__ = type(self)._stands_for  # type: ignore[assignment]
        return plain


def _empty(kind: type[nn.Module], recordings: tuple[Recording, ...]) -> nn.Module:
    """Returns what a copy is filled into."""
    made = rewritten_class(kind, recordings)
    return made.__new__(made)


_MADE: dict[Any, type[nn.Module]] = {}


def rewritten_class(kind: type[nn.Module], recordings: tuple[Recording, ...]) -> type[nn.Module]:
    """Returns the one class of the name of `kind` that runs these recordings while they hold."""
    key = (kind, recordings)
    if key not in _MADE:
        names: dict[str, Any] = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
        names |= {"_stands_for": kind, "_recordings": recordings, "forward": _forward_of(kind, recordings)}
        _MADE.setdefault(key, type(kind.__name__, (Rewritten, kind), names))
    return _MADE[key]


def _forward_of(kind: type[nn.Module], recordings: tuple[Recording, ...]) -> Callable[..., Any]:
    original = kind.forward
    signature = inspect.signature(original)
    ready = [(one, _function_of(one.evaluation), _function_of(one.training)) for one in recordings]
    is_compiling = torch.compiler.is_compiling

    @wraps(original)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        # A compiler records the forward itself, and somebody may have put another one in its place.
        if not is_compiling() and kind.forward is original:
            for recording, evaluation, training in ready:
                given = _given(recording, signature, self, args, kwargs)
                if given is not None and hold(self, recording.guards):
                    return (training if self.training else evaluation)(self, *given)
        return kind.forward(self, *args, **kwargs)

    return forward


def _given(
    recording: Recording, signature: inspect.Signature, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...] | None:
    """Returns the recorded arguments of a call; None if the call is of another kind."""
    if kwargs or len(args) != len(recording.arguments):
        try:
            bound = signature.bind(module, *args, **kwargs)
        except TypeError:
            return None
        values = dict(list(bound.arguments.items())[1:])
        for name, default in recording.defaults:
            value = values.pop(name, default)
            if value is not default and (type(value) is not type(default) or value != default):
                return None
        if set(values) != set(recording.arguments):
            return None
        args = tuple(values[name] for name in recording.arguments)
    for value, is_list in zip(args, recording.lists, strict=True):
        if type(value) is not list if is_list else not isinstance(value, Tensor):
            return None
    return args


def code_of(graph: Graph) -> Code:
    """Returns the source of a graph, with the objects that it names."""
    made = graph.python_code("self")
    names = []
    for name, value in sorted(made.globals.items()):
        if isinstance(value, ModuleType):
            names.append((name, True, value.__name__))
        elif name not in ("inf", "nan", "NoneType"):
            names.append((name, False, value))
    return Code(made.src, tuple(names))


_FUNCTIONS: dict[Code, Callable[..., Any]] = {}


def _function_of(code: Code) -> Callable[..., Any]:
    if code not in _FUNCTIONS:
        names = {
            name: importlib.import_module(value) if is_module else value for name, is_module, value in code.names
        }
        names |= {"inf": float("inf"), "nan": float("nan"), "NoneType": type(None)}
        exec(compile(code.source, "<onepass.nn.fuse>", "exec"), names)
        _FUNCTIONS.setdefault(code, cast(Any, names["forward"]))
    return _FUNCTIONS[code]
