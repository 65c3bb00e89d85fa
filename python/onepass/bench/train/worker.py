"""Processes in which the competitors of `onepass bench train` live: each has a malloc and a heap of its own.

A heap is not shared, because what one competitor frees is what the next one finds. Only the process whose turn
it is computes; the others wait for their pipe.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
import traceback
import weakref
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import torch

# The profiler's library writes two lines for each profile otherwise; it reads this when it is loaded.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

from onepass import keep_freed_memory
from onepass.bench.case import SelfTimed
from onepass.bench.train import profile
from onepass.bench.train.training import VARIANTS, WORKS, Training

__all__ = ["Worker", "WorkerError"]

_FIRST, _STEP, _PROFILE, _FACTS = "first", "step", "profile", "facts"
# A process that does not end by itself when it is told to is ended after this many seconds.
_PATIENCE = 5


class WorkerError(RuntimeError):
    """Says what a competitor's process raised, with the line."""


class Worker(SelfTimed):
    """Runs one competitor in a process of its own; each call takes a step, which it times.

    The model is made at the first call.

    Args:
        work: Name of one of `WORKS`.
        variant: Name of one of `VARIANTS`.
        is_kept: Whether the process keeps freed memory.
    """

    def __init__(self, work: str, variant: str, is_kept: bool) -> None:
        # A forked process begins with torch imported; what forks has never computed anything, so no thread of
        # OpenMP is lost in it.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._pipe, theirs = context.Pipe()
        threads = torch.get_num_threads()
        self._process = process = context.Process(
            target=_serve, args=(theirs, work, variant, is_kept, threads), daemon=True
        )
        process.start()
        theirs.close()
        self._end = weakref.finalize(self, _end, self._pipe, process)
        self._is_made = False
        self.faults: list[int] = []
        """Page faults of each step."""

    def seconds(self) -> float:
        """Takes a step; returns its seconds."""
        seconds, faults = self._ask(_STEP if self._is_made else _FIRST)
        self._is_made = True
        self.faults.append(faults)
        return float(seconds)

    def profile(self) -> dict[str, Any]:
        """Takes a step under torch's profiler; returns what `split` does."""
        found: dict[str, Any] = self._ask(_PROFILE)
        return found

    def facts(self) -> dict[str, Any]:
        """Returns ``first_step_seconds``, ``kept_bytes`` and ``peak_bytes`` of resident memory."""
        found: dict[str, Any] = self._ask(_FACTS)
        return found

    def close(self) -> None:
        """Ends the process."""
        self._end()

    def _ask(self, what: str) -> Any:
        try:
            self._pipe.send(what)
            is_right, found = self._pipe.recv()
        except (EOFError, OSError):
            raise WorkerError("its process has ended, as when there is not enough memory") from None
        if not is_right:
            raise WorkerError(found)
        return found


def _end(pipe: Connection, process: BaseProcess) -> None:
    pipe.close()
    process.join(_PATIENCE)
    if process.is_alive():
        process.terminate()


def _serve(pipe: Connection, work: str, variant: str, is_kept: bool, threads: int) -> None:
    """Does what the pipe asks for until it is closed."""
    torch.set_num_threads(threads)
    if is_kept:
        keep_freed_memory()
    competitor = _Competitor(work, variant)
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, getattr(competitor, asked)()
        except Exception as error:  # whatever another package raises, the others are still worth timing
            frame = traceback.extract_tb(error.__traceback__)[-1]
            answer = False, f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
        pipe.send(answer)


class _Competitor:
    """A training, made when its first step is asked for."""

    def __init__(self, work: str, variant: str) -> None:
        self._work = next(one for one in WORKS if one.name == work)
        self._variant = VARIANTS[variant]
        self._first_seconds = 0.0

    def first(self) -> tuple[float, int]:
        """Makes the training and takes its first step; both count as the time to it."""
        before = _faults()
        begin = time.perf_counter()
        self._training = Training(self._work, self._variant)
        self._training.step()
        self._first_seconds = time.perf_counter() - begin
        return self._first_seconds, _faults() - before

    def step(self) -> tuple[float, int]:
        """Takes a step."""
        before = _faults()
        begin = time.perf_counter()
        self._training.step()
        seconds = time.perf_counter() - begin
        return seconds, _faults() - before

    def profile(self) -> dict[str, Any]:
        """Takes a step under the profiler."""
        return profile.split(self._training.step)

    def facts(self) -> dict[str, Any]:
        """Measures what needs no turns. Hooks would make a compiled model compile again, so it is left out."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        kept = None if self._variant.compiled else self._training.kept()
        return {"first_step_seconds": self._first_seconds, "kept_bytes": kept, "peak_bytes": peak}


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
