"""The command `onepass`: one file a subcommand, put together in `app`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
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


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Sets torch's number of threads, which is ours too, and sets it back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
