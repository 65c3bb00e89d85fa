"""Checks that a wheel installs anywhere: its tag, what it needs and holds, and its size.

    python tests/check_wheel.py [--sdist SDIST] WHEEL...

Needs auditwheel, twine and check-wheel-contents. For each wheel it prints the manylinux tag, the symbols that keep
it from an older one, what the module needs, and the size. The exit status is 1 if a check fails:

1. auditwheel finds a manylinux tag, and the wheel's name carries one that is no older.
2. The module needs no library but those of `SYSTEM` and has no search path. The wheel holds no other library.
3. The files are those of python/onepass under version control, the one module, and the metadata. With --sdist they
   are also those of the package in the sdist.
4. The wheel is at most `LIMIT_MIB` large.
5. `twine check --strict` and `check-wheel-contents` find nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Every Linux with glibc has these. glibc before 2.34 keeps dlopen, threads and timers in libraries of their own,
# which a wheel that is built there names.
SYSTEM = {
    *("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1"),
    *("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"),
    *("libdl.so.2", "libpthread.so.0", "librt.so.1"),
}
# A wheel with all CUDA generations takes a good half of it.
LIMIT_MIB = 16
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


def audit(wheel: Path) -> dict[str, Any]:
    """What `auditwheel show` says."""
    command = [sys.executable, "-m", "auditwheel", "show", "--json", str(wheel)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def glibc_of(tag: str) -> tuple[int, ...]:
    """The version of glibc that a manylinux tag of any age asks for; nothing for other tags."""
    old = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
    found = re.match(r"manylinux_(\d+)_(\d+)_", tag)
    return (int(found[1]), int(found[2])) if found else old.get(tag.partition("_")[0], ())


def newest(names: list[str]) -> str:
    """The newest of one library's versioned symbols, of each family one."""
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for name in names:
        family, _, number = name.rpartition("_")
        if re.fullmatch(r"[\d.]+", number):
            version = tuple(int(part) for part in number.split("."))
            found[family] = max(found.get(family, ((), "")), (version, name))
    return " ".join(name for _, name in found.values())


def linked(module: bytes) -> tuple[set[str], list[str]]:
    """The shared libraries that a module needs, and its search paths."""
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile

    sections = [part for part in ELFFile(BytesIO(module)).iter_sections() if isinstance(part, DynamicSection)]
    tags = [tag for section in sections for tag in section.iter_tags()]
    needed = {tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"}
    return needed, [tag.entry.d_tag for tag in tags if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH")]


def package_files() -> set[str]:
    """The files of python/onepass under version control, as a wheel names them."""
    command = ["git", "-C", str(ROOT), "ls-files", "python/onepass"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {name.removeprefix("python/") for name in listed}


def sdist_files(sdist: Path) -> set[str]:
    """The files of the package in the sdist, as a wheel names them."""
    with tarfile.open(sdist) as archive:
        names = [member.name.partition("/")[2] for member in archive if member.isfile()]
    return {name.removeprefix("python/") for name in names if name.startswith("python/onepass/")}


def differences(what: str, wanted: set[str], got: set[str]) -> list[str]:
    """A line for each name that is in one of the two only."""
    lines = [f"{what} {name} is missing" for name in sorted(wanted - got)]
    return lines + [f"{what} {name} must not be there" for name in sorted(got - wanted)]


def tag_faults(wheel: Path) -> list[str]:
    """Checks the platform tag, and prints it with its reason."""
    seen = audit(wheel)
    tag = str(seen["overall_tag"])
    symbols = {library: newest(names) for library, names in seen["versioned_symbols"].items()}
    print(f"  tag: {tag}, for {', '.join(f'{name} of {library}' for library, name in symbols.items())}")
    if not glibc_of(tag):
        return [f"auditwheel must find a manylinux tag, got {tag}"]
    named = [glibc_of(part) for part in wheel.stem.split("-")[-1].split(".") if glibc_of(part)]
    if not named or min(named) < glibc_of(tag):
        return [f"the name must carry {tag} or a newer tag, got {wheel.name}: run auditwheel repair"]
    return []


def faults(wheel: Path, package: set[str]) -> list[str]:
    """Everything that is wrong with one wheel, a line each."""
    size = wheel.stat().st_size / 2**20
    print(f"{wheel.name}\n  size: {size:.1f} MiB (at most {LIMIT_MIB})")
    found = [f"the wheel must have at most {LIMIT_MIB} MiB, got {size:.1f}"] if size > LIMIT_MIB else []
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if not name.endswith("/")}
        modules = [name for name in files if re.search(r"\.so(\.\d+)*$", name)]
        abi = wheel.name.split("-")[2]
        pattern = rf"onepass/_core\.cpython-{abi.removeprefix('cp')}-[\w-]+\.so"
        if len(modules) != 1 or not re.fullmatch(pattern, modules[0]):
            return [
                *found,
                f"the wheel must hold onepass/_core for {abi} and no other library, got {sorted(modules)}",
            ]
        needed, paths = linked(archive.read(modules[0]))
    metadata = {f"onepass-{wheel.name.split('-')[1]}.dist-info/{name}" for name in METADATA}
    found += differences("the file", package | metadata | set(modules), files)
    print(f"  needs: {', '.join(sorted(needed))}")
    found += [f"the module must not need {name}" for name in sorted(needed - SYSTEM)]
    found += [f"the module must have no {path}" for path in paths]
    return found + tag_faults(wheel)


def main() -> int:
    """Checks each wheel; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description="Checks that wheels install anywhere.")
    parser.add_argument("wheels", nargs="+", type=Path, metavar="WHEEL")
    parser.add_argument("--sdist", type=Path, help="the package's files must also be those of this sdist")
    given = parser.parse_args()
    package = package_files()
    found = differences("in the sdist, the file", package, sdist_files(given.sdist)) if given.sdist else []
    for wheel in given.wheels:
        found += [f"{wheel.name}: {fault}" for fault in faults(wheel, package)]
    everything = [str(path) for path in [*given.wheels, *([given.sdist] if given.sdist else [])]]
    for command in (
        ["twine", "check", "--strict", *everything],
        ["check_wheel_contents", *everything[: len(given.wheels)]],
    ):
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            found.append(f"{' '.join(command[:2])}: {done.stdout}{done.stderr}")
    print("\n".join(f"fault: {fault}" for fault in found) or f"{len(given.wheels)} wheels are as they must be")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
