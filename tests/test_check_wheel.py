"""The checks of a wheel (tests/check_wheel.py), each with a wheel that is wrong in one way.

What auditwheel and the ELF reader say is made up here; `bash .ci/wheel` runs them on real wheels.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

import check_wheel
from check_wheel import differences, faults, glibc_of, newest

TAG = "manylinux_2_34_x86_64"
PACKAGE = {"onepass/__init__.py", "onepass/py.typed"}
MODULE = "onepass/_core.cpython-311-x86_64-linux-gnu.so"
METADATA = {f"onepass-0.1.0.dist-info/{name}" for name in check_wheel.METADATA}
GOOD = PACKAGE | METADATA | {MODULE}


@pytest.fixture
def seen(monkeypatch) -> dict[str, object]:
    """What the readers say of every wheel; a test changes it."""
    says = {"tag": TAG, "needed": {"libc.so.6", "libstdc++.so.6"}, "paths": []}
    symbols = {"libc.so.6": ["GLIBC_2.9", "GLIBC_2.34", "GLIBC_2.4"]}
    monkeypatch.setattr(
        check_wheel, "audit", lambda wheel: {"overall_tag": says["tag"], "versioned_symbols": symbols}
    )
    monkeypatch.setattr(check_wheel, "linked", lambda module: (says["needed"], says["paths"]))
    return says


def wheel_of(folder: Path, files: set[str] = GOOD, tag: str = TAG) -> Path:
    path = folder / f"onepass-0.1.0-cp311-cp311-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in files:
            archive.writestr(name, "")
    return path


def test_a_good_wheel_has_no_fault(seen, tmp_path, capsys):
    assert faults(wheel_of(tmp_path), PACKAGE) == []
    assert f"tag: {TAG}, for GLIBC_2.34 of libc.so.6" in capsys.readouterr().out


@pytest.mark.parametrize("library", ["libgomp.so.1", "libtorch.so", "libcuda.so.1", "libgomp-a34b3233.so.1"])
def test_another_library_is_a_fault(seen, tmp_path, library):
    seen["needed"] |= {library}
    assert faults(wheel_of(tmp_path), PACKAGE) == [f"the module must not need {library}"]


def test_a_search_path_is_a_fault(seen, tmp_path):
    seen["paths"] = ["DT_RUNPATH"]
    assert faults(wheel_of(tmp_path), PACKAGE) == ["the module must have no DT_RUNPATH"]


@pytest.mark.parametrize(
    "library", ["onepass.libs/libgomp-a34b3233.so.1.0.0", MODULE.replace("_core", "_core_simt")]
)
def test_a_library_in_the_wheel_is_a_fault(seen, tmp_path, library):
    (fault,) = faults(wheel_of(tmp_path, GOOD | {library}), PACKAGE)
    assert "must hold onepass/_core for cp311 and no other library" in fault
    assert library in fault


def test_a_module_of_another_python_is_a_fault(seen, tmp_path):
    files = GOOD - {MODULE} | {MODULE.replace("311", "312")}
    assert "must hold onepass/_core for cp311" in faults(wheel_of(tmp_path, files), PACKAGE)[0]


def test_missing_and_other_files_are_faults(seen, tmp_path):
    files = GOOD - {"onepass/py.typed"} | {"onepass/left-over.txt"}
    assert faults(wheel_of(tmp_path, files), PACKAGE) == [
        "the file onepass/py.typed is missing",
        "the file onepass/left-over.txt must not be there",
    ]


@pytest.mark.parametrize("tag", ["linux_x86_64", "manylinux_2_28_x86_64", "manylinux2014_x86_64"])
def test_a_name_that_promises_more_is_a_fault(seen, tmp_path, tag):
    (fault,) = faults(wheel_of(tmp_path, tag=tag), PACKAGE)
    assert f"the name must carry {TAG} or a newer tag" in fault


def test_no_manylinux_tag_is_a_fault(seen, tmp_path):
    seen["tag"] = "linux_x86_64"
    (fault,) = faults(wheel_of(tmp_path), PACKAGE)
    assert fault == "auditwheel must find a manylinux tag, got linux_x86_64"


def test_a_large_wheel_is_a_fault(seen, tmp_path, monkeypatch):
    monkeypatch.setattr(check_wheel, "LIMIT_MIB", 0)
    assert "the wheel must have at most 0 MiB" in faults(wheel_of(tmp_path), PACKAGE)[0]


def test_versions_are_compared_as_numbers():
    assert newest(["GLIBCXX_3.4.9", "GLIBCXX_3.4.29", "CXXABI_1.3"]) == "GLIBCXX_3.4.29 CXXABI_1.3"
    assert glibc_of("manylinux_2_5_x86_64") < glibc_of("manylinux2014_x86_64") < glibc_of("manylinux_2_28_aarch64")
    assert differences("the file", {"a", "b"}, {"a", "b"}) == []
