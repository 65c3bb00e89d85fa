"""The instruction set that is asked for is the one in use, and the installed module holds code for each."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import check_isa_symbols as disassembly
from onepass import _native

X86 = platform.machine().lower() in ("x86_64", "amd64")
# The features that a processor needs for each, by Linux's names; from the definition of x86-64-v3 and v4.
FLAGS = {
    "baseline": set(),
    "avx2": {"avx2", "fma", "bmi2", "f16c"},
    "avx512": {"avx2", "fma", "bmi2", "f16c", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}
REPORT = "from onepass import _native; print(_native.core.build_info()['isa'])"


def import_with(isa: str | None) -> subprocess.CompletedProcess[str]:
    """Imports the package in a process of its own, where ONEPASS_ISA is read, and prints the ISA in use."""
    environment = {name: value for name, value in os.environ.items() if name != "ONEPASS_ISA"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    if isa is not None:
        environment["ONEPASS_ISA"] = isa
    return subprocess.run(
        [sys.executable, "-c", REPORT], env=environment, capture_output=True, text=True, check=False
    )


def runs_here() -> list[str]:
    """Lists the instruction sets of this processor, in another way than the package does."""
    if not X86:
        return ["baseline"]
    info = Path("/proc/cpuinfo")
    if not info.exists():
        pytest.skip("no /proc/cpuinfo to compare with")
    flags = next(set(line.split()) for line in info.read_text().splitlines() if line.startswith("flags"))
    return [isa for isa, needed in FLAGS.items() if needed <= flags]


def test_compiled():
    assert _native.core.build_info()["isa_compiled"] == (["baseline", "avx2", "avx512"] if X86 else ["baseline"])


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_asked_for(isa):
    done = import_with(isa)
    if isa in runs_here():
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == isa
    else:
        assert done.returncode != 0
        wanted = f"ONEPASS_ISA={isa} does not run on this processor"
        assert wanted in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("unset", [None, ""], ids=["unset", "empty"])
def test_best_by_default(unset):
    done = import_with(unset)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == runs_here()[-1]


@pytest.mark.parametrize("wrong", ["avx", "AVX2", "avx5120"])
def test_unknown_name(wrong):
    done = import_with(wrong)
    assert done.returncode != 0
    assert not done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith(("ImportError: ", "RuntimeError: "))
    assert f"ONEPASS_ISA must be baseline, avx2 or avx512, got {wrong}" in done.stderr


@pytest.fixture(scope="module")
def module() -> Path:
    """Gives the installed module where it holds several instruction sets and can be disassembled."""
    if not X86:
        pytest.skip(f"{platform.machine()} has one instruction set")
    if not all(shutil.which(name) for name in disassembly.TOOLS):
        pytest.skip(f"needs {' and '.join(disassembly.TOOLS)} (binutils)")
    assert _native.core.__file__ is not None
    return Path(_native.core.__file__)


@pytest.fixture(scope="module")
def functions(module) -> list[disassembly.Function]:
    """Gives the functions of the installed module. It may be stripped: then they have code but no names."""
    return disassembly.functions_of_module(module)


def lowest(function: disassembly.Function) -> str:
    """Returns the lowest instruction set that runs a function."""
    if not function.beyond_baseline():
        return "baseline"
    return "avx512" if any(disassembly.BEYOND_AVX2.search(line) for line in function.code) else "avx2"


@pytest.mark.parametrize("suffix", ["ps", "pd"], ids=["float32", "float64"])
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_adam_is_vectorised(functions, isa, suffix):
    """Only Adam's loops take square roots and divide; there are at least two, without and with amsgrad."""
    names = disassembly.ARITHMETIC["adam"].split()
    own = [f for f in functions if lowest(f) == isa]
    assert sum(all(disassembly.holds_packed(f, isa, name, suffix) for name in names) for f in own) >= 2


def test_no_optimizer_fuses(functions):
    """A multiply-add with one rounding on only some of the instruction sets would change the bits.

    Without names, Adam's functions are recognised by their square roots; check_isa_symbols.py looks at all
    functions in the object files.
    """
    rooted = [f for f in functions if any("sqrtp" in line.split()[0] for line in f.code)]
    assert rooted
    assert not [line for f in rooted for line in f.code if disassembly.FUSED.match(line)]


def test_bindings_are_baseline(functions):
    """Without names only the number of wide functions shows that they are kernels: less than half, but some."""
    wide = [f.name for f in functions if lowest(f) != "baseline"]
    assert "outside" not in wide
    assert 0 < len(wide) < len(functions) / 2


def test_wide_code_is_kernels(module):
    if not disassembly.tool("nm", module).strip():
        pytest.skip("the installed module is stripped: its functions have no names")
    named = disassembly.functions_of_object(module)
    for isa in ("avx2", "avx512"):
        assert any(f"onepass::{isa}::" in f.name for f in named)
    wide = [f.name for f in named if lowest(f) != "baseline"]
    assert not [name for name in wide if "onepass::avx2::" not in name and "onepass::avx512::" not in name]
