"""`onepass parity`: errors against float64, next to torch's, and silent faults, ours or any implementation's."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from onepass.bench import machine
from onepass.cli import check_picture, check_place, device_of, one_of, writing
from onepass.cli.implementation import Judged, judged
from onepass.cli.options import As, Compare, Impl, Kwargs
from onepass.cli.progress import Bar
from onepass.parity import OPS, report
from onepass.parity.case import AS_TORCH, REFUSES, WRONG, Case, Finding
from onepass.parity.compare import changes
from onepass.parity.harness import Refusal, Row
from onepass.parity.rule import FACTOR


def parity(
    op: Annotated[
        str, typer.Argument(parser=one_of("op", OPS), help=f"Measure one of: {', '.join(OPS)}.", metavar="OP")
    ],
    impl: Impl = None,
    kwargs: Kwargs = None,
    as_: As = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(help="Measure only this dtype: float32, bfloat16 or float16. May be repeated."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Take this many steps in each run.")] = 20,
    device: Annotated[
        str,
        # --backend stands in the commands of recorded results.
        typer.Option(
            "--device",
            "--backend",
            parser=one_of("device", ("cpu", "cuda")),
            help="Run on cpu or cuda.",
            metavar="DEVICE",
        ),
    ] = "cpu",
    strict: Annotated[
        bool, typer.Option("--strict", help="Take what torch's plain loop does wrong, too, for a fault.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Write the table to this JSON file.")
    ] = None,
    compare: Compare = None,
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw each row's share of its limit into this file.")
    ] = None,
) -> None:
    """Compare our errors with those of torch's plain loop; exit with 1 if ours break the rule.

    The rule: our error against float64 is at most twice torch's plus one unit in the last place (ulp). The table
    shows the largest errors after any step, and the step in which ours came nearest to its limit.

    With --impl, measure any implementation in the place of ours, and run the traps on it: inputs for which an
    implementation in use is wrong without an error. Exit with 1 if one is wrong silently. A refusal is no fault.
    """
    where = device_of("device", device)
    subject = judged(op, impl, kwargs or [], as_, where, strict)
    before = _places(json_file, plot, compare, op)
    module = importlib.import_module(OPS[op])
    known = {str(one).removeprefix("torch."): one for one in module.DTYPES}
    dtypes = [known[one_of("dtype", known)(name)] for name in dtype or known]
    console = Console()
    if subject is None:
        strict, who, measured = True, "ours", module.rows(dtypes, steps, where)
    else:
        _check_plain(subject.cases)
        who, measured = "theirs", subject.rows(dtypes, steps)
    found = list(_measured(console, measured, who, strict))
    findings = [] if subject is None else _trapped(console, subject.cases)
    broken = _print_sums(console, found, findings, who, strict)
    facts = {**machine.record(torch.get_num_threads()), "op": op, "device": device, "steps": steps}
    written = {**facts, **_results(subject, found, findings)}
    _write(written, found, json_file, plot)
    if before is not None:
        changed = changes(before, written)
        console.print(report.changes_table(changed, str(compare)) if changed else f"Nothing changed: {compare}.")
    if broken:
        raise typer.Exit(1)


def _places(json_file: Path | None, plot: Path | None, compare: Path | None, op: str) -> dict[str, Any] | None:
    """Checks what will be written and reads what will be compared, before minutes of work."""
    if json_file is not None:
        check_place("json", json_file)
    if plot is not None:
        check_picture("plot", plot)
    if compare is None:
        return None
    try:
        before: dict[str, Any] = json.loads(compare.read_text())
        there = before["op"], before["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise typer.BadParameter(
            f"compare must be a file that onepass parity --json wrote, got {compare} ({error})"
        ) from None
    if there[0] != op:
        raise typer.BadParameter(f"compare must be a file of the operation {op}, got {compare} of {there[0]}")
    return before


def _rule_and_dtype(row: Row | Refusal) -> tuple[str, str]:
    return row.rule, row.dtype


def _measured(
    console: Console, measured: Iterable[Row | Refusal], who: str, strict: bool
) -> Iterator[Row | Refusal]:
    with Bar("measuring", None) as bar:
        for (rule, name), some in groupby(bar.over(measured), key=_rule_and_dtype):
            table_rows = list(some)
            with bar.paused():
                console.print(report.rows_table(f"{rule} {name}", table_rows, who, strict))
            yield from table_rows


def _check_plain(cases: list[Case]) -> None:
    """Runs what must not be refused: else every row and case would be, and none of them wrong."""
    for finding in (case.run() for case in cases if case.required):
        if finding.verdict == REFUSES:
            raise typer.BadParameter(
                f"impl must take the case {finding.case}, without which the others say nothing, "
                f"got {finding.detail}"
            )


def _trapped(console: Console, cases: list[Case]) -> list[Finding]:
    with Bar("traps", len(cases)) as bar:
        findings = [case.run() for case in bar.over(cases)]
    findings = [finding for finding in findings if finding.verdict != "does not apply"]
    console.print(report.findings_table(findings))
    return findings


def _print_sums(
    console: Console, found: list[Row | Refusal], findings: list[Finding], who: str, strict: bool
) -> int:
    """Prints how many rows and cases are wrong; returns how many count as faults."""
    for refusal in {row.error: row for row in found if isinstance(row, Refusal)}.values():
        console.print(f"{refusal.options} ({refusal.dtype}): {refusal.error}", markup=False)
    rows = [row for row in found if isinstance(row, Row)]
    broken = sum(report.is_fault(row, strict) for row in rows)
    rule = f"err({who}) <= {FACTOR} err(torch) + 1 ulp"
    console.print(f"{len(rows)} rows, {broken} of them break {rule}, both against float64.")
    verdicts = [finding.verdict for finding in findings]
    if verdicts:
        sums = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in sorted(set(verdicts)))
        console.print(f"{len(verdicts)} traps: {sums}.")
    return broken + verdicts.count(WRONG) + (verdicts.count(AS_TORCH) if strict else 0)


def _results(subject: Judged | None, found: list[Row | Refusal], findings: list[Finding]) -> dict[str, Any]:
    """Makes the part of the JSON file that is found; without an implementation there are only rows."""
    rows = [row.to_json() for row in found if isinstance(row, Row)]
    if subject is None:
        return {"rows": rows}
    return {
        **subject.facts,
        "rows": rows,
        "refusals": [row.to_json() for row in found if isinstance(row, Refusal)],
        "findings": [finding.to_json() for finding in findings],
    }


def _write(written: dict[str, Any], found: list[Row | Refusal], json_file: Path | None, plot: Path | None) -> None:
    if json_file is not None:
        with writing("json", json_file):
            json_file.write_text(json.dumps(written, indent=1) + "\n")
    if plot is not None:
        rows = [row for row in found if isinstance(row, Row)]
        name = written.get("implementation", f"onepass parity {written['op']}")
        with writing("plot", plot):
            report.plot(rows, f"{name} ({written['device']}), torch {torch.__version__}", plot)
