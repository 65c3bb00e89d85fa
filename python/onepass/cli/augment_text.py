"""Reads transforms from a text, which is never executed."""

from __future__ import annotations

import ast
from typing import Any

from onepass import augment as A
from onepass.augment._transform import Transform

__all__ = ["parse"]


def known() -> dict[str, type[Transform]]:
    """Lists the transforms by name."""
    found = {name: getattr(A, name) for name in A.__all__}
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, Transform)}


def parse(text: str) -> Transform:
    """Makes a transform of a text.

    Args:
        text: A name of `onepass.augment` with its arguments, which may be transforms, too.

    Raises:
        ValueError: The text is no transform, or the transform refuses its arguments.
        TypeError: The transform refuses its arguments.

    Example:
        >>> from onepass.cli.augment_text import parse
        >>> parse("RandomChoice([RandomInvert(p=1), RandomGrayscale(p=1)])").p
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        tree = ast.Constant(text)
    made = _made(tree, text)
    if not isinstance(made, Transform):
        raise ValueError(f"must be a transform such as RandomRotation(15), got {text}")
    return made


def _made(tree: ast.expr, text: str) -> Any:
    if isinstance(tree, (ast.List, ast.Tuple)):
        return [_made(one, text) for one in tree.elts]
    if not isinstance(tree, ast.Call):
        try:
            return ast.literal_eval(tree)
        except ValueError:
            raise ValueError(
                f"arguments must be numbers, words, lists or transforms, got {ast.unparse(tree)} in {text}"
            ) from None
    names = known()
    if not isinstance(tree.func, ast.Name) or tree.func.id not in names:
        raise ValueError(f"must be one of {', '.join(names)}, got {ast.unparse(tree.func)}")
    if any(one.arg is None for one in tree.keywords):
        raise ValueError(f"arguments must have names, got {text}")
    given = [_made(one, text) for one in tree.args]
    named = {str(one.arg): _made(one.value, text) for one in tree.keywords}
    return names[tree.func.id](*given, **named)
