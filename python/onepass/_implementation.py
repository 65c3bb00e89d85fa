"""Implementations that the command gets by name: ``--impl module:Name --kwargs name=value --as rule``."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from onepass.optim._step.plain import fused_classes

__all__ = ["LAYERS", "OPTIMIZERS", "ImplementationError", "load", "parse_kwargs", "stands_for", "text_of"]

# The rules of onepass.optim.
OPTIMIZERS = tuple(kind.__name__.lower() for kind in fused_classes())
LAYERS = ("batch_norm", "dropout", "cross_entropy")

# Words around the rule's name that do not change the rule. RAdam, NAdam and Adamax are other rules.
_QUALIFIERS = (
    r"(?:my|fused|foreach|multitensor|paged|offload(?:ed)?|cpu|gpu|cuda|triton|torch|apex|deepspeed|onepass|liger|fast"
    r"|sync|synchronized|nd|[123]d|\d+bit|fp\d+|bf16|block(?:wise)?|loss|module)"
)
# Arguments by which other packages' Adam decays its weights as AdamW does; apex and DeepSpeed do by default.
_DECOUPLED = ("decoupled_weight_decay", "adam_w_mode", "adamw_mode", "weight_decouple")


class ImplementationError(ValueError):
    """Says which option names no implementation, what it must be, and what was given."""


def load(name: str, option: str = "--impl") -> Callable[..., Any]:
    """Imports what an option names; modules of the current folder are found, too.

    Args:
        name: ``module:Name``, as ``torch.optim:AdamW``; a dot in Name reaches into a class.
        option: The option that names it, for messages.

    Raises:
        ImplementationError: `name` has another form, the module is not there or fails to import, or it has nothing
            callable of that name.
    """
    module_name, colon, path = name.partition(":")
    parts = (*module_name.split("."), *path.split("."))
    if not colon or not all(part.isidentifier() for part in parts):
        raise ImplementationError(f"{option} must be module:Name, as torch.optim:AdamW, got {name}")
    # A script's sys.path begins with the folder of the script, not with the current one.
    here = os.getcwd()
    if not {here, ""} & set(sys.path):
        sys.path.append(here)
    found: Any = _import(module_name, name, option)
    for part in path.split("."):
        if not hasattr(found, part):
            offered = [one for one in dir(found) if not one.startswith("_")]
            near = [one for one in offered if one.lower() == part.lower()]
            hint = f"; it has {near[0]}" if near else ""
            raise ImplementationError(f"{option} must name a class or function of {module_name}, got {name}{hint}")
        found = getattr(found, part)
    if not callable(found):
        raise ImplementationError(
            f"{option} must name a class or function, got {name}, which is of type {type(found).__name__}"
        )
    return found  # type: ignore[no-any-return]  # callable, as checked


def _import(module_name: str, name: str, option: str) -> object:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise ImplementationError(
                f"{option} must name a module that can be imported, got {name}: there is no module {error.name}"
            ) from None
        raise _failed(name, option, error) from error
    except Exception as error:
        raise _failed(name, option, error) from error


def _failed(name: str, option: str, error: Exception) -> ImplementationError:
    return ImplementationError(
        f"{option} must name a module that can be imported, got {name}: {type(error).__name__}: {error}"
    )


def parse_kwargs(given: Sequence[str], option: str = "--kwargs") -> dict[str, Any]:
    """Reads arguments of a call from text.

    Args:
        given: Each ``name=value``. A value is a literal of Python (``3``, ``1e-4``, ``True``, ``(0.9, 0.95)``), a
            dtype or memory format of torch (``torch.bfloat16``), or a word, which is taken as text.
        option: The option that has them, for messages.

    Raises:
        ImplementationError: One has another form or comes twice, or is true, false or none: as text, each of them
            would count as true.
    """
    found: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise ImplementationError(f"{option} must be name=value, got {one}")
        if name in found:
            raise ImplementationError(f"{option} must have each name once, got {name} twice")
        found[name] = _value(text.strip(), one, option)
    return found


def _value(text: str, one: str, option: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    if text.startswith("torch."):
        value = getattr(torch, text.removeprefix("torch."), None)
        if isinstance(value, torch.dtype | torch.memory_format):
            return value
        raise ImplementationError(f"{option} must have a dtype or memory format after torch., got {one}")
    if text in ("true", "false", "none"):
        raise ImplementationError(f"{option} must have {text.capitalize()} with a capital, got {one}")
    if not re.fullmatch(r"[A-Za-z_][\w.:/-]*", text):
        raise ImplementationError(f"{option} must have a literal of Python, a dtype or a word as value, got {one}")
    return text


def stands_for(
    implementation: Callable[..., Any],
    as_: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    among: Sequence[str] = OPTIMIZERS,
    option: str = "--as",
) -> str:
    """Finds the rule with which an implementation is compared.

    `as_` decides. Otherwise the name does, if only words that change no rule surround it (AdamW8bit, FusedSGD).
    Otherwise the base class of torch does. An Adam whose argument says that its decay is decoupled is adamw.

    Args:
        implementation: A class or function.
        as_: The rule, if the caller says it.
        kwargs: The arguments that the implementation will get.
        among: The rules that come into question: `OPTIMIZERS` or some of `LAYERS`.
        option: The option that gives `as_`, for messages.

    Returns:
        One of `among`.

    Raises:
        ImplementationError: `as_` is none of them, or neither name nor base class say which one it is.
    """
    known = ", ".join(among)
    if as_ is not None:
        if as_ not in among:
            raise ImplementationError(f"{option} must be one of {known}, got {as_}")
        return as_
    name = text_of(implementation)
    found = _by_name(name.rpartition(":")[2], among) or _by_base(implementation, among)
    if found is None:
        raise ImplementationError(
            f"{option} must say what {name} computes, one of {known}: "
            "its name and base classes do not, got nothing"
        )
    if found in ("adam", "adamw") and {"adam", "adamw"} <= set(among):
        decoupled = _decoupled(implementation, kwargs or {})
        found = found if decoupled is None else ("adamw" if decoupled else "adam")
    return found


def text_of(implementation: Callable[..., Any]) -> str:
    """Writes an implementation as ``module:Name``.

    Args:
        implementation: A class or function.
    """
    name = getattr(implementation, "__qualname__", type(implementation).__qualname__)
    return f"{getattr(implementation, '__module__', None) or type(implementation).__module__}:{name}"


def _by_name(name: str, among: Sequence[str]) -> str | None:
    plain = re.sub(r"[^a-z0-9]", "", name.rpartition(".")[2].lower())
    for rule in sorted(among, key=len, reverse=True):
        if re.fullmatch(f"{_QUALIFIERS}*{rule.replace('_', '')}{_QUALIFIERS}*", plain):
            return rule
    return None


def _by_base(implementation: Callable[..., Any], among: Sequence[str]) -> str | None:
    for base in inspect.getmro(implementation) if isinstance(implementation, type) else ():
        rule = _by_name(base.__name__.strip("_"), among)
        if rule is not None and base.__module__.split(".")[0] in ("torch", "onepass"):
            return rule
    return None


def _decoupled(implementation: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool | None:
    """What an argument says of the weight decay; None where there is no such argument."""
    try:
        parameters = inspect.signature(implementation).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]  # a class without a signature
    for name in _DECOUPLED:
        if name in kwargs:
            return bool(kwargs[name])
        if name in parameters and isinstance(parameters[name].default, bool):
            return bool(parameters[name].default)
    return None
