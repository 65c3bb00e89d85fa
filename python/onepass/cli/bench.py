"""`onepass bench`: speed next to torch's, measured in one run."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from onepass import keep_freed_memory
from onepass.bench import OPS, entrants, files, machine, report
from onepass.bench import compare as comparison
from onepass.bench.entrants import Entrant
from onepass.bench.faults import place_of
from onepass.bench.harness import Case, Result, choose, measure
from onepass.cli import check_picture, check_place, device_of, one_of, torch_threads, writing
from onepass.cli.options import As, Compare, Device, JsonFile, Kwargs, Picture, Threads
from onepass.cli.progress import Bar

_QUICK_ROUNDS = 3
_KEPT, _DEFAULT = "kept", "default"


def _op(value: str) -> str:
    return value if files.is_file(value) else one_of("op", OPS)(value)


_Op = Annotated[
    str,
    typer.Argument(
        parser=_op, help=f"Time one of: {', '.join(OPS)}; or the cases of a file: my_cases.py.", metavar="OP"
    ),
]
_Cases = Annotated[
    list[str] | None, typer.Option(help="Run this case, or those with this in their name. May be repeated.")
]
_Impls = Annotated[
    list[str] | None,
    typer.Option(
        help="Time this class or function, too, in the cases that it fits: module:Name or "
        "'module:Name(argument=value, ...)'. May be repeated.",
        metavar="IMPL",
    ),
]
_Tolerance = Annotated[
    float,
    typer.Option(min=0.0, help="Time an --impl only if its results differ from torch's by at most this share."),
]
_Rounds = Annotated[
    int | None, typer.Option(min=1, help="Time each case this many times, instead of its own number.")
]
_Quick = Annotated[bool, typer.Option("--quick", help=f"Take {_QUICK_ROUNDS} rounds: a look, no measurement.")]
_Compile = Annotated[
    bool, typer.Option("--compile/--no-compile", help="Also time torch's step under torch.compile.")
]
_Malloc = Annotated[
    str | None,
    typer.Option(
        parser=one_of("malloc", (_KEPT, _DEFAULT)),
        help="Keep freed memory for the next allocation (kept), so that no competitor pays for new pages, or "
        "leave malloc as it is (default). Without it freed memory is kept; train times both.",
        metavar="STATE",
    ),
]


def bench(
    op: _Op,
    case: _Cases = None,
    impl: _Impls = None,
    kwargs: Kwargs = None,
    as_: As = None,
    tolerance: _Tolerance = entrants.TOLERANCE,
    rounds: _Rounds = None,
    threads: Threads = None,
    output: JsonFile = None,
    plot: Picture = None,
    compare: Compare = None,
    quick: _Quick = False,
    with_compile: _Compile = False,
    device: Device = "cpu",
    malloc: _Malloc = None,
) -> None:
    """Time an operation against torch, in turns, with the memory bandwidth measured in the same run.

    A competitor that raises, or an --impl with wrong results, is reported and not timed; the exit code is then 1.
    """
    console = Console()
    where = device_of("device", device)
    try:
        cases = _cases_of(op, where)
        entered = entrants.entrants_of(impl or [], kwargs or [], as_, _rules(op, cases, impl), tolerance)
        cases = _fitting(choose(cases, case or []), entered, bool(case))
        before = None if compare is None else _old(compare, op)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if plot is not None and all(one.bytes_moved is None and one.plot is None for one in cases):
        raise typer.BadParameter("plot must have a case with a bandwidth, got overhead cases only")
    in_processes = any(one.in_processes for one in cases)
    if in_processes and malloc is not None:
        raise typer.BadParameter(f"malloc must be left out with {op}, which times both states, got {malloc}")
    if output is not None:
        check_place("output", output)
    if plot is not None:
        check_picture("plot", plot)
    with torch_threads(threads), _memory(console, _DEFAULT if in_processes else malloc or _KEPT):
        facts = {**machine.record(torch.get_num_threads()), "op": op, "device": device, "quick": quick}
        counts = [rounds or (_QUICK_ROUNDS if quick else one.rounds) for one in cases]
        results = []
        written = {**facts, "results": []}
        with Bar("", sum(counts), console, in_between=True) as shown:
            run = _Run(console, shown, where, with_compile, entered, is_file=op not in OPS)
            for one, count in zip(cases, counts, strict=True):
                results.append(run.measure(one, count))
                written["results"].append(results[-1].to_json())
                # After each case: a run that is ended from outside leaves what it has measured.
                _write(written, output)
    default = "foreach" if device == "cuda" else "loop"
    if op in OPS and any(default in result.times for result in results):
        console.print(f"{default} is what torch.optim does on {device} when no implementation is asked for.")
    if plot is not None:
        _plot(written, results, plot, cases[0])
    if before is not None:
        _compare(console, before, written)
    if any(result.faults for result in results):
        raise typer.Exit(1)


def _cases_of(op: str, device: torch.device) -> list[Case]:
    if files.is_file(op):
        return files.cases_of(Path(op), device)
    found: list[Case] = importlib.import_module(OPS[op]).cases(device)
    return found


def _rules(op: str, cases: list[Case], impl: list[str] | None) -> list[str]:
    """Lists what an implementation may stand for in these cases."""
    rules = dict.fromkeys(one.stands_for for one in cases if one.join is not None and one.stands_for is not None)
    if impl and not rules:
        raise ValueError(f"--impl must come with an operation whose cases take implementations, got {op}")
    return list(rules)


def _fitting(cases: list[Case], entered: list[Entrant], named: bool) -> list[Case]:
    """Leaves out the cases without an entrant, unless they are asked for by name."""
    fitting = [one for one in cases if one.join and any(e.stands_for == one.stands_for for e in entered)]
    for entrant in entered:
        if not any(one.stands_for == entrant.stands_for for one in fitting):
            raise ValueError(
                f"--impl must fit one of the cases {', '.join(one.name for one in cases)}, "
                f"got {entrant.name}, which stands for {entrant.stands_for}"
            )
    return fitting if entered and not named else cases


def _old(path: Path, op: str) -> dict[str, Any]:
    try:
        found = comparison.read(path)
        if found.get("op") != op:
            raise ValueError(f"must be a JSON file of onepass bench {op}, got {path} of {found.get('op')}")
    except ValueError as error:
        raise ValueError(f"--compare {error}") from None
    return found


@dataclass(frozen=True)
class _Run:
    """Holds what all cases of a run share."""

    console: Console
    shown: Bar
    device: torch.device
    with_compile: bool
    entered: list[Entrant]
    is_file: bool

    def measure(self, case: Case, rounds: int) -> Result:
        """Measures a case and prints its table; an error in a user's file ends the command with its place."""
        self.console.print(report.heading(case, rounds), markup=False)
        self.shown.begin(case.name)
        try:
            result = measure(
                case, rounds, self.device, self.with_compile, self.entered, after_round=self.shown.advance
            )
        except Exception as error:
            if not self.is_file:
                raise
            message = f"case {case.name}: {place_of(error)}"
            self.console.print(message, markup=False, style="bold red", soft_wrap=True)
            raise typer.Exit(1) from error
        self.console.print((case.table or report.table)(result))
        for note in [*result.notes, *report.faults(result)]:
            self.console.print(note, markup=False)
        return result


