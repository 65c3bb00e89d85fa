"""The command `onepass`: one file a subcommand, put together in `app`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import typer


def one_of(argument: str, choices: Iterable[str]) -> Callable[[str], str]:
    """A parser for an argument that must be one of a few words.

    Args:
        argument: Its name, for the message.
        choices: The words.
    """
    known = list(choices)

    def parse(value: str) -> str:
        if value not in known:
            raise typer.BadParameter(f"{argument} must be one of {', '.join(known)}, got {value}")
        return value

    return parse
