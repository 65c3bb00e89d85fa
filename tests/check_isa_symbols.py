"""Proves by disassembly that each CPU kernel is built for its instruction set, and that none leaks into another's.

    python tests/check_isa_symbols.py BUILD_DIR

BUILD_DIR is a finished CMake build of the package. The proof has four parts:

1. The loops of each operation use the registers of their instruction set, with packed arithmetic, no instruction
   of a higher set and no fused multiply-add that no formula asks for (which would give each set its own bits).
2. Every function that an object of an instruction set offers to the linker carries the namespace of that set and
   is in no other object. The linker could keep the AVX-512 form of a shared inline function or template, which
   would then stop a program on a machine without AVX-512.
3. All kernels are in the linked module.
4. All code of the module that needs more than the baseline is a copy of such a kernel. The module is stripped and
   its bindings are compiled at link time, so functions are found by their unwind entries and compared by their
   instructions.

The exit status is 1 if a part fails, or objdump or nm is missing, and 0 on machines other than x86-64, which have
one set.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REGISTER = {"baseline": "xmm", "avx2": "ymm", "avx512": "zmm"}
# Packed arithmetic that every loop of an operation must hold, in each type it computes in.
ARITHMETIC = {
    "adam": "mul add sub sqrt div",
    "augment": "mul add sub",
    "batch_norm": "mul sub",
    "clip": "mul",
    "cross_entropy": "fmadd mul",
    "dropout": "mul",
    "lion": "mul add sub",
    "merge_ranks": "",  # a few rows for each channel
    "row_norm": "mul",
    "sgd": "mul add sub",
    "statistics": "",  # a few rows in a leaf: no loop over elements
    "probe": "mul add",
}
BOTH = ("float", "double")
# Operations whose formulas ask for fused multiply-adds (csrc/core/fused.h). The baseline, which has none, makes
# them for float in double, and calls the C library for double.
FUSES = {"augment", "cross_entropy"}
# Those whose loops do so on the baseline, too: augment's divide there.
EMULATES = {"cross_entropy"}
TYPES = {
    "adam": BOTH,
    "augment": ("float",),
    "batch_norm": BOTH,
    "clip": BOTH,
    "cross_entropy": BOTH,
    "dropout": BOTH,
    "lion": BOTH,
    "row_norm": BOTH,
    "sgd": BOTH,
    "merge_ranks": (),
    "statistics": (),
    "probe": ("float",),
}
# Loops of these operations that are exceptions: without products (a clamp), without differences (a gradient with
# constant statistics), or without packed code (a power; doubles with flags of one byte, in the baseline).
ONLY = {
    "batch_norm": re.compile(
        r"math::(?:ShiftedSums|GradientSums)<|math::Gradient<\w+, \w+, true>"
        r"|math::Normalise<(?!double, true, true)"
    ),
    "cross_entropy": re.compile(
        r"exponential_elements|add_classes|walk_classes(?:_nontemporal)?<true|(?:add|walk)_panel"
    ),
    "clip": re.compile(r"math::Scale<|add_strip<\S*math::SquareSum,"),
}
SUFFIX = {"float": "ps", "double": "pd"}
TOOLS = ("objdump", "nm")

# VEX and EVEX mnemonics begin with v, those on mask registers with k; the rest of x86-64-v2 to v4 by name.
BEYOND_BASELINE = re.compile(
    r"v(?!err|erw|mcall)\w+|k(?:mov|and|or|not|xor|xnor|add|test|shift|unpck)\w*"
    r"|(?:andn|bextr|bls[ir]|blsmsk|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx|movbe|lzcnt|popcnt)[lqw]?"
    r"|p(?:shufb|blend\w+|min[su]d|max[su]d|mulld|mov[sz]x\w+|insr[bdq]|extr[bdq]|test)"
    r"|round[ps][sd]|blend\w+|dpp[sd]|insertps|extractps|crc32\w*|cmpxchg16b|movddup|movs[hl]dup|h(?:add|sub)p[sd]"
)
BEYOND_AVX2 = re.compile(r"%zmm|%k[0-7]|%[xy]mm(?:1[6-9]|2\d|3[01])")
FUSED = re.compile(r"vfn?m(?:add|sub)")


@dataclass(frozen=True)
class Function:
    """Holds one function: its demangled name (an address in the module) and its instructions."""

    name: str
    code: tuple[str, ...]

    def beyond_baseline(self) -> tuple[str, ...]:
        """Returns the instructions that a baseline processor lacks, without addresses: the linker changes them."""
        wide = (line for line in self.code if BEYOND_BASELINE.fullmatch(line.split()[0]))
        return tuple(" ".join([line.split()[0], *re.findall(r"%[xyz]mm\d+|%k\d", line)]) for line in wide)


def tool(*command: str | Path) -> str:
    """Runs a tool; returns what it prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def instructions(path: Path) -> Iterator[tuple[str, int, str]]:
    """Yields function, address and instruction of all code of a file; the function is "" without symbols."""
    name = ""
    for line in tool("objdump", "-d", "-C", "-w", "--no-show-raw-insn", path).splitlines():
        if line.endswith(">:"):
            name = line[line.index("<") + 1 : -2]
        elif match := re.match(r" *([0-9a-f]+):\t(.*)", line):
            yield name, int(match[1], 16), re.sub(r"^(?:\{\w+\}|notrack|bnd|lock|rep\w*) ", "", match[2])


