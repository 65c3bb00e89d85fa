"""`keep_freed_memory`: page faults of blocks in fresh processes, what is taken back, every refusal."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import subprocess
import sys

import pytest

import onepass
from onepass import _freed_memory, _malloc

if not _malloc.allocator()[1]:
    pytest.skip("needs glibc's malloc", allow_module_level=True)

# Runs each scenario in a forked child, whose malloc is as at the start of a program, and prints what it returns.
SCRIPT = """
import json, os, resource, sys, threading
import torch
from onepass import keep_freed_memory

def block(elements=9 * 2**20):
    torch.ones(elements)

def faults(elements=9 * 2**20):
    # glibc 2.36 cannot put an aligned block into the hole that it has left until a cache of seven leftovers
    # of each small size is full.
    for _ in range(20):
        block(elements)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        block(elements)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def imported():
    return faults()

def taken_back():
    found = [faults()]
    with keep_freed_memory():
        found.append(faults())
    return found

def nothing_allocated():
    keep_freed_memory().revert()
    return faults()

def below_limit():
    keep_freed_memory(limit=64 * 2**20)
    return faults()

def above_limit():
    keep_freed_memory(limit=32 * 2**20)
    return faults()

def given_back():
    before, kept = resident(), keep_freed_memory()
    block()
    found = [resident() - before]
    kept.revert()
    return [*found, resident() - before]

def first_taken_back():
    first, second = keep_freed_memory(limit=32 * 2**20), keep_freed_memory()
    first.revert()
    return faults()

def second_taken_back():
    first, second = keep_freed_memory(limit=32 * 2**20), keep_freed_memory()
    second.revert(), second.revert()
    return faults()

def both_taken_back():
    first, second = keep_freed_memory(limit=32 * 2**20), keep_freed_memory()
    first.revert(), second.revert()
    return faults()

def forked():
    keep_freed_memory()
    return in_child(faults)

def threaded():
    keep_freed_memory()
    found = []
    thread = threading.Thread(target=lambda: found.append(faults(4 * 2**20)))
    thread.start(), thread.join()
    return found[0]

def limited_and_taken_back():
    keep_freed_memory(limit=2**20).revert()
    return faults()

def in_child(scenario):
    end, begin = os.pipe()
    if os.fork() == 0:
        os.write(begin, json.dumps(scenario()).encode())
        os._exit(0)
    os.close(begin)
    with os.fdopen(end) as output:
        text = output.read()
    os.wait()
    return json.loads(text)

