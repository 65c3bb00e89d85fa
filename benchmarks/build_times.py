"""Measures what builds from source take, and writes a JSON.

    python benchmarks/build_times.py --output benchmarks/results/build-times.json

Each build is a `pip install --no-deps` of a fresh clone of HEAD in a fresh virtual environment. It downloads the
build's own requirements, but not torch. Seconds on the clock need an idle machine. The CPU seconds are those of
all processes of the build together, and hardly depend on what else runs.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from onepass.bench import machine

ROOT = Path(__file__).resolve().parent.parent
SETTING = "--config-settings=cmake.define."
BUILDS = {
    "default": [],
    "one-generation": [f"{SETTING}CMAKE_CUDA_ARCHITECTURES=90"],
    "all-generations": [f"{SETTING}ONEPASS_CUDA_ARCHITECTURES=ALL"],
    "cpu": [f"{SETTING}ONEPASS_CUDA=OFF"],
}


def children_seconds() -> float:
    """Returns the CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Builds once, and says what was built and what it took."""
    clone, environment = folder / "clone", folder / "environment"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    arguments = ["-m", "pip", "install", "--no-deps", "--no-cache-dir", ".", *BUILDS[name]]
    cpu, began = children_seconds(), time.perf_counter()
    subprocess.run([environment / "bin" / "python", *arguments], cwd=clone, check=True)
    seconds, cpu = time.perf_counter() - began, children_seconds() - cpu
    return {
        "build": name,
        "command": " ".join(["python", *arguments]),
        "cuda_architectures": architectures(clone),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
    }


def architectures(clone: Path) -> str | None:
    """Returns the GPU generations that were compiled for, or None without CUDA."""
    for cache in clone.glob("build/*/CMakeCache.txt"):
        for line in cache.read_text().splitlines():
            if line.startswith("ONEPASS_BUILT_ARCHITECTURES:"):
                return line.partition("=")[2] or None
    return None


def tool_version(command: str) -> str | None:
    """Returns the first line with a digit that a compiler prints of its version, or None without the compiler."""
    try:
        printed = subprocess.run([command, "--version"], check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return next((line for line in printed.splitlines() if any(c.isdigit() for c in line)), None)


def main() -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--build", choices=[*BUILDS], action="append", help="one of the builds; default: each")
    parser.add_argument("--repeats", type=int, default=1, help="how often each is built, in turns")
    parser.add_argument("--output", type=Path, help="JSON to write")
    options = parser.parse_args()
    record = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": "python " + " ".join(["benchmarks/build_times.py", *sys.argv[1:]]),
        "commit": machine.commit(),
        "machine": machine.machine(),
        "versions": {"python": sys.version.split()[0], "g++": tool_version("g++"), "nvcc": tool_version("nvcc")},
        "results": [],
    }
    for _ in range(options.repeats):
        for name in options.build or BUILDS:
            with tempfile.TemporaryDirectory() as folder:
                record["results"].append(measure(name, Path(folder)))
            print(json.dumps(record["results"][-1]), flush=True)
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
