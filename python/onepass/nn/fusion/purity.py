"""Decides from code and calls whether a recorded forward pass is all that a forward does.

A recording holds the calls on tensors. Whatever else code does is lost, or is frozen as it was: a context manager,
an attribute that is set, a global variable, a random number of Python's, the state of torch's switches.
"""

from __future__ import annotations

import builtins
import dis
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any

import torch
from torch import nn

__all__ = ["ImpureError", "Watcher", "is_users", "watching"]

_TORCH = str(Path(torch.__file__).parent) + os.sep
_PYTHON = str(Path(dis.__file__).parent) + os.sep
_OURS = str(Path(__file__).parent) + os.sep
# Files of torch that code may call: they record, or call nothing that a recording lacks.
_HARMLESS = (
    "fx/",
    "functional.py",
    "_jit_internal.py",
    "_VF.py",
    "_tensor.py",
    "overrides.py",
    "nn/functional.py",
)
_CONTAINER = "nn/modules/container.py"
_MODULE = "nn/modules/module.py"
_MODULES = {"math", "operator", "torch", "typing"}
_BUILTINS = {
    "abs", "all", "any", "bool", "dict", "enumerate", "float", "int", "isinstance", "len", "list", "map", "max",
    "min", "range", "reversed", "round", "sorted", "str", "sum", "super", "tuple", "zip",
}  # fmt: skip
_OPCODES = {
    "SETUP_WITH": "a context manager",
    "BEFORE_WITH": "a context manager",
    "SETUP_ASYNC_WITH": "a context manager",
    "LOAD_SPECIAL": "a context manager",
    "PUSH_EXC_INFO": "an exception handler",
    "SETUP_FINALLY": "an exception handler",
    "STORE_ATTR": "an attribute that it sets",
    "DELETE_ATTR": "an attribute that it deletes",
    "STORE_GLOBAL": "a global variable that it sets",
    "STORE_DEREF": "a variable of an outer function that it sets",
    "IMPORT_NAME": "an import",
    "SEND": "a generator",
}
_SIMPLE = (type(None), bool, int, float, str, torch.dtype)


class ImpureError(Exception):
    """Says what a forward does besides calls on tensors."""


class Watcher:
    """Collects what code did while it was watched; raises nothing itself, since code might catch it."""

    def __init__(self) -> None:
        self.reason = ""
        # Global variables that were read: the names of the module and the variable, and the value.
        self.globals: dict[tuple[str, str], Any] = {}
        # Containers of modules whose contents were looked at.
        self.containers: list[nn.Module] = []
        self.asks_kinds = False
        self._seen: set[CodeType] = set()
        self._ignored = torch.overrides.get_ignored_functions()

    def blame(self, reason: str) -> None:
        """Keeps the first reason."""
        self.reason = self.reason or reason

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Is called by Python at each call."""
        if event == "c_call":
            if not is_users(frame.f_code):
                return
            try:
                known = arg in self._ignored
            except TypeError:  # without a hash
                known = False
            if known:
                self.blame(f"depends on {arg.__name__}()")
            return
        if event != "call":
            return
        code = frame.f_code
        if is_users(code):
            if code not in self._seen:
                self._seen.add(code)
                self._examine(code, frame)
            return
        caller = frame.f_back
        if caller is None or not is_users(caller.f_code) or code.co_filename.startswith("<"):
            return
        self._examine_foreign(code, frame)

    def _examine_foreign(self, code: CodeType, frame: FrameType) -> None:
        """Looks at a call of a function of torch's or Python's."""
        if code.co_filename.startswith(_OURS):
            return
        if not code.co_filename.startswith(_TORCH):
            if code.co_name not in ("__instancecheck__", "namedtuple", "__new__"):
                self.blame(f"calls {code.co_name} of Python's library")
            return
        name = code.co_filename[len(_TORCH) :]
        if name == _CONTAINER:
            self.containers.append(frame.f_locals["self"])
        elif not (
            name.startswith(_HARMLESS)
            or (name == _MODULE and code.co_name in ("__getattr__", "__call__", "_call_impl"))
            or (name == "nn/parameter.py" and code.co_name == "__instancecheck__")
        ):
            self.blame(f"calls {code.co_name} of torch.{name.removesuffix('.py').replace('/', '.')}")

    def _examine(self, code: CodeType, frame: FrameType) -> None:
        """Looks at the code of a function that is called, and of those that are defined in it."""
        made = code.co_name == "__init__"
        owner = ""
        for instruction in dis.get_instructions(code):
            name = instruction.opname
            if owner and name in ("LOAD_ATTR", "LOAD_METHOD"):
                self.blame(f"depends on {owner}.{instruction.argval}")
            owner = ""
            if name in _OPCODES and not (made and name == "STORE_ATTR"):
                self.blame(f"has {_OPCODES[name]}")
            elif name in ("LOAD_GLOBAL", "LOAD_NAME"):
                self._examine_global(str(instruction.argval), frame)
                value = frame.f_globals.get(str(instruction.argval))
                torchs = str(getattr(value, "__module__", "")).startswith("torch")
                owner = str(instruction.argval) if isinstance(value, type) and not torchs else ""
        for name in code.co_freevars:
            value = frame.f_locals.get(name)
            if name != "__class__" and not isinstance(value, (FunctionType, type, nn.Module)):
                self.blame(f"depends on {name}, a variable of an outer function")
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                self._examine(inner, frame)

    def _examine_global(self, name: str, frame: FrameType) -> None:
        if name not in frame.f_globals:
            known = getattr(builtins, name, None)
            if name == "isinstance":
                self.asks_kinds = True
            exception = isinstance(known, type) and issubclass(known, Exception)
            if name not in _BUILTINS and not exception:
                self.blame(f"calls {name}")
            return
        value = frame.f_globals[name]
        if isinstance(value, ModuleType):
            if value.__name__.partition(".")[0] not in _MODULES:
                self.blame(f"uses the module {value.__name__}")
        elif isinstance(value, BuiltinFunctionType):
            of_class = value.__module__ is None and isinstance(value.__self__, type)
            if not of_class and not str(value.__module__).startswith(("torch", "math", "_operator")):
                self.blame(f"calls {name}")
        elif isinstance(value, _SIMPLE):
            self.globals[frame.f_globals.get("__name__", ""), name] = value
        elif not callable(value) and not str(type(value).__module__).startswith("typing"):
            self.blame(f"depends on the global variable {name}")


def is_users(code: CodeType) -> bool:
    """Returns True for code that is neither torch's, Python's own nor ours."""
    name = code.co_filename
    if name.startswith((_TORCH, _OURS, "<frozen")):
        return False
    return not name.startswith(_PYTHON) or "site-packages" in name


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Lets a watcher see every call of this thread."""
    before = sys.getprofile()
    sys.setprofile(watcher)
    try:
        yield
    finally:
        sys.setprofile(before)
