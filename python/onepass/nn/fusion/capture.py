"""Records what the forward of one module does, by torch.fx: the calls of its parts, which are not looked into."""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import Graph, Proxy, Tracer
from torch.overrides import TorchFunctionMode

from onepass.nn.fusion.guards import (
    ATTRIBUTE,
    CHILDREN,
    GLOBAL,
    Guard,
    children_of,
    is_simple,
    original_class,
    same_of,
)
from onepass.nn.fusion.purity import ImpureError, Watcher, is_users, watching

__all__ = ["Capture", "Variant", "captured"]

TENSOR, LIST = "tensor", "list"
# What every module has. The flag chooses one of two recordings.
_OF_MODULES = {*nn.Module().__dict__, "forward", "__class__", "__dict__"} - {"training"}


@dataclass
class Variant:
    """Holds what the forward does for arguments of some kinds."""

    kinds: dict[str, str]
    """The arguments that are recorded, and what each of them has to be."""
    defaults: dict[str, Any]
    """The other arguments, and the value that each of them has to have."""
    graphs: tuple[Graph, Graph]
    """The recordings in evaluation and in training."""
    guards: list[Guard] = field(default_factory=list)
    asks_kinds: bool = False


@dataclass
class Capture:
    """Holds what became of a module's forward: a variant or more, or why there is none."""

    variants: list[Variant]
    reason: str = ""


class _AskedError(Exception):
    pass