def _compare(console: Console, before: dict[str, Any], written: dict[str, Any]) -> None:
    found = comparison.changes(before, written)
    console.print("Compared with the old run; moved: the spreads (20 to 80 %) of the two runs do not touch.")
    console.print(comparison.table(found))
    for line in comparison.differences(before, written):
        console.print(f"The runs differ in {line}", markup=False, soft_wrap=True)


def _write(written: dict[str, Any], output: Path | None) -> None:
    if output is not None:
        with writing("output", output):
            output.write_text(json.dumps(written, indent=1) + "\n")


def _plot(written: dict[str, Any], results: list[Result], plot: Path, case: Case) -> None:
    described, versions = written["machine"], written["versions"]
    chip = described["gpus"][0] if written["device"] == "cuda" else described["cpu"]
    caption = (
        f"{chip}, {written['threads']} threads, "
        f"onepass {versions['onepass']}, torch {versions['torch']}, {written['date'][:10]}"
    )
    with writing("plot", plot):
        (case.plot or report.plot)(results, caption, plot)


@contextmanager
def _memory(console: Console, malloc: str) -> Iterator[None]:
    """Keeps freed memory for the time of the block, if asked to and glibc's malloc serves the process.

    torch's foreach allocates large temporaries in each step. By default each of them is a new mapping and costs
    page faults, which a program that keeps freed memory does not pay.
    """
    if malloc == _DEFAULT:
        yield
        return
    try:
        kept = keep_freed_memory()
    except RuntimeError as error:
        console.print(f"malloc stays as it is: {error}", markup=False)
        yield
        return
    console.print("Freed memory is kept (--malloc default leaves malloc as it is).")
    with kept:
        yield
