"""`onepass bench`: speed next to torch's, measured in one run."""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from onepass.bench import OPS, machine, report
from onepass.bench.harness import Case, Result, choose, measure
from onepass.cli import check_picture, check_place, device_of, one_of, torch_threads, writing
from onepass.cli.options import Device, JsonFile, Picture, Threads

_QUICK_ROUNDS = 3
# With these settings glibc keeps freed memory, so that no competitor pays for page faults of fresh buffers.
_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "1000000000"}
# Set in the process by which this command replaces itself.
_STARTED_AGAIN = "ONEPASS_BENCH_STARTED_AGAIN"


def bench(
    op: Annotated[
        str, typer.Argument(parser=one_of("op", OPS), help=f"Time one of: {', '.join(OPS)}.", metavar="OP")
    ],
    case: Annotated[
        list[str] | None, typer.Option(help="Run this case, or those with this in their name. May be repeated.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Time each case this many times, instead of its own number.")
    ] = None,
    threads: Threads = None,
    output: JsonFile = None,
    plot: Picture = None,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"Take {_QUICK_ROUNDS} rounds in this process: a look, no measurement.")
    ] = False,
    with_compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Also time torch's step under torch.compile.")
    ] = False,
    device: Device = "cpu",
    reexec: Annotated[
        bool, typer.Option("--reexec/--no-reexec", help="Start again with malloc settings for even timing.")
    ] = True,
) -> None:
    """Time an operation against torch, in turns, with the memory bandwidth measured in the same run."""
    console = Console()
    where = device_of("device", device)
    try:
        cases = choose(importlib.import_module(OPS[op]).cases(where), case or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if plot is not None and all(one.bytes_moved is None for one in cases):
        raise typer.BadParameter("plot must have a case with a bandwidth, got overhead cases only")
    if output is not None:
        check_place("output", output)
    if plot is not None:
        check_picture("plot", plot)
    if reexec and not quick:
        _start_again(console)
    with torch_threads(threads):
        facts = {**machine.record(torch.get_num_threads()), "op": op, "device": device, "quick": quick}
        results = [
            _measured(console, one, rounds or (_QUICK_ROUNDS if quick else one.rounds), where, with_compile)
            for one in cases
        ]
    default = "foreach" if device == "cuda" else "loop"
    if any(default in result.times for result in results):
        console.print(f"{default} is what torch.optim does on {device} when no implementation is asked for.")
    _write(facts, results, output, plot)


def _measured(console: Console, case: Case, rounds: int, device: torch.device, with_compile: bool) -> Result:
    console.print(report.heading(case, rounds))
    result = measure(case, rounds, device, with_compile)
    console.print(report.table(result))
    for note in result.notes:
        console.print(note, markup=False)
    return result


def _write(facts: dict[str, Any], results: list[Result], output: Path | None, plot: Path | None) -> None:
    if output is not None:
        written = {**facts, "results": [result.to_json() for result in results]}
        with writing("output", output):
            output.write_text(json.dumps(written, indent=1) + "\n")
    if plot is not None:
        cpu, versions = facts["machine"]["cpu"], facts["versions"]
        caption = (
            f"{facts['machine']['gpus'][0] if facts['device'] == 'cuda' else cpu}, {facts['threads']} threads, "
            f"onepass {versions['onepass']}, torch {versions['torch']}, {facts['date'][:10]}"
        )
        with writing("plot", plot):
            report.plot(results, caption, plot)


def _start_again(console: Console) -> None:
    """Replaces this process, once, by one whose malloc keeps freed memory.

    torch's foreach allocates large temporaries in each step. Each of them would be a fresh mapping and cost page
    faults, which other settings or a longer-running program do not pay. glibc reads these settings only at start.
    """
    if _STARTED_AGAIN in os.environ or platform.libc_ver()[0] != "glibc":
        return
    settings = " ".join(f"{name}={value}" for name, value in _MALLOC.items())
    console.print(f"Starting again with {settings}, so that freed memory is kept (--no-reexec leaves it out).")
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **_MALLOC, _STARTED_AGAIN: "1"})
