"""Checks onepass on a GPU within minutes: is it right, are its memory accesses clean, how fast is it.

    benchmarks/gpu/check --output FOLDER

Needs one NVIDIA GPU, a CUDA build of torch, the installed wheel, and this source tree for the tests. Each stage
has its own limit of time, and one that fails does not stop the others. The folder receives three files:
check.json says after each stage what became of it, parity.json and bench.json hold the figures by operation.

`--rehearse` goes the same way without a GPU: kernels run on the host by onepass._core_simt, benchmarks take a few
rounds of small cases on the CPU. Its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OPS = ("optim", "tail", "batch_norm", "norm", "dropout", "cross_entropy", "augment")
REHEARSED_CASES = {
    "optim": "overhead",
    "tail": "clip-small-1000x1024",
    "batch_norm": "overhead",
    "norm": "overhead",
    "dropout": "overhead",
    "cross_entropy": "256x1000",
    "augment": "crop-nchw",
}
"""Small cases, by the operation that they are of."""
LEAST_SECONDS = 5.0
"""A stage that has less left is not begun."""
KEPT_OUTPUT = 4000
"""How many characters of a stage's output check.json keeps: the last ones."""


@dataclass(frozen=True)
class Stage:
    """A part of the check: a command with a limit of time."""

    name: str
    seconds: float
    """The command is killed after this time."""
    command: list[str]
    writes: Path | None = None
    """The JSON that the command writes; read also when the command failed."""


@dataclass(frozen=True)
class Outcome:
    """What became of a stage."""

    name: str
    result: str
    """passed, failed, timed out, or not run."""
    seconds: float
    limit: float
    command: str
    exit_status: int | None
    output: str


def stages(folder: Path, rehearse: bool) -> list[Stage]:
    """Lists the stages, the most important first.

    Args:
        folder: Where commands write their JSONs.
        rehearse: Whether there is no GPU.
    """
    python = sys.executable
    device = ["--device", "cpu" if rehearse else "cuda"]
    small = [python, str(HERE / "small_run.py"), *device]
    sanitizers: list[tuple[str, list[str]]] = [
        (tool, [] if rehearse else ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"])
        for tool in ("memcheck", "racecheck")
    ]
    backend, tests = ("simt", "tests/test_exp.py") if rehearse else ("cuda", "tests")
    return [
        Stage("info", 30, [python, "-m", "onepass", "info", "--json"]),
        *(_parity(op, device, folder / f"parity-{op}.json", rehearse) for op in OPS),
        Stage("small-run", 60, small),
        *(Stage(tool, 60, [*sanitizer, *small]) for tool, sanitizer in sanitizers),
        Stage("tests", 100, [python, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", backend, tests]),
        *(_bench(op, device, folder / f"bench-{op}.json", rehearse) for op in OPS),
    ]


def _parity(op: str, device: list[str], target: Path, rehearse: bool) -> Stage:
    onepass = [str(HERE / "on_host.py")] if rehearse else ["-m", "onepass"]
    steps = ["--steps", "2"] if rehearse else []
    command = [sys.executable, *onepass, "parity", op, *device, *steps, "--json", str(target)]
    return Stage(f"parity-{op}", 40, command, target)


def _bench(op: str, device: list[str], target: Path, rehearse: bool) -> Stage:
    how = ["--quick", "--case", REHEARSED_CASES[op]] if rehearse else ["--compile"]
    command = [sys.executable, "-m", "onepass", "bench", op, *device, *how, "--output", str(target)]
    return Stage(f"bench-{op}", 60, command, target)


def run(stage: Stage, left: float, environment: dict[str, str]) -> Outcome:
    """Runs one stage, and ends it and all its processes when its time is up.

    Args:
        stage: What to run.
        left: Seconds that are left to the whole check.
        environment: Variables of the command.
    """
    limit, command = min(stage.seconds, left), " ".join(stage.command)
    if limit < LEAST_SECONDS:
        return Outcome(stage.name, "not run", 0, limit, command, None, f"{left:.0f} s were left")
    if shutil.which(stage.command[0]) is None:
        return Outcome(stage.name, "not run", 0, limit, command, None, f"{stage.command[0]} is not installed")
    began = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            stage.command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
        output.seek(0)
        said = output.read()[-KEPT_OUTPUT:]
    result = "timed out" if status is None else "passed" if status == 0 else "failed"
    return Outcome(stage.name, result, round(time.perf_counter() - began, 1), limit, command, status, said)


def gather(done: list[Stage], folder: Path) -> None:
    """Copies what the stages wrote: the parity tables into one file, the benchmarks into another."""
    found: dict[str, dict[str, Any]] = {}
    for stage in done:
        if stage.writes is not None and stage.writes.exists():
            kind, _, op = stage.name.partition("-")
            found.setdefault(kind, {})[op] = json.loads(stage.writes.read_text())
    for kind, figures in found.items():
        (folder / f"{kind}.json").write_text(json.dumps(figures, indent=1) + "\n")


def check(folder: Path, rehearse: bool, minutes: float, say: Callable[[str], None]) -> bool:
    """Runs all stages, and writes after each what is known.

    Args:
        folder: Receives the files.
        rehearse: Whether there is no GPU.
        minutes: Limit of time for all stages together.
        say: Receives a line a stage.

    Returns:
        Whether all stages passed.
    """
    end = time.monotonic() + 60 * minutes
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TERM": "dumb", "COLUMNS": "100"}
    outcomes: list[Outcome] = []
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        done: list[Stage] = []
        for stage in stages(Path(scratch), rehearse):
            outcomes.append(run(stage, end - time.monotonic(), environment))
            done.append(stage)
            gather(done, folder)
            record = {"rehearsed": rehearse, "stages": [asdict(outcome) for outcome in outcomes]}
            (folder / "check.json").write_text(json.dumps(record, indent=1) + "\n")
            say(f"{outcomes[-1].name:22} {outcomes[-1].result:10} {outcomes[-1].seconds:6.1f} s")
    return all(outcome.result == "passed" for outcome in outcomes)


def main() -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the JSONs; made if it is not there")
    parser.add_argument("--minutes", type=float, default=9.0, help="limit of time for all stages (default: 9)")
    parser.add_argument("--rehearse", action="store_true", help="go the same way without a GPU")
    options = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)

    return 0 if check(options.output, options.rehearse, options.minutes, say) else 1


if __name__ == "__main__":
    sys.exit(main())
