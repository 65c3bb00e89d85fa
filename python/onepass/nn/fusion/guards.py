"""What a rewritten forward takes for granted about its module, and whether it still holds."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onepass.nn.fusion.chain import is_untouched

__all__ = ["Guard", "hold", "is_simple", "original_class", "same_of", "under"]

_MISSING = object()
ATTRIBUTE, GLOBAL, CHILDREN, INLINED, SAME = "attribute", "global", "children", "inlined", "same"
_SIMPLE = (bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format)


class Guard(NamedTuple):
    """One thing that is taken for granted.

    | kind | path | name | value |
    |---|---|---|---|
    | attribute | of a module | of its attribute | what it was |
    | global | "" | module and variable | what it was |
    | children | of a module | "" | names of its children, and which of them are there |
    | inlined | of a module whose forward is not called | "" | its class |
    | same | of a module or tensor | another path of it, by which it is not recorded | None |
    """

    kind: str
    path: str
    name: Any
    value: Any


def is_simple(value: Any) -> bool:
    """Returns True for a value that nobody can change in place."""
    if isinstance(value, tuple):
        return all(is_simple(one) for one in value)
    return value is None or isinstance(value, _SIMPLE)


def original_class(module: nn.Module) -> type[nn.Module]:
    """Returns the class of a module, for one of ours that stands for another the other one."""
    kind: type[nn.Module] = getattr(type(module), "_stands_for", type(module))
    return kind


def under(prefix: str, guards: Iterable[Guard]) -> list[Guard]:
    """Returns the guards of a module for the one that has it as a part named `prefix`."""
    found = []
    for guard in guards:
        if guard.kind != GLOBAL:
            guard = guard._replace(path=f"{prefix}.{guard.path}".rstrip("."))
        found.append(guard._replace(name=f"{prefix}.{guard.name}") if guard.kind == SAME else guard)
    return found


def same_of(block: nn.Module) -> list[Guard]:
    """Returns a guard for every second name of a part, parameter or buffer: it is recorded by its first name."""
    first: dict[int, str] = {}
    named: list[tuple[str, Tensor | nn.Module]] = list(block.named_modules(remove_duplicate=False))
    named += [*block.named_parameters(remove_duplicate=False), *block.named_buffers(remove_duplicate=False)]
    found = []
    for name, one in named:
        known = first.setdefault(id(one), name)
        if known != name:
            found.append(Guard(SAME, known, name, None))
    return found


def children_of(module: nn.Module) -> tuple[tuple[str, bool], ...]:
    """Returns the names of a module's children, and which of them are there."""
    return tuple((name, child is not None) for name, child in module._modules.items())


def _at(block: nn.Module, path: str) -> Any:
    found: Any = block
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def hold(block: nn.Module, guards: Iterable[Guard]) -> bool:
    """Returns True if all of the guards hold for a module."""
    for kind, path, name, value in guards:
        if kind == GLOBAL:
            owner = sys.modules.get(name[0])
            found = _MISSING if owner is None else owner.__dict__.get(name[1], _MISSING)
        elif kind == SAME:
            if _at(block, path) is not _at(block, name):
                return False
            continue
        else:
            module: nn.Module | None = block
            for part in path.split(".") if path else ():
                module = None if module is None else module._modules.get(part)
            if module is None:
                return False
            if kind == CHILDREN:
                found = children_of(module)
            elif kind == INLINED:
                if not is_untouched(module) or original_class(module) is not value:
                    return False
                if module.training is not block.training:
                    return False
                continue
            else:
                found = getattr(module, name, _MISSING)
        if found is not value and (type(found) is not type(value) or found != value):
            return False
    return True