def functions_of_object(path: Path) -> list[Function]:
    """Returns the functions of an object file, by its symbols."""
    found: dict[str, list[str]] = {}
    for name, _, instruction in instructions(path):
        found.setdefault(name, []).append(instruction)
    return [Function(name, tuple(code)) for name, code in found.items()]


def functions_of_module(path: Path) -> list[Function]:
    """Returns the functions of a linked module, by its unwind entries, which stripping keeps."""
    entries = re.findall(r"FDE .*pc=([0-9a-f]+)\.\.([0-9a-f]+)", tool("objdump", "--dwarf=frames", path))
    ranges = sorted((int(begin, 16), int(end, 16)) for begin, end in entries)
    found: dict[str, list[str]] = {}
    for _, address, instruction in instructions(path):
        at = bisect_right(ranges, (address, sys.maxsize)) - 1
        inside = at >= 0 and address < ranges[at][1]
        found.setdefault(f"{ranges[at][0]:#x}" if inside else "outside", []).append(instruction)
    return [Function(name, tuple(code)) for name, code in found.items()]


def loops(functions: list[Function], computed: str, only: re.Pattern[str] | None = None) -> list[Function]:
    """Returns the functions that walk over elements, computing in a type."""
    walk = re.compile(
        rf"update_(?:range|strips)<{computed},"
        + rf"|update_(?:bfloat16_pairs|stored_strip|with_tail|measured)<.*<{computed}>"
        + rf"|(?:walk_(?:along|across)(?:_nontemporal)?|add_run|add_rows)<onepass::math::\w+<{computed}[,>]"
        + rf"|drop_elements<onepass::math::\w+<{computed}[,>]"
        + rf"|(?:reduce_strip|walk_(?:row|gradient)(?:_nontemporal)?)<onepass::math::\w+<{computed}[,>]"
        + r"|(?:add_classes|walk_classes(?:_nontemporal)?|(?:add|walk)_panel|exponential_elements)"
        + rf"<(?:.*[< ])?{computed}>"
        + ("|probe_part<|blend_taps<" if computed == "float" else "|add_strip<")
    )
    return [f for f in functions if walk.search(f.name) and (not only or only.search(f.name))]


def holds_packed(function: Function, isa: str, operation: str, suffix: str) -> bool:
    """Says whether a function has an operation on full registers of an instruction set."""
    mnemonic = re.compile(("" if isa == "baseline" else "v") + operation + r"(?:\d{3})?" + suffix)
    return any(mnemonic.match(line.split()[0]) and f"%{REGISTER[isa]}" in line for line in function.code)


def foreign(function: Function, isa: str, *, fuses: bool) -> list[str]:
    """Returns the instructions of a function that its instruction set must not have."""
    wrong = [line for line in function.code if FUSED.match(line) and not fuses]
    if isa == "baseline":
        wrong += function.beyond_baseline()
    if isa == "avx2":
        wrong += [line for line in function.code if BEYOND_AVX2.search(line)]
    return wrong


def check_code(stem: str, isa: str, functions: list[Function]) -> list[str]:
    """Proves part 1 for one object file; returns the faults."""
    faults = []
    for function in functions:
        if wrong := foreign(function, isa, fuses=stem in FUSES):
            faults.append(
                f"{len(wrong)} instructions that {isa} must not hold, as `{wrong[0]}`, in {function.name}"
            )
    emulates = isa == "baseline" and stem in EMULATES
    for computed in TYPES[stem]:
        if emulates and computed == "double":
            continue
        walks = loops(functions, computed, ONLY.get(stem))
        if emulates:  # a choice by class between results in double stays scalar
            walks = [walk for walk in walks if "walk_panel" not in walk.name]
        if not walks:
            faults.append(f"no loop over {computed} found")
        for function in walks:
            wanted = "mul add sub" if emulates else ARITHMETIC[stem]
            suffix = SUFFIX["double" if emulates else computed]
            lacking = [name for name in wanted.split() if not holds_packed(function, isa, name, suffix)]
            if lacking:
                register = REGISTER[isa]
                faults.append(f"no packed {', '.join(lacking)} of {computed} in {register} in {function.name}")
    return faults


