"""Checks of arguments that all parts of the package share, and how their errors show what they got."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["as_flag", "check_lists", "check_module", "listed", "renamed", "told"]

# As in csrc/bind/core/named.cpp: the text of an array or a dict has no end.
_MOST = 200


def told(value: Any) -> str:
    """Returns the text of a value for an error: its repr, cut where it is long."""
    kind = type(value).__name__
    try:
        text = repr(value)
    except Exception:  # whatever a class of the user's raises; the error that names the argument matters more
        return f"an object of class {kind}"
    if len(text) <= _MOST:
        return text
    return f"{' '.join(text[:_MOST].split())} ... (of class {kind})"


def as_flag(function: str, argument: str, value: Any) -> bool:
    """Returns whether the value is true; raises TypeError if it is neither, as a tensor of several elements."""
    try:
        return bool(value)
    except Exception:  # whatever a class of the user's raises
        raise TypeError(f"{function}: {argument} must be True or False, got {told(value)}") from None


def check_module(function: str, argument: str, value: Any) -> None:
    """Raises TypeError unless the value is a torch.nn.Module."""
    if not isinstance(value, nn.Module):
        raise TypeError(f"{function}: {argument} must be a torch.nn.Module, got {told(value)}")


def listed(function: str, argument: str, values: Iterable[Any], of: str) -> list[Any]:
    """Returns the values as a list; raises TypeError, which says what they are of, unless they can be iterated.

    A text, which can be, is refused.
    """
    if isinstance(values, list):
        return list(values)
    try:
        found = None if isinstance(values, (str, bytes)) else iter(values)
    except TypeError:
        found = None
    if found is None:
        raise TypeError(f"{function}: {argument} must be an iterable of {of}, got {told(values)}")
    return list(found)


def check_lists(function: str, of: str, **lists: Any) -> None:
    """Raises TypeError unless all of these arguments can be iterated."""
    for argument, values in lists.items():
        listed(function, argument, values, of)


@contextmanager
def renamed(function: str, names: Mapping[str, str]) -> Iterator[None]:
    """Names a function, and its argument, in errors of another function that is called with its arguments.

    Args:
        function: The function.
        names: Its arguments by those of the other one, each for instance "cosine: steps".
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error)
        argument = next((own for place, own in names.items() if text.startswith(f"{place} ")), None)
        raise type(error)(f"{function}: {argument}: {text}" if argument else f"{function}: {text}") from None
