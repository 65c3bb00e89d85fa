"""Runs the smoke suite on an installed wheel with one torch, numpy and Python, and writes what happened.

    python benchmarks/torch_matrix.py WHEEL --torch 2.15.0 [--numpy 2] [--demo EPOCHS] [--output DIR]

The Python that runs this file makes a fresh virtual environment in a temporary folder, installs the wheel there,
and runs `onepass demo` (with --demo) and a copy of tests/smoke. No other program is on PATH: no compiler, no git.
The JSON goes to DIR/torch-2.15.0-py3.13-numpy2.4.json, named by what was installed. The exit status is 1 if
anything failed.

torch for Linux needs NVIDIA's libraries to be imported, also without a GPU: some 3 GB in each environment. With
`--libraries FOLDER` they come from the site-packages folder of another environment, for the same major version of
CUDA, and torch is installed without its dependencies. The folder is searched after the environment's own.
"""

from __future__ import annotations

import argparse
import email
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
import xml.etree.ElementTree
import zipfile
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "tests" / "smoke"
# What torch needs besides NVIDIA's libraries.
PURE = ("filelock", "typing-extensions", "sympy", "networkx", "jinja2", "fsspec", "setuptools")
# The suite must end within two minutes; a machine under load may take twice that.
SMOKE_SECONDS = 240
DEMO_SECONDS = 1800


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Runs the smoke suite on an installed wheel with one torch.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--torch", required=True, help="the version of torch, for example 2.15.0")
    parser.add_argument("--numpy", help="the version of numpy, or the beginning of one: 1.26 or 2")
    parser.add_argument("--demo", type=int, metavar="EPOCHS", help="also run onepass demo, this long")
    parser.add_argument("--libraries", type=Path, help="take NVIDIA's libraries from this site-packages folder")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "torch-matrix")
    return parser.parse_args()


def requirements(wheel: Path, extra: str) -> list[str]:
    """What a wheel asks for, but torch, also for one extra."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        asked = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    parts = [line.partition(";") for line in asked]
    wanted = [name.strip() for name, _, marker in parts if "extra" not in marker or f'"{extra}"' in marker]
    return [name for name in wanted if not name.startswith("torch>")]


def install(given: argparse.Namespace, home: Path) -> Path:
    """Makes the environment in `home`; returns the folder of its programs."""
    venv.create(home, with_pip=True, symlinks=True)
    programs = home / "bin"
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    torch, wheel, extra = f"torch=={given.torch}", str(given.wheel.resolve()), "demo" if given.demo else ""
    others = ["pytest>=8", *([f"numpy=={given.numpy}.*"] if given.numpy else [])]
    if given.libraries:
        subprocess.run([*pip, *others, *PURE, *requirements(given.wheel, extra)], check=True)
        subprocess.run([*pip, "--no-deps", torch, wheel], check=True)
        (site,) = (home / "lib").glob("python*/site-packages")
        (site / "libraries.pth").write_text(f"{given.libraries.resolve()}\n")
    else:
        subprocess.run([*pip, *others, torch, f"{wheel}[{extra}]" if extra else wheel], check=True)
    return programs


def options(given: argparse.Namespace) -> str:
    """The options of the command line, without the folders of this machine."""
    asked = {
        "torch": given.torch,
        "numpy": given.numpy,
        "demo": given.demo,
        "libraries": given.libraries and "FOLDER",
    }
    return "".join(f" --{name} {value}" for name, value in asked.items() if value)


def run(programs: Path, folder: Path, limit: float, *command: str) -> tuple[int, float, str]:
    """Runs one program of the environment in a folder; returns status (124: too slow), seconds and output."""
    start = time.monotonic()
    kept = {name: value for name, value in os.environ.items() if name.startswith("OMP_")}
    printed = folder / "printed.txt"
    with printed.open("w") as stream:
        try:
            status = subprocess.run(
                [str(programs / command[0]), *command[1:]],
                cwd=folder,
                env={**kept, "PATH": str(programs), "HOME": str(folder), "ONEPASS_INSTALLED": "1"},
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=limit,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = 124
    return status, round(time.monotonic() - start, 1), printed.read_text()


def counts(report: Path) -> dict[str, object]:
    """How many tests ended how, and the names of those that did not pass."""
    found = {"passed": 0, "failed": 0, "skipped": 0}
    names: dict[str, list[str]] = {"failed": [], "skipped": []}
    for case in xml.etree.ElementTree.parse(report).iter("testcase") if report.exists() else ():
        ends = {child.tag for child in case}
        verdict = "failed" if ends & {"failure", "error"} else "skipped" if "skipped" in ends else "passed"
        found[verdict] += 1
        if verdict in names:
            names[verdict].append(f"{case.get('classname')}::{case.get('name')}")
    return {**found, "not_passed": names}


def commit(wheel: Path) -> str:
    """The commit of the tree that built the wheel; "-dirty" follows if what goes into a wheel was changed.

    Raises:
        SystemExit: The Python files in the wheel are not those of the tree, so another tree built it.
    """
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            here = ROOT / "python" / name
            if name.endswith(".py") and not (here.exists() and here.read_bytes() == archive.read(name)):
                raise SystemExit(
                    f"torch_matrix: the wheel must be built from this tree, got another {name} in {wheel}"
                )
    asked = ["git", "-C", str(ROOT)]
    head = subprocess.run([*asked, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    changes = [*asked, "status", "--porcelain", "--untracked-files=no", "--", "python", "csrc", "cmake"]
    changed = subprocess.run(changes, capture_output=True, text=True, check=True).stdout
    return f"{head}-dirty" if changed else head


def main() -> int:
    """Installs, runs, writes; 1 if a program failed."""
    given = arguments()
    built_by, failed = commit(given.wheel), False
    with tempfile.TemporaryDirectory(prefix="onepass-matrix-") as name:
        folder = Path(name)
        programs = install(given, folder / "venv")
        shutil.copytree(SMOKE, folder / "smoke", ignore=shutil.ignore_patterns("__pycache__"))
        made: dict[str, object] = {
            "command": f"python benchmarks/torch_matrix.py {given.wheel.name}{options(given)}",
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "commit": built_by,
            "wheel": given.wheel.name,
        }
        status, _, printed = run(programs, folder, 60, "onepass", "info", "--json")
        if status:
            print(printed)
            return 1
        facts = json.loads(printed[printed.index("{") :])
        facts["openmp_runtime"] = Path(facts["openmp_runtime"]).name
        made["facts"] = facts
        if given.demo:
            status, seconds, printed = run(
                programs, folder, DEMO_SECONDS, "onepass", "demo", f"--epochs={given.demo}"
            )
            made["demo"] = {"epochs": given.demo, "exit": status, "seconds": seconds}
            failed |= status != 0
            print(printed[-3000:])
        command = ("python", "-m", "pytest", "smoke", "-q", "-p", "no:cacheprovider", "--junitxml=report.xml")
        status, seconds, printed = run(programs, folder, SMOKE_SECONDS, *command)
        print(printed[-6000:])
        made["smoke"] = {"exit": status, "seconds": seconds, **counts(folder / "report.xml")}
        failed |= status != 0
    short = {name: ".".join(facts[name].split(".")[:2]) for name in ("python", "numpy")}
    names = [f"torch-{facts['torch'].partition('+')[0]}", f"py{short['python']}", f"numpy{short['numpy']}"]
    given.output.mkdir(parents=True, exist_ok=True)
    path = given.output / f"{'-'.join(names)}.json"
    path.write_text(json.dumps(made, indent=1) + "\n")
    print(f"wrote {path}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
