"""Describes the machine and the software, for figures and for bug reports."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy
import torch

import onepass
from onepass import _freed_memory, _native

# Environment variables that change the speed, or which code runs.
_ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "GLIBC_TUNABLES", "ONEPASS_ISA")
_ENVIRONMENT_PREFIXES = ("GOMP_", "KMP_", "MALLOC_", "OMP_")
# Left out when git is asked for changes.
_RESULTS = ":(exclude)benchmarks/results"


def machine() -> dict[str, Any]:
    """Describes CPU, cores, memory, GPUs and operating system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "ram_gib": round(memory / 2**30, 1),
        "gpus": gpus(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()).strip(),
    }


def cpu_model() -> str:
    """Returns the CPU's name, or its architecture where the system does not give the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def gpus() -> list[str]:
    """Lists names and compute capabilities of the GPUs that torch sees."""
    if not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        found.append(f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})")
    return found


def versions() -> dict[str, Any]:
    """Returns the versions, and how the native module was built."""
    build = _native.core.build_info()
    return {
        "onepass": onepass.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "numpy": numpy.__version__,
        "compiler": build["compiler"],
        "isa": build["isa"],
        "isa_compiled": build["isa_compiled"],
        "cuda": build["cuda"],
    }


def environment() -> dict[str, str]:
    """Returns the environment variables that are set and change the speed, or which code runs."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }


def record(threads: int) -> dict[str, Any]:
    """Makes the head of every JSON in benchmarks/results: command, commit, machine, versions.

    Args:
        threads: How many threads the run used.
    """
    return {
        "command": " ".join(["onepass", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "threads": threads,
        "environment": environment(),
        "malloc": _freed_memory.describe(),
    }


def commit() -> str | None:
    """Returns the commit of the checkout that holds the package or the working directory, or None without one.

    "-dirty" follows if files under version control were changed. `benchmarks/results` does not count: the files
    that one run writes there say nothing about the code of the next.
    """
    for folder in (Path(onepass.__file__).parent, Path.cwd()):
        top = _git(folder, "rev-parse", "--show-toplevel")
        # Another project's repository may hold the virtual environment.
        if top and _git(Path(top), "ls-files", "python/onepass/__init__.py"):
            changed = _git(Path(top), "status", "--porcelain", "--untracked-files=no", "--", ".", _RESULTS)
            return f"{_git(Path(top), 'rev-parse', 'HEAD')}{'-dirty' if changed else ''}"
    return None


def _git(folder: Path, *arguments: str) -> str:
    """Output of a git command, empty if it fails or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
