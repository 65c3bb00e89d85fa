"""Reads the checks of arguments in csrc/bind: OP_CHECK, and errors that are thrown outright."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BIND = Path(__file__).parents[1] / "csrc" / "bind"
# A string of C++, or one character of anything else.
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|(.)', re.DOTALL)
_START = re.compile(r"\bOP_CHECK\(|\bthrow (?P<kind>[\w:]+)\(\s*concat\(")


@dataclass(frozen=True)
class Check:
    """One place in the bindings that refuses an argument."""

    path: str
    """The file, below csrc/bind."""
    kind: str
    """The exception in Python."""
    text: str
    """The literal parts of its message, one after the other."""
    pattern: re.Pattern[str]
    """The whole message, anything between the literal parts."""


def checks() -> Iterator[Check]:
    """All of them, in the order of the files."""
    for path in sorted(BIND.rglob("*")):
        if path.suffix in (".h", ".cpp"):
            code = re.sub(r"(?m)//.*$", "", path.read_text())
            for start in _START.finditer(code):
                yield _check(path, start, code)


def _check(path: Path, start: re.Match[str], code: str) -> Check:
    parts = list(_arguments(code, start.end()))
    # OP_CHECK(condition, kind, message ...), throw kind(concat(message ...
    kind = start["kind"] or parts[1].strip()
    message = parts if start["kind"] else parts[2:]
    literals = [_literal(part) for part in message]
    pattern = "".join(".*" if text is None else re.escape(text) for text in literals)
    return Check(
        path=str(path.relative_to(BIND)),
        kind={"py::index_error": "IndexError"}.get(kind, kind),
        text="".join(text or "" for text in literals),
        pattern=re.compile(pattern, re.DOTALL),
    )


def _arguments(code: str, begin: int) -> Iterator[str]:
    """The arguments of a call whose parenthesis ends before `begin`."""
    depth, own = 0, ""
    for token in _TOKEN.finditer(code, begin):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token[2] or "", 0)
        if depth < 0 or (depth == 0 and token[2] == ","):
            yield own
            own = ""
            if depth < 0:
                return
        else:
            own += token[0]


def _literal(part: str) -> str | None:
    """The text of a string, of several in a row, too; None for anything else."""
    if not re.fullmatch(r'(?:\s*"(?:[^"\\]|\\.)*")+\s*', part):
        return None
    return "".join(token[1] for token in _TOKEN.finditer(part) if token[1] is not None).replace('\\"', '"')
