"""Reads the text of a schedule: names, numbers and operators of a short list. Nothing is evaluated."""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Callable
from typing import Any

from onepass._arguments import told
from onepass.optim.schedules._combine import clamp, take
from onepass.optim.schedules._cycles import cyclic, one_cycle, warm_restarts
from onepass.optim.schedules._schedule import Schedule, constant, product, sequence
from onepass.optim.schedules._shapes import (
    cosine,
    exponential,
    inverse_sqrt,
    linear,
    multistep,
    polynomial,
    sqrt_decay,
    step,
    warmup,
    wsd,
)

_BY_NAME: dict[str, Callable[..., Schedule]] = {
    function.__name__: function
    for function in (
        *(clamp, constant, cosine, cyclic, exponential, inverse_sqrt, linear, multistep, one_cycle),
        *(polynomial, product, sequence, sqrt_decay, step, take, warm_restarts, warmup, wsd),
    )
}
# Enough for any schedule, and far from the depth at which Python's parser fails.
_MAX_CHARACTERS = 2000


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text

    def wrong(self, node: ast.AST, what: str) -> ValueError:
        """The error, with the text and a mark under the part that it is about."""
        # ast counts columns in bytes.
        begin = len(self.text.encode()[: getattr(node, "col_offset", 0)].decode())
        end = len(self.text.encode()[: getattr(node, "end_col_offset", 0)].decode())
        return ValueError(f"schedule: {what}\n  {self.text}\n  {' ' * begin}{'^' * max(1, end - begin)}")

    def schedule(self, node: ast.expr) -> Schedule:
        value = self.value(node)
        if not isinstance(value, Schedule):
            raise self.wrong(node, f"a schedule is wanted here, got {ast.unparse(node)}")
        return value

    def value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float, str, bool, type(None)):
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            operand = self.value(node.operand)
            if type(operand) in (int, float):
                return -operand
        if isinstance(node, (ast.Tuple, ast.List)):
            return tuple(self.value(entry) for entry in node.elts)
        if isinstance(node, ast.BinOp):
            return self._operator(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        raise self.wrong(node, f"only schedules, numbers, >> and * are understood, got {ast.unparse(node)}")

    def _operator(self, node: ast.BinOp) -> Any:
        if isinstance(node.op, ast.RShift):
            first, then = self.schedule(node.left), self.schedule(node.right)
            try:
                return first >> then
            except ValueError as error:
                raise self.wrong(node.left, str(error)) from None
        if isinstance(node.op, ast.Mult):
            left, right = self.value(node.left), self.value(node.right)
            numbers = [isinstance(side, (int, float)) for side in (left, right)]
            schedules = [isinstance(side, Schedule) for side in (left, right)]
            if any(schedules) and all(n or s for n, s in zip(numbers, schedules, strict=True)):
                try:
                    return left * right
                except ValueError as error:
                    raise self.wrong(node, str(error)) from None
            raise self.wrong(node, f"* is for schedules, or a number and a schedule, got {ast.unparse(node)}")
        raise self.wrong(node, f"only >> and * join schedules, got {ast.unparse(node)}")

    def _call(self, node: ast.Call) -> Schedule:
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if name not in _BY_NAME:
            raise self.wrong(node.func, f"the name must be one of {', '.join(_BY_NAME)}, got {name}")
        function = _BY_NAME[name]
        for keyword in node.keywords:
            if keyword.arg is None or keyword.arg not in inspect.signature(function).parameters:
                known = ", ".join(inspect.signature(function).parameters)
                raise self.wrong(keyword, f"{name} has the arguments {known}, got {keyword.arg or '**'}")
            if [other.arg for other in node.keywords].count(keyword.arg) > 1:
                raise self.wrong(keyword, f"{name} must get each argument once, got {keyword.arg} twice")
        positional = [self.value(argument) for argument in node.args]
        named = {keyword.arg: self.value(keyword.value) for keyword in node.keywords if keyword.arg}
        try:
            return function(*positional, **named)
        except (ValueError, TypeError, OverflowError) as error:
            raise self.wrong(node, str(error)) from None


def parse(text: str) -> Schedule:
    """Reads a schedule from its text, for instance ``warmup(500) >> cosine(10000, floor=0.1)``.

    Args:
        text: Calls of this module's functions with numbers, joined by ``>>`` (one after the other) and ``*``, at
            most 2,000 characters. It is read and not evaluated: any other name or operation is an error.

    Returns:
        The schedule; ``parse(repr(schedule)) == schedule``.

    Raises:
        ValueError: The text is not a schedule. The message points at the part that is wrong.
        TypeError: It is no text.

    Example:
        >>> from onepass.optim.schedules import parse
        >>> parse("warmup(2) >> linear(steps=4)")
        warmup(2) >> linear(4)
        >>> parse("warmup(2) >> linaer(4)")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: schedule: the name must be one of clamp, ..., got linaer
          warmup(2) >> linaer(4)
                       ^^^^^^
    """
    if not isinstance(text, str):
        raise TypeError(f"schedule: text must be a str, got {told(text)}")
    text = text.strip()
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"schedule: text must have at most {_MAX_CHARACTERS} characters, got {len(text)}")
    try:
        with warnings.catch_warnings():
            # Python only warns of text such as "1if 1else 2"; the error that follows here says more.
            warnings.simplefilter("ignore")
            tree = ast.parse(text.replace("\n", " "), mode="eval")
    except SyntaxError as error:
        column = max((error.offset or 1) - 1, 0)
        raise ValueError(f"schedule: {error.msg}\n  {text}\n  {' ' * column}^") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"schedule: text must be a schedule, got {told(text[:40])} ({error})") from None
    reader = _Reader(text.replace("\n", " "))
    try:
        return reader.schedule(tree.body)
    except RecursionError:
        raise ValueError("schedule: text must be a schedule, got one that is nested too deeply") from None