def offered(path: Path) -> dict[str, str]:
    """Returns the functions that an object file offers to the linker: mangled name to demangled name."""
    names = [tool("nm", "-p", "-g", "--defined-only", *options, path).splitlines() for options in ((), ("-C",))]
    pairs = [(plain.split(maxsplit=2), pretty.split(maxsplit=2)) for plain, pretty in zip(*names, strict=True)]
    return {plain[2]: pretty[2] for plain, pretty in pairs if len(plain) == 3 and plain[1] in "TtWwi"}


def check_sharing(objects: dict[str, list[Path]], common: list[Path]) -> list[str]:
    """Proves part 2: each instruction set's objects offer only what is its own."""
    owners: dict[str, set[str]] = {}
    faults = []
    for isa, paths in objects.items():
        for path in paths:
            for mangled, name in offered(path).items():
                owners.setdefault(mangled, set()).add(isa)
                if f"onepass::{isa}::" not in name:
                    faults.append(
                        f"{isa}/{path.name}: {name} is not in namespace onepass::{isa}: others may share it"
                    )
    for path in common:
        for mangled in offered(path).keys() & owners.keys():
            owners[mangled].add(f"{path.parent.name}/{path.name}")
    shared = {mangled: sorted(where) for mangled, where in owners.items() if len(where) > 1}
    return faults + [f"{mangled} is offered by {' and '.join(where)}" for mangled, where in shared.items()]


def check_module(kernels: list[Function], module: list[Function]) -> list[str]:
    """Proves parts 3 and 4 for one linked module."""
    wanted = {code: f.name for f in kernels if (code := f.beyond_baseline())}
    found = {code: f.name for f in module if (code := f.beyond_baseline())}
    faults = [f"lacks {wanted[code]}" for code in wanted.keys() - found.keys()]
    for code in found.keys() - wanted.keys():
        faults.append(f"code at {found[code]} is no kernel and needs more than the baseline: `{code[0]}`")
    return faults


def report(title: str, faults: list[str]) -> bool:
    """Prints one line, and one for each fault; returns True if there is no fault."""
    print(f"{'FAIL' if faults else 'ok  '} {title}")
    for fault in faults:
        print(f"       {fault}")
    return not faults


def check(build: Path) -> bool:
    """Runs all parts for a build folder."""
    every = sorted(build.rglob("*.o"))
    objects = {isa: [p for p in every if f"onepass_{isa}.dir" in p.parts] for isa in REGISTER}
    common = [p for p in every if not any(p in paths for paths in objects.values())]
    modules = sorted(build.glob("_core*.so"))
    if not report(f"{build}: a linked module", [] if modules else ["no _core*.so: not a finished build folder"]):
        return False
    good = True
    kernels: list[Function] = []
    for isa, paths in objects.items():
        stems = {p.name.split(".")[0]: p for p in paths}
        missing = [f"no object file of {stem}" for stem in ARITHMETIC.keys() - stems.keys()]
        unknown = [f"ARITHMETIC in this script does not know {stem}" for stem in stems.keys() - ARITHMETIC.keys()]
        good &= report(f"{isa}: the operations {', '.join(sorted(stems))}", missing + unknown)
        for stem in sorted(stems.keys() & ARITHMETIC.keys()):
            functions = functions_of_object(stems[stem])
            kernels += functions
            title = f"{isa}: {stem} computes in {REGISTER[isa]} ({ARITHMETIC[stem]}; {len(functions)} functions)"
            good &= report(title, check_code(stem, isa, functions))
    count = sum(len(offered(p)) for paths in objects.values() for p in paths)
    good &= report(
        f"{count} functions offered to the linker are each their own instruction set's",
        check_sharing(objects, common),
    )
    for path in modules:
        module = functions_of_module(path)
        wide = sum(bool(f.beyond_baseline()) for f in module)
        title = f"{path.name}: of {len(module)} functions the {wide} beyond the baseline are the kernels"
        good &= report(title, check_module(kernels, module))
    return good


def main(arguments: list[str]) -> int:
    """Runs the command; returns the exit status."""
    if len(arguments) != 1:
        print("usage: check_isa_symbols.py BUILD_DIR")
        return 1
    if platform.machine().lower() not in ("x86_64", "amd64"):
        print(f"nothing to check: {platform.machine()} has one instruction set; only x86-64 has several")
        return 0
    if missing := [name for name in TOOLS if not shutil.which(name)]:
        print(f"check_isa_symbols.py needs {' and '.join(missing)} (binutils) on PATH")
        return 1
    good = check(Path(arguments[0]))
    print("every instruction set keeps to itself" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
