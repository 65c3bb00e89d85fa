"""Finds dropouts that a module's own code does by calling functions, from the numbers which that code reads."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterator
from functools import lru_cache
from numbers import Real
from types import CodeType
from typing import Any

from torch import nn

__all__ = ["dropouts_by_number", "hidden_dropout"]

# A number of such a name is a dropout's probability where the code that reads it also calls one of these.
_FUNCTIONS = {
    "alpha_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_",
    "feature_alpha_dropout",
    "feature_dropout",
    "native_dropout",
    "scaled_dot_product_attention",
}


def _is_positive(p: object) -> bool:
    """Returns True for a number above 0 of any type, but no bool."""
    return isinstance(p, Real) and not isinstance(p, bool) and float(p) > 0


def hidden_dropout(module: nn.Module) -> str:
    """Returns the name of the number by which a module's own code drops; empty if none is seen.

    A number that is only handed to other modules when they are made (as by ``self.dropout = 0.1`` in a network
    that builds blocks) is none: what ``forward`` runs, with the methods that it calls, does not read it. Code that
    cannot be looked into is taken to read ``dropout``.
    """
    if isinstance(module, nn.RNNBase):
        # Its dropout acts only between layers.
        return "dropout" if module.num_layers > 1 and _is_positive(module.dropout) else ""
    reads, calls = _reads(module)
    for name in sorted(reads):
        last = name.rpartition(".")[2].lower()
        named = "dropout" in last or ("drop" in last and calls & _FUNCTIONS)
        if named and _is_positive(_value(module, name)):
            return name
    return ""


def dropouts_by_number(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Dropouts of a module whose p its own code reads, as ``dropout_p=self.drop.p if self.training else 0``.

    Attention that may run as one function does that; whether it also calls the dropout, a run of it shows.
    """
    for name in sorted(_reads(module)[0]):
        owner, _, last = name.rpartition(".")
        dropout = module._modules.get(owner) if last == "p" else None
        if dropout is not None and _is_positive(getattr(dropout, "p", None)):
            yield name, dropout


def _value(module: nn.Module, name: str) -> object:
    """Returns what a name stands for, or a dotted name of an object of the module such as its config.

    No property of the module is run for that.
    """
    owner, _, last = name.rpartition(".")
    if not owner:
        return inspect.getattr_static(module, last, None)
    holder = inspect.getattr_static(module, owner, None)
    return None if isinstance(holder, (property, nn.Module)) else getattr(holder, last, None)


def _reads(module: nn.Module) -> tuple[set[str], set[str]]:
    """Returns what the code that forward runs takes from the module, and all names that it uses."""
    reads: set[str] = set()
    calls: set[str] = set()
    seen: set[CodeType] = set()
    for code in _codes(module, module.__dict__.get("forward", type(module).forward)):
        if code is None:
            reads.add("dropout")
        else:
            _look(module, code, reads, calls, seen)
    return reads, calls


def _codes(module: nn.Module, function: Any) -> Iterator[CodeType | None]:
    """The code of a function, method, property or what wraps one; None where there is none to look into."""
    if isinstance(function, property):
        function = function.fget
    function = inspect.unwrap(getattr(function, "__func__", function))
    yield getattr(function, "__code__", None)


def _look(module: nn.Module, code: CodeType, reads: set[str], calls: set[str], seen: set[CodeType]) -> None:
    """Adds what the code reads of the module and what else it names, with the methods that it calls."""
    if code in seen:
        return
    seen.add(code)
    calls.update(code.co_names)
    own = _read_of_self(code)
    reads.update(own)
    # getattr(self, "dropout") has the name as a constant.
    reads.update(one for one in code.co_consts if isinstance(one, str) and one.isidentifier())
    parents = "super" in code.co_names
    for name in {*own, *(code.co_names if parents else ())}:
        for function in _methods(type(module), name, parents):
            for found in _codes(module, function):
                if found is not None:
                    _look(module, found, reads, calls, seen)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            _look(module, inner, reads, calls, seen)


@lru_cache(4096)
def _read_of_self(code: CodeType) -> frozenset[str]:
    """Attributes that the code takes from ``self``, or from one of them (dotted), but for those it only tests.

    Whatever the first argument is called counts as ``self``.
    """
    selves = {"self", *code.co_varnames[: min(1, code.co_argcount)]}
    empty = ("CACHE", "NOP", "EXTENDED_ARG")
    instructions = [one for one in dis.get_instructions(code) if one.opname not in empty]
    found = set()
    before, path = "", ""
    for index, instruction in enumerate(instructions):
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD") and (before in selves or path):
            path = f"{path}.{instruction.argval}" if path else instruction.argval
            if not _is_test([one.opname for one in instructions[index + 1 : index + 3]]):
                found.add(path)
            before = ""
            continue
        # Python 3.13 has instructions for two variables, the second of which is on top of the stack.
        loads = "LOAD_FAST" in instruction.opname or "LOAD_DEREF" in instruction.opname
        name = instruction.argval if loads else ""
        before, path = name[-1] if isinstance(name, tuple) else name, ""
    return frozenset(found)


def _is_test(following: list[str]) -> bool:
    """Returns True for what follows the load in ``if self.p:``, ``if self.p is not None:``, ``if self.p > 0:``."""
    if following[:1] and (following[0].startswith("POP_JUMP") or following[0] == "TO_BOOL"):
        return True
    return following[:1] in (["LOAD_CONST"], ["LOAD_SMALL_INT"]) and following[1:] in (["IS_OP"], ["COMPARE_OP"])


def _methods(cls: type[nn.Module], name: str, parents: bool) -> Iterator[Callable[..., Any] | property]:
    """Returns what a class defines of that name, or all of its parents do, without nn.Module itself."""
    for one in cls.__mro__:
        if one is nn.Module:
            return
        found = vars(one).get(name)
        if callable(found) or isinstance(found, (property, staticmethod, classmethod)):
            yield found  # type: ignore[misc]
            if not parents:
                return
