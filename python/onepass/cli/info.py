"""`onepass info`: what is installed, and what it runs on."""

from __future__ import annotations

import json
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from onepass import _freed_memory, _native
from onepass.bench import machine


def info(as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False) -> None:
    """Show the versions, the build and the machine, which a bug report needs."""
    facts = collect()
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    shown = Table(show_header=False, box=None)
    shown.add_column(style="bold")
    # Folds a path instead of cutting it, so that it can be copied whole.
    shown.add_column(overflow="fold")
    for name, value in facts.items():
        shown.add_row(name.replace("_", " "), _text(value))
    Console().print(shown)


def collect() -> dict[str, Any]:
    """Returns everything that `onepass info` shows, by name."""
    build = _native.core.build_info()
    return {
        **machine.versions(),
        "openmp_runtime": build["openmp"],
        # Offering the function again is harmless and shows whether it is taken.
        "fast_pointers": _native.use_fast_pointers(_native.core),
        "threads": torch.get_num_threads(),
        **machine.machine(),
        "malloc": _freed_memory.describe(),
        "environment": machine.environment(),
    }


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(entry)}" for name, entry in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
