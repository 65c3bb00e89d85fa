"""The API reference: what is public, whether all of it is there, and docstrings as Sphinx wants them."""

import inspect
import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

from _site.doors import public_names


def _skip(app: Sphinx, kind: str, name: str, member: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out modules, which have pages of their own, and what a class merely has of torch."""
    if inspect.ismodule(member):
        return True
    owner = getattr(member, "__objclass__", member)
    module = getattr(owner, "__module__", None) or ""
    return True if module.split(".")[0] in ("torch", "builtins", "typing") else None


def _tidy(app: Sphinx, what: str, name: str, member: Any, options: Any, lines: list[str]) -> None:
    """Makes the paragraphs that begin with these words stand out; a name that ends in _ is no link."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            line = re.sub(r"^(Differs from torch|Source):", r"**\1:**", line)
            lines[i] = re.sub(r"(?<![`\w.])([\w.]*\w)_(?=[\s.,;:)]|$)", r"\1\\_", line)


def _signature(
    app: Sphinx, what: str, name: str, member: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Leaves out the arguments of a class that only our functions make: one of them is private."""
    return ("", returns) if what == "class" and re.search(r"[(, ]_\w+:", signature or "") else None


def _check(app: Sphinx, error: Exception | None) -> None:
    """Warns of each public name that the reference lacks; the build takes warnings as errors."""
    if error is None and app.builder.format == "html":
        there = app.env.domains.python_domain.objects
        for name in public_names():
            if name not in there:
                logging.getLogger(__name__).warning("the API reference lacks %s", name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Registers all of it."""
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _tidy)
    app.connect("autodoc-process-signature", _signature)
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
