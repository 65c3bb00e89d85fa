"""Freed memory that the process keeps: `keep_freed_memory`, and whether it is on."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from onepass import _malloc
from onepass._arguments import told

__all__ = ["KeptMemory", "describe", "keep_freed_memory"]

# mallopt takes C's int.
_MOST = 2**31 - 1
_lock = threading.Lock()
# Those that are in force, the last one on top.
_active: list[KeptMemory] = []


class KeptMemory:
    """Says what `keep_freed_memory` has set, and takes it back.

    It is a context manager: its end takes the settings back.

    Args:
        allocator: The malloc that took the settings, such as ``"glibc 2.36"``.
        limit: As given.
        settings: The values that mallopt took, by the names of malloc.h.

    Example:
        >>> import onepass
        >>> with onepass.keep_freed_memory(limit=2**25) as kept:
        ...     kept.settings["M_TRIM_THRESHOLD"], kept.limit
        (33554432, 33554432)
    """

    def __init__(self, allocator: str, limit: int | None, settings: dict[str, int]) -> None:
        self.allocator, self.limit, self.settings = allocator, limit, settings
        self._was_entered = False

    @property
    def active(self) -> bool:
        """Whether these are the settings in force: not taken back, and no later call has replaced them."""
        return bool(_active) and _active[-1] is self

    def revert(self) -> None:
        """Takes the settings back and gives freed pages to the system; does nothing the second time.

        The settings of the last other call that is in force come back, else those of the environment, else the
        thresholds at which glibc's own adjusting ends (32 MiB and 64 MiB). glibc cannot be asked for the settings
        before, and adjusts nothing by itself once a program has set them. Free memory between blocks that are
        in use stays usable, so some blocks still come without new pages.

        Example:
            >>> import onepass
            >>> kept = onepass.keep_freed_memory()
            >>> kept.revert()
            >>> kept.active
            False
        """
        with _lock:
            if self not in _active:
                return
            _active.remove(self)
            started = {**_malloc.DEFAULTS, **_malloc.at_start(_malloc.environment_at_start())}
            _malloc.apply({**started, **(_active[-1].settings if _active else {})})
        _malloc.trim()

    def __enter__(self) -> KeptMemory:
        if self._was_entered or self not in _active:
            raise RuntimeError(
                "KeptMemory: the settings must be in force and entered once, got settings that were "
                f"{'entered' if self._was_entered else 'taken back'} before; call keep_freed_memory again"
            )
        self._was_entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.revert()

    def __reduce__(self) -> Any:
        raise TypeError("KeptMemory: must not be copied or pickled: a copy cannot take the settings back")

    def __repr__(self) -> str:
        words = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"KeptMemory({self.allocator}, {words}{'' if self.active else ', not in force'})"


def keep_freed_memory(limit: int | None = None) -> KeptMemory:
    """Makes glibc's malloc keep freed memory for the next allocation, instead of giving it to the system.

    torch on the CPU has no caching allocator. glibc maps each block above its threshold (at most 32 MiB) as new
    pages and unmaps it when it is freed, so each step of a training pays a page fault for each 4 KiB of every
    large activation. This function calls ``mallopt(M_MMAP_THRESHOLD)`` and ``mallopt(M_TRIM_THRESHOLD)`` in the
    running process. Importing onepass sets nothing.

    The cost is resident memory: the process keeps its peak. The settings hold for the whole process, for all
    libraries in it, and in children that it forks; a program that it executes starts with the default. In other
    threads than the main one, glibc's arenas are 64 MiB each, so larger blocks there are mapped and unmapped as
    before. torch's backward pass on the CPU runs in the thread that calls it.

    Args:
        limit: Bytes. Larger blocks are still given back when they are freed, and free memory at the end of the
            heap beyond it is. None for no limit: all below 2 GiB a block is kept.

    Returns:
        What was set, which can be taken back by ``revert()`` or as a context manager.

    Raises:
        TypeError: `limit` is neither None nor an int.
        ValueError: `limit` is below 1, or above 2**31 - 1, which is the most that mallopt takes.
        RuntimeError: The process has another malloc than glibc's (musl's, jemalloc, tcmalloc, mimalloc, that of a
            sanitizer), or torch takes its memory from another one, or glibc refuses a value. Nothing is set then.

    Source: mallopt(3), https://man7.org/linux/man-pages/man3/mallopt.3.html.

    Example:
        >>> import onepass
        >>> with onepass.keep_freed_memory() as kept:
        ...     kept.active
        True
    """
    if limit is not None:
        if not isinstance(limit, int) or isinstance(limit, bool):
            raise TypeError(f"keep_freed_memory: limit must be None or an int, got {told(limit)}")
        if not 1 <= limit <= _MOST:
            raise ValueError(
                f"keep_freed_memory: limit must be at least 1 and at most {_MOST} bytes, "
                f"or None for all, got {limit}"
            )
    name, is_glibc = _malloc.allocator()
    if not is_glibc:
        raise RuntimeError(f"keep_freed_memory: the process must have glibc's malloc, got {name}")
    if not _malloc.serves_torch():
        raise RuntimeError(f"keep_freed_memory: torch must take its memory from {name}, got one that does not")
    with _lock:
        kept = KeptMemory(name, limit, _set(name, limit))
        _active.append(kept)
    return kept


def _set(name: str, limit: int | None) -> dict[str, int]:
    """Sets the thresholds and returns what glibc took; raises, with nothing set, where it refuses both ways."""
    trimmed = {_malloc.TRIM_THRESHOLD: -1 if limit is None else limit}
    mapped = {_malloc.MMAP_THRESHOLD: _MOST if limit is None else limit}
    if not _malloc.apply(mapped):
        ways = {**mapped, **trimmed}
    # Older versions refuse thresholds above 32 MiB (half of an arena); without a limit, no mapping does as well.
    elif limit is None and not _malloc.apply({_malloc.MMAP_MAX: 0}):
        ways = {_malloc.MMAP_MAX: 0, **trimmed}
    else:
        raise RuntimeError(
            f"keep_freed_memory: limit must be one that mallopt takes, got {limit}, whose M_MMAP_THRESHOLD {name} "
            f"refuses; None or at most {_malloc.DEFAULTS[_malloc.MMAP_THRESHOLD]} is taken"
        )
    _malloc.apply(trimmed)
    return ways


def describe() -> dict[str, object]:
    """Says which malloc the process has, and whether it keeps freed memory, by whom and how much.

    Returns:
        ``allocator``; ``freed_memory``, which is ``"kept"`` or ``"default"``; ``settings``, from
        `keep_freed_memory` or the environment.
    """
    name, is_glibc = _malloc.allocator()
    settings = _malloc.at_start(_malloc.environment_at_start()) if is_glibc else {}
    if _active:
        settings = {**settings, **_active[-1].settings}
    unmapped = settings.get(_malloc.MMAP_MAX) == 0 or settings.get(_malloc.MMAP_THRESHOLD, 0) > 2**29
    trimmed = settings.get(_malloc.TRIM_THRESHOLD, 0)
    is_kept = bool(_active) or (unmapped and (trimmed == -1 or trimmed > 2**29))
    return {"allocator": name, "freed_memory": "kept" if is_kept else "default", "settings": settings}
