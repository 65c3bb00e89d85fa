"""The C library's malloc: which one serves the process, and the settings of glibc's."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from collections.abc import Mapping

import torch

__all__ = [
    "DEFAULTS",
    "MMAP_MAX",
    "MMAP_THRESHOLD",
    "TRIM_THRESHOLD",
    "allocator",
    "apply",
    "at_start",
    "environment_at_start",
    "serves_torch",
    "trim",
]

# The names of malloc.h, and their numbers there.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = "M_TRIM_THRESHOLD", "M_MMAP_THRESHOLD", "M_MMAP_MAX"
_NUMBERS = {TRIM_THRESHOLD: -1, MMAP_THRESHOLD: -3, MMAP_MAX: -4}
# glibc raises the first two by itself until a program sets one: to the largest mapped block that was freed, and to
# twice that. A training with blocks above 32 MiB (512 KiB on 32 bits) is at these ends from its first step on.
_MOST_MAPPED = 32 * 2**20 if sys.maxsize > 2**32 else 512 * 2**10
DEFAULTS = {MMAP_THRESHOLD: _MOST_MAPPED, TRIM_THRESHOLD: 2 * _MOST_MAPPED, MMAP_MAX: 65536}
# What other allocators export, where one is linked into the program.
_OTHERS = {
    "jemalloc": ("mallctl", "je_mallctl"),
    "tcmalloc": ("tc_version", "MallocExtension_ReleaseFreeMemory"),
    "mimalloc": ("mi_version",),
}
# A block by which torch's allocator is tried; it is never written, so it costs no memory.
_TRIED = 32 * 2**20
_TRIES = 3


class _Symbol(ctypes.Structure):
    """Dl_info of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


class _Mallinfo(ctypes.Structure):
    """Struct mallinfo of malloc.h, whose numbers wrap at 4 GiB."""

    _fields_ = tuple(
        (name, ctypes.c_uint)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def allocator() -> tuple[str, bool]:
    """Returns the name of the malloc that serves the process, and whether it is glibc's."""
    if sys.platform != "linux":
        return f"{platform.system()}'s malloc", False
    program = ctypes.CDLL(None)
    for name, symbols in _OTHERS.items():
        if any(hasattr(program, symbol) for symbol in symbols):
            return name, False
    file = _file_of_malloc(program)
    # Besides an allocator that is preloaded, this is what AddressSanitizer and valgrind put in malloc's place.
    if file and not re.match(r"(libc[.-]|ld-)", os.path.basename(file)):
        return f"the malloc of {file}", False
    if not hasattr(program, "gnu_get_libc_version") or not hasattr(program, "mallopt"):
        return f"the malloc of {file or 'a C library'} without mallopt (musl's, for instance)", False
    program.gnu_get_libc_version.restype = ctypes.c_char_p
    return f"glibc {program.gnu_get_libc_version().decode()}", True


def _file_of_malloc(program: ctypes.CDLL) -> str:
    """Returns the file of the library whose malloc the program calls, empty where that is unknown."""
    if not hasattr(program, "dladdr"):
        return ""
    found = _Symbol()
    address = ctypes.cast(program.malloc, ctypes.c_void_p)
    return os.fsdecode(found.file) if program.dladdr(address, ctypes.byref(found)) and found.file else ""


def serves_torch() -> bool:
    """Says whether glibc's malloc is where torch's tensors on the CPU come from: builds with mimalloc exist."""
    program = ctypes.CDLL(None)
    program.mallinfo.restype = _Mallinfo
    for _ in range(_TRIES):  # another thread may free as much at the same time
        before = _in_use(program)
        block = torch.empty(_TRIED, dtype=torch.uint8)
        grown = (_in_use(program) - before) % 2**32
        del block
        if _TRIED // 2 <= grown < 2**31:
            return True
    return False


def _in_use(program: ctypes.CDLL) -> int:
    found = program.mallinfo()
    return int(found.uordblks + found.hblkhd) % 2**32


def apply(settings: Mapping[str, int]) -> list[str]:
    """Sets what malloc.h calls so, and returns the names that glibc refused.

    Args:
        settings: Values by name. mallopt takes ints: -1 of M_TRIM_THRESHOLD means that nothing is given back.
    """
    program = ctypes.CDLL(None)
    # The environment may hold larger numbers than mallopt takes.
    within = {name: min(max(value, -(2**31)), 2**31 - 1) for name, value in settings.items()}
    return [name for name, value in within.items() if not program.mallopt(_NUMBERS[name], ctypes.c_int(value))]


def trim() -> None:
    """Gives the whole pages of freed memory back to the system."""
    ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def environment_at_start() -> dict[str, str]:
    """Returns the variables with which the program was started: glibc reads no later ones."""
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = [os.fsdecode(entry).partition("=") for entry in file.read().split(b"\0") if entry]
    except OSError:  # a system without /proc
        return dict(os.environ)
    return {name: value for name, _, value in entries}


def at_start(environment: Mapping[str, str]) -> dict[str, int]:
    """Reads the settings that glibc takes from the environment when a program starts.

    Args:
        environment: The variables: MALLOC_TRIM_THRESHOLD_ and its like, and GLIBC_TUNABLES.
    """
    found = {}
    tunables = environment.get("GLIBC_TUNABLES", "")
    for name in _NUMBERS:
        word = name.removeprefix("M_")
        texts = re.findall(rf"(?:^|:)glibc\.malloc\.{word.lower()}=(\w+)", tunables)
        texts += [environment[f"MALLOC_{word}_"]] if f"MALLOC_{word}_" in environment else []
        for text in texts[:1]:
            try:
                found[name] = int(text, 0)
            except ValueError:  # glibc leaves it out, too
                continue
    return found