torch.set_num_threads(1)
print(json.dumps({name: in_child(globals()[name]) for name in sys.argv[1:]}))
"""
# Ten blocks of 36 MiB.
PAGES = 10 * 36 * 2**20 // os.sysconf("SC_PAGE_SIZE")
FEW = PAGES // 100


def figures(*scenarios: str, **environment: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *scenarios],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found():
    """What each scenario but the one of the environment returns."""
    names = re.findall(r"^def (\w+)\(\):", SCRIPT, re.MULTILINE)
    return figures(*(name for name in names if name != "resident"))


def test_importing_changes_nothing(found):
    assert found["imported"] >= PAGES


def test_blocks_come_without_new_pages_while_it_is_on(found):
    before, kept = found["taken_back"]
    assert before >= PAGES
    assert kept <= FEW


def test_it_is_taken_back(found):
    assert found["nothing_allocated"] >= PAGES


def test_a_larger_block_than_the_limit_is_given_back(found):
    assert found["below_limit"] <= FEW
    assert found["above_limit"] >= PAGES


def test_taking_it_back_gives_the_pages_to_the_system(found):
    kept, after = found["given_back"]
    assert kept >= 32 * 2**20
    assert after <= 8 * 2**20


def test_the_last_call_in_force_counts_in_any_order_of_taking_back(found):
    assert found["first_taken_back"] <= FEW
    assert found["second_taken_back"] >= PAGES
    assert found["both_taken_back"] >= PAGES


def test_a_forked_child_keeps_freed_memory(found):
    assert found["forked"] <= FEW


def test_another_thread_keeps_blocks_that_fit_its_arena(found):
    assert found["threaded"] <= FEW


def test_the_environments_settings_come_back(found):
    assert found["limited_and_taken_back"] >= PAGES
    kept = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
    assert figures("limited_and_taken_back", **kept)["limited_and_taken_back"] <= FEW


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, {}),
        ({"MALLOC_MMAP_MAX_": "0"}, {"M_MMAP_MAX": 0}),
        (
            {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=0x10:glibc.malloc.trim_threshold=7"},
            {"M_MMAP_THRESHOLD": 16, "M_TRIM_THRESHOLD": 7},
        ),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_max=much"}, {}),
    ],
)
def test_settings_of_the_environment_are_read(environment, found):
    assert _malloc.at_start(environment) == found


def test_only_the_environment_of_the_start_counts(monkeypatch):
    """glibc has read it then; what a program sets later is for its children."""
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "-1")
    assert "MALLOC_MMAP_MAX_" not in _malloc.environment_at_start()
    assert _freed_memory.describe()["freed_memory"] == "default"


def test_numbers_of_the_environment_that_mallopt_does_not_take_stay_large(monkeypatch):
    given = []

    class Library:
        def __init__(self, name):
            self.mallopt = lambda number, value: given.append(value.value) or 1

    monkeypatch.setattr(_malloc.ctypes, "CDLL", Library)
    assert _malloc.apply({_malloc.MMAP_THRESHOLD: 2**32 + 1, _malloc.TRIM_THRESHOLD: -(2**40)}) == []
    assert given == [2**31 - 1, -(2**31)]


def test_settings_are_entered_once_and_while_they_are_in_force():
    kept = onepass.keep_freed_memory()
    with kept:
        with pytest.raises(RuntimeError, match="entered once, got settings that were entered before"), kept:
            pass
        assert kept.active
    with pytest.raises(RuntimeError, match="entered once, got settings that were entered before"):
        kept.__enter__()
    kept = onepass.keep_freed_memory()
    kept.revert()
    with pytest.raises(RuntimeError, match=r"must be in force .* got settings that were taken back before"):
        kept.__enter__()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_settings_are_not_copied(copied):
    with onepass.keep_freed_memory() as kept, pytest.raises(TypeError, match="must not be copied or pickled"):
        copied(kept)


def test_what_is_in_force_is_described():
    assert _freed_memory.describe()["freed_memory"] == "default"
    with onepass.keep_freed_memory() as kept:
        assert kept.active
        assert kept.settings == {"M_MMAP_THRESHOLD": 2**31 - 1, "M_TRIM_THRESHOLD": -1}
        assert repr(kept) == f"KeptMemory({kept.allocator}, M_MMAP_THRESHOLD=2147483647, M_TRIM_THRESHOLD=-1)"
        told = _freed_memory.describe()
        assert told["freed_memory"] == "kept"
        assert told["settings"].items() >= kept.settings.items()
    assert not kept.active
    assert repr(kept).endswith(", not in force)")
    assert _freed_memory.describe()["freed_memory"] == "default"


@pytest.fixture
def set_values(monkeypatch):
    """What mallopt is given, without its effect."""
    given: list[dict] = []
    monkeypatch.setattr(_malloc, "apply", lambda settings: given.append(dict(settings)) or [])
    monkeypatch.setattr(_malloc, "trim", lambda: None)
    return given


@pytest.mark.parametrize("limit", [True, 1.0, "1", [2**20]])
def test_a_limit_of_another_class_is_refused(limit, set_values):
    with pytest.raises(TypeError, match=r"keep_freed_memory: limit must be None or an int, got "):
        onepass.keep_freed_memory(limit)
    assert set_values == []


@pytest.mark.parametrize("limit", [0, -1, 2**31])
def test_a_limit_that_mallopt_cannot_take_is_refused(limit, set_values):
    with pytest.raises(
        ValueError, match=rf"at least 1 and at most 2147483647 bytes, or None for all, got {limit}"
    ):
        onepass.keep_freed_memory(limit)
    assert set_values == []


@pytest.mark.parametrize(
    ("symbol", "name"),
    [("mallctl", "jemalloc"), ("tc_version", "tcmalloc"), ("mi_version", "mimalloc")],
)
def test_another_allocator_is_refused_by_name(symbol, name, set_values, monkeypatch):
    program = type("Program", (), {symbol: None})()
    monkeypatch.setattr(_malloc.ctypes, "CDLL", lambda path: program)
    with pytest.raises(RuntimeError, match=f"keep_freed_memory: the process must have glibc's malloc, got {name}"):
        onepass.keep_freed_memory()
    assert set_values == []


@pytest.mark.parametrize("file", ["/usr/lib/libasan.so.8", "/usr/bin/python3"])
def test_an_allocator_that_is_preloaded_or_linked_in_is_refused_by_its_file(file, set_values, monkeypatch):
    monkeypatch.setattr(_malloc, "_file_of_malloc", lambda program: file)
    with pytest.raises(RuntimeError, match=re.escape(f"got the malloc of {file}")):
        onepass.keep_freed_memory()
    assert set_values == []


def test_a_library_without_mallopt_is_refused(set_values, monkeypatch):
    monkeypatch.setattr(_malloc.ctypes, "CDLL", lambda path: object())
    with pytest.raises(
        RuntimeError, match=r"got the malloc of a C library without mallopt \(musl's, for instance\)"
    ):
        onepass.keep_freed_memory()
    assert set_values == []


@pytest.mark.parametrize(("platform", "name"), [("darwin", "Darwin"), ("win32", "Windows")])
def test_another_system_is_refused(platform, name, set_values, monkeypatch):
    monkeypatch.setattr(_malloc.sys, "platform", platform)
    monkeypatch.setattr(_malloc.platform, "system", lambda: name)
    with pytest.raises(RuntimeError, match=f"must have glibc's malloc, got {name}'s malloc"):
        onepass.keep_freed_memory()
    assert set_values == []


def test_a_torch_with_an_allocator_of_its_own_is_refused(set_values, monkeypatch):
    monkeypatch.setattr(_malloc, "_in_use", lambda program: 0)
    with pytest.raises(RuntimeError, match=r"torch must take its memory from glibc [\d.]+, got one that does not"):
        onepass.keep_freed_memory()
    assert set_values == []


def test_an_old_glibc_maps_nothing_or_says_what_it_takes(monkeypatch):
    """Old versions of glibc refuse thresholds above half of an arena."""
    given: list[dict] = []

    def apply(settings):
        given.append(dict(settings))
        return [name for name, value in settings.items() if name == "M_MMAP_THRESHOLD" and value > 2**25]

    monkeypatch.setattr(_malloc, "apply", apply)
    with onepass.keep_freed_memory() as kept:
        assert kept.settings == {"M_MMAP_MAX": 0, "M_TRIM_THRESHOLD": -1}
    del given[:]
    with pytest.raises(RuntimeError, match=r"got 33554433, whose M_MMAP_THRESHOLD glibc .* at most 33554432 "):
        onepass.keep_freed_memory(limit=2**25 + 1)
    assert given == [{"M_MMAP_THRESHOLD": 2**25 + 1}]
    with onepass.keep_freed_memory(limit=2**25) as kept:
        assert kept.settings == {"M_MMAP_THRESHOLD": 2**25, "M_TRIM_THRESHOLD": 2**25}
