"""`onepass bench`: speed beside torch's, measured in one run."""

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
from onepass.bench.harness import Result, choose, measure
from onepass.cli import check_picture, check_place, device_of, one_of, torch_threads, writing

_QUICK_ROUNDS = 3
# With these glibc keeps freed memory, so that no competitor pays for page faults of fresh buffers.
_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "1000000000"}
# Set in the process that this command starts in its own place.
_STARTED_AGAIN = "ONEPASS_BENCH_STARTED_AGAIN"


def bench(
    op: Annotated[str, typer.Argument(parser=one_of("op", OPS), help=f"One of: {', '.join(OPS)}.", metavar="OP")],
    case: Annotated[
        list[str] | None, typer.Option(help="Run this case, or those with this in their name. May be repeated.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of each case, instead of its own number.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Threads, instead of torch's number.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write all figures to this JSON file.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(dir_okay=False, help="Draw the figures into this file.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"{_QUICK_ROUNDS} rounds and no new process: a look, no measurement.")
    ] = False,
    with_compile: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Also time torch's step under torch.compile.")
    ] = False,
    device: Annotated[
        str, typer.Option(parser=one_of("device", ("cpu", "cuda")), help="cpu or cuda.", metavar="DEVICE")
    ] = "cpu",
    reexec: Annotated[
        bool, typer.Option("--reexec/--no-reexec", help="Start again with malloc settings for even timing.")
    ] = True,
) -> None:
    """Time an operation against torch, interleaved, with the memory bandwidth measured in the same run."""
    console = Console()
    where = device_of("device", device)
    try:
        cases = choose(importlib.import_module(OPS[op]).cases(where), case or [])
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if plot is not None and all(one.bytes_moved is None for one in cases):
        raise typer.BadParameter("plot must have a case with a bandwidth, got overhead cases alone")
    if output is not None:
        check_place("output", output)
    if plot is not None:
        check_picture("plot", plot)
    if reexec and not quick:
        _start_again(console)
    results = []
    with torch_threads(threads):
        facts = {**machine.record(torch.get_num_threads()), "op": op, "device": device, "quick": quick}
        for one in cases:
            count = rounds or (_QUICK_ROUNDS if quick else one.rounds)
            console.print(report.heading(one, count))
            result = measure(one, count, where, with_compile)
            console.print(report.table(result))
            for note in result.notes:
                console.print(note, markup=False)
            results.append(result)
    default = "foreach" if device == "cuda" else "loop"
    if any(default in result.times for result in results):
        console.print(f"{default} is what torch.optim does on {device} when no implementation is asked for.")
    _write(facts, results, output, plot)


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
    """Replaces this process by one whose malloc does not hand memory back, once.

    torch's foreach makes large temporaries in each step; from a fresh mapping each would cost page faults, which
    other settings or a longer-running program do not pay. glibc reads these settings only at start.
    """
    if _STARTED_AGAIN in os.environ or platform.libc_ver()[0] != "glibc":
        return
    settings = " ".join(f"{name}={value}" for name, value in _MALLOC.items())
    console.print(f"Starting again with {settings}, so that freed memory is kept (--no-reexec: as it is).")
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **_MALLOC, _STARTED_AGAIN: "1"})