class _Value(Proxy):
    """A recorded value. Code that asks what an argument is gets the kind that it has to have."""

    _is_param = False

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        kind = type(self)
        # torch.fx asks, too. `isinstance` makes no frame of its own.
        if not is_users(sys._getframe(1).f_code):
            return kind
        node, tracer = self.node, cast(_Recorder, self.tracer)
        if node.op != "placeholder":
            raise _AskedError("asks of what kind a computed value is")
        return list if tracer.kinds[str(node.target)] == LIST else Tensor


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    def record(self: _Value, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return record


# torch.fx records `x += y` as `x = x + y`, which leaves the tensor that x was as it is.
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"):
    setattr(_Value, f"__i{_name}__", _in_place(getattr(operator, f"i{_name}")))


class _Recorder(Tracer):
    """Records one forward; every part of the module is a leaf."""

    def __init__(self, kinds: dict[str, str], defaults: dict[str, Any]) -> None:
        super().__init__()
        self.kinds, self.defaults = kinds, defaults

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return True

    def create_arg(self, value: Any) -> Any:
        return value.node if type(value) is _Value else super().create_arg(value)

    def proxy(self, node: torch.fx.Node) -> Proxy:
        return _Value(node, self)

    def create_args_for_root(self, root: Callable[..., Any], is_module: bool, concrete_args: Any = None) -> Any:
        given = {name: self.create_proxy("placeholder", name, (), {}) for name in self.kinds}
        return (lambda module: root(module, **given)), [self.root]


class _NoOwnTensors(TorchFunctionMode):
    """Notices operations on tensors that the recording would take for constants."""

    def __init__(self, watcher: Watcher) -> None:
        super().__init__()
        self.watcher = watcher

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _has_proxy(args) and not _has_proxy(tuple(kwargs.values())):
            name = getattr(function, "__name__", str(function))
            if name != "__get__" or not args or not isinstance(args[0], nn.Parameter):
                self.watcher.blame(f"calls {name} on no argument of its own")
            else:
                self.watcher.blame("reads what one of its tensors is like")
        return function(*args, **kwargs)


def _has_proxy(values: Any) -> bool:
    return any(type(one) is _Value or (isinstance(one, (tuple, list)) and _has_proxy(one)) for one in values)


def captured(block: nn.Module) -> Capture:
    """Records a module's forward, in evaluation and in training; changes nothing."""
    if "forward" in block.__dict__:
        return Capture([], "its forward is an attribute")
    forward = original_class(block).forward
    try:
        parameters = list(inspect.signature(forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return Capture([], "its forward has no signature")
    kinds: dict[str, str] = {}
    defaults: dict[str, Any] = {}
    for one in parameters:
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            continue
        if one.default is one.empty:
            kinds[one.name] = TENSOR
        elif is_simple(one.default):
            defaults[one.name] = one.default
        else:
            return Capture([], f"its argument {one.name} has a default that can change")
    try:
        first = _variant(block, forward, kinds, defaults)
    except ImpureError as error:
        return Capture([], str(error))
    variants = [first]
    if first.asks_kinds and len(kinds) == 1:
        with suppress(ImpureError):
            variants.append(_variant(block, forward, dict.fromkeys(kinds, LIST), defaults))
    return Capture(variants)


def _variant(block: nn.Module, forward: Any, kinds: dict[str, str], defaults: dict[str, Any]) -> Variant:
    guards: dict[Guard, None] = {}
    asks = False
    graphs = []
    for training in (False, True):
        watcher = Watcher()
        graphs.append(_record(block, forward, kinds, defaults, training, watcher, guards))
        asks = asks or watcher.asks_kinds
    return Variant(dict(kinds), dict(defaults), (graphs[0], graphs[1]), list(guards), asks)


def _record(
    block: nn.Module,
    forward: Any,
    kinds: dict[str, str],
    defaults: dict[str, Any],
    training: bool,
    watcher: Watcher,
    guards: dict[Guard, None],
) -> Graph:
    before, attributes, paths = block.training, set(block.__dict__), {id(m): n for n, m in block.named_modules()}
    own = original_class(block)
    recorder = _Recorder(kinds, defaults)
    recorder.traced_func_name = "forward"
    try:
        object.__setattr__(block, "training", training)
        recorder.root = block
        with _spying(paths, watcher, guards), _NoOwnTensors(watcher), watching(watcher):
            graph = _trace(recorder, block, own)
    except ImpureError:
        raise
    except Exception as error:  # whatever a forward raises that meets values it does not know
        raise ImpureError(watcher.reason or _first_line(error)) from None
    finally:
        object.__setattr__(block, "training", before)
        for name in set(block.__dict__) - attributes:
            del block.__dict__[name]
    if watcher.reason:
        raise ImpureError(watcher.reason)
    for module in watcher.containers:
        if id(module) in paths:
            guards[Guard(CHILDREN, paths[id(module)], "", children_of(module))] = None
    guards[Guard(CHILDREN, "", "", children_of(block))] = None
    guards.update(dict.fromkeys(same_of(block)))
    for variable, value in watcher.globals.items():
        guards[Guard(GLOBAL, "", variable, value)] = None
    return graph


def _trace(recorder: _Recorder, block: nn.Module, kind: type[nn.Module]) -> Graph:
    """Traces the forward of the class that a module had, also if it has been rewritten since."""
    now = block.__class__
    block.__class__ = kind
    try:
        return recorder.trace(block)
    finally:
        block.__class__ = now


def _first_line(error: Exception) -> str:
    if isinstance(error, torch.fx.proxy.TraceError):
        return "its control flow depends on data or on shapes"
    text = str(error).partition("\n")[0]
    return text if isinstance(error, _AskedError) else f"torch.fx: {type(error).__name__}: {text[:80]}"


@contextmanager
def _spying(paths: dict[int, str], watcher: Watcher, guards: dict[Guard, None]) -> Iterator[None]:
    """Notices which attributes of modules are read; torch.fx, too, changes nn.Module while it traces."""

    def read(module: nn.Module, name: str) -> Any:
        value = object.__getattribute__(module, name)
        if name in _OF_MODULES or name.startswith("__") or id(module) not in paths:
            return value
        path = paths[id(module)]
        if name == "training":
            if path:
                watcher.blame(f"reads the training flag of {path}")
        elif isinstance(value, (Tensor, nn.Module)) or inspect.ismethod(value):
            if name in object.__getattribute__(module, "__dict__"):
                watcher.blame(f"reads {name}, which is no registered part")
        elif is_simple(value) or inspect.isfunction(value) or inspect.isbuiltin(value) or inspect.isclass(value):
            guards[Guard(ATTRIBUTE, path, name, value)] = None
        else:
            watcher.blame(f"reads {name}, a {type(value).__name__}, which can change")
        return value

    nn.Module.__getattribute__ = read  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del nn.Module.__getattribute__
