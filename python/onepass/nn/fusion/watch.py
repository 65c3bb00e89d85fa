"""Notices that a class that a recording has followed has another method since; dynamo's guards do not."""

from __future__ import annotations

import builtins as builtins_module
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from operator import is_
from types import CodeType, FunctionType
from typing import Any, cast

import torch
from torch import nn

__all__ = ["Watch", "why_unguarded"]

# Names that read what dynamo does not guard.
_UNGUARDED = frozenset(
    (
        *(
            "__dict__",
            "vars",
            "globals",
            "locals",
            "dir",
            "inspect",
            "gc",
            "_getframe",
            "__getattribute__",
            "ctypes",
        ),
        *("environ", "getenv"),
    )
)
_TORCH = os.path.dirname(torch.__file__) + os.sep
_OURS = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep
# Packages whose classes are not derived from in a model without being a module's class.
_KNOWN = frozenset((*sys.stdlib_module_names, "torch", "onepass"))
# No call of a module runs them; dynamo patches them in its first recording.
_CONSTRUCTION = frozenset(("__init__", "__setstate__"))
_BUILTINS = vars(builtins_module)
# Set in the flags of classes that Python code can change.
_HEAP = 1 << 9


class Watch:
    """Remembers what is in the classes of a model's modules, and in those whose methods were recorded."""

    def __init__(self) -> None:
        self._seen: dict[type, tuple[Mapping[str, Any], dict[str, Any]]] = {}
        self._metaclasses: set[type] = set()
        # Globals of the recorded functions, and the builtins that they call.
        self._builtins: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def add(self, model: nn.Module, codes: Iterable[CodeType]) -> None:
        """Remembers the classes of a model, and those that define one of these functions.

        Args:
            model: Its modules' classes, with all they derive from.
            codes: The functions' code.
        """
        mine = [code for code in codes if not code.co_filename.startswith((_TORCH, _OURS))]
        named = _add_globals(mine, self._builtins)
        related = _related(model, mine) | named
        bases = {one for kind in related for one in cast(type, type(kind)).__mro__}
        self._metaclasses |= {one for one in bases if one.__flags__ & _HEAP}
        for kind in related | self._metaclasses:
            for one in kind.__mro__:
                if one not in self._seen and one.__flags__ & _HEAP:
                    self._seen[one] = (one.__dict__, dict(one.__dict__))

    def has_changed(self) -> bool:
        """Returns True if one of the classes has another method, property or descriptor than before."""
        for kind, (entries, before) in self._seen.items():
            same = len(entries) == len(before) and all(map(is_, entries.values(), before.values()))
            if not same and self._differs(kind):
                return True
        for names, called in self._builtins:
            for name, function in called.items():
                if name in names or _BUILTINS.get(name) is not function:
                    return True
        return False

    def _differs(self, kind: type) -> bool:
        """Looks at a class again; other data in it are dynamo's to guard."""
        entries, before = self._seen[kind]
        now = dict(entries)
        for name in (now.keys() | before.keys()) - _CONSTRUCTION:
            new, old = now.get(name), before.get(name)
            method = hasattr(type(new), "__get__") or hasattr(type(old), "__get__")
            if new is not old and (method or kind in self._metaclasses):
                return True
        self._seen[kind] = (entries, now)
        return False


def why_unguarded(codes: Iterable[CodeType]) -> str:
    """Names what a recorded function reads that dynamo does not guard; empty if there is nothing."""
    for code in codes:
        if code.co_filename.startswith((_TORCH, _OURS)):
            continue
        texts = {one for one in code.co_consts if isinstance(one, str)}
        found = _UNGUARDED & (set(code.co_names) | texts)
        if found:
            return f"{code.co_name} in {os.path.basename(code.co_filename)} uses {min(found)}"
    return ""


def _add_globals(codes: Iterable[CodeType], builtins: list[tuple[dict[str, Any], dict[str, Any]]]) -> set[type]:
    """Notes which builtins functions call, and returns the classes that they name."""
    files = {getattr(module, "__file__", None): module for module in list(sys.modules.values())}
    classes = set()
    for code in {id(code): code for code in codes}.values():
        module = files.get(code.co_filename)
        if module is None:
            continue
        names = module.__dict__
        called = {name: _BUILTINS[name] for name in code.co_names if name in _BUILTINS and name not in names}
        if called and (names, called) not in builtins:
            builtins.append((names, called))
        classes |= {names[name] for name in code.co_names if isinstance(names.get(name), type)}
    return classes


def _related(model: nn.Module, codes: Iterable[CodeType]) -> set[type]:
    """Returns the classes of a model's modules, and those that define one of these functions."""
    found = {type(module) for module in model.modules()}
    wanted = {id(code) for code in codes}
    bases = {one for kind in found for one in kind.__mro__}
    for kind in bases:
        wanted -= _codes_in(kind)
    if not wanted:
        return found
    for kind in set(_subclasses(object, set())):
        if not wanted.isdisjoint(_codes_in(kind)):
            found.add(kind)
            if kind.__module__.partition(".")[0] not in _KNOWN:
                # A subclass may get a method of its own in the place of the recorded one.
                found.update(_subclasses(kind, set()))
    return found


def _subclasses(kind: type, seen: set[type]) -> Iterator[type]:
    kinds: list[type] = type.__subclasses__(kind)
    for one in kinds:
        if one not in seen:
            seen.add(one)
            yield one
            yield from _subclasses(one, seen)


def _codes_in(kind: type) -> set[int]:
    """Returns the ids of the code of a class's methods; quickly, since all classes of the process are asked."""
    codes = set()
    for value in list(vars(kind).values()):
        what = type(value)
        if what is FunctionType:
            codes.add(id(value.__code__))
        elif what is property:
            codes.update(id(one.__code__) for one in (value.fget, value.fset) if type(one) is FunctionType)
        elif what in (staticmethod, classmethod) and type(value.__func__) is FunctionType:
            codes.add(id(value.__func__.__code__))
    return codes
