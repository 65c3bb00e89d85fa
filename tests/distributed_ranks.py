"""Runs functions on real processes that are joined by gloo on the loopback interface, each call with a time limit.

    def case(size):  # a function of a test module; every rank calls it
        ...
        return result

    first, second = run_ranks(case, 2, 30, size)

The ranks of a size stay for the next call, since starting torch takes seconds. They are forked from one process
that has imported torch and nothing else. A call that fails ends its ranks; the next call gets new ones.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import faulthandler
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["Outcome", "RanksFailed", "run_ranks"]

# A collective that waits for longer ends with an error, in seconds. Calls that should end may take no longer.
PATIENCE = 20.0
# From the request for a stack to its file, in seconds.
_STACK_PATIENCE = 5.0


@dataclass
class Outcome:
    """What became of a call on one rank."""

    rank: int
    kind: str
    """``"returned"``, ``"raised"``, ``"died"`` or ``"hung"``."""
    value: Any = None
    """What it returned."""
    text: str = ""
    """The traceback, how the process died, or the stacks of a process that did not end in time."""
    seconds: float = 0.0
    """How long the call took."""


class RanksFailed(AssertionError):
    """Raised where not every rank returned; `outcomes` has all of them."""

    def __init__(self, what: str, outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes
        lines = [f"{what}: not every rank returned"]
        for one in outcomes:
            lines.append(f"--- rank {one.rank} {one.kind} after {one.seconds:.1f} s\n{one.text}".rstrip())
        super().__init__("\n".join(lines))


def run_ranks(
    function: Callable[..., Any], n: int, timeout: float = 60.0, *arguments: Any, patience: float = PATIENCE
) -> list[Any]:
    """Calls ``function(*arguments)`` on n ranks and returns what each returned, by rank.

    Args:
        function: A function of a module; it and its arguments and results are pickled.
        n: How many processes; torch.distributed's default group has all of them, by gloo.
        timeout: How long the call may take, in seconds. Who has not ended by then is asked for the stacks of its
            threads, and killed.
        arguments: Those of the function, the same on all ranks.
        patience: The timeout of the default group, in seconds; another one than usual gets new processes.

    Raises:
        RanksFailed: A rank raised, died or did not end in time. A rank that raises ends, as a program would.
    """
    pool = _pools.pop((n, patience), None)
    if pool is None or not pool.is_alive():
        pool = _Pool(n, patience)
    outcomes = pool.call(function, arguments, timeout)
    if all(one.kind == "returned" for one in outcomes):
        _pools[n, patience] = pool
        return [one.value for one in outcomes]
    pool.close()
    raise RanksFailed(f"{function.__module__}.{function.__qualname__} on {n} ranks", outcomes)


class _Pool:
    """Processes that make up one default group."""

    def __init__(self, n: int, patience: float) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ranks-"))
        context = multiprocessing.get_context("forkserver")
        # Imported once, for all ranks of all tests.
        context.set_forkserver_preload(["torch.distributed.tensor", "torch._dynamo"])
        self.connections: list[Connection] = []
        self.processes = []
        for rank in range(n):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, n, patience, str(self.folder), theirs))
            process.start()
            theirs.close()
            self.connections.append(ours)
            self.processes.append(process)
        _open.append(self)

    def is_alive(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], timeout: float) -> list[Outcome]:
        message = pickle.dumps((function, arguments))
        start = time.monotonic()
        for connection in self.connections:
            with contextlib.suppress(BrokenPipeError):
                connection.send_bytes(message)
        found: dict[int, Outcome] = {}
        while len(found) < len(self.connections):
            waited = time.monotonic() - start
            open_ = {one: rank for rank, one in enumerate(self.connections) if rank not in found}
            ready = wait(list(open_), max(0.0, timeout - waited))
            for connection in ready:
                rank = open_[connection]
                found[rank] = self._receive(rank)
                found[rank].seconds = time.monotonic() - start
            if not ready:
                for rank in open_.values():
                    found[rank] = Outcome(rank, "hung", text=self._stacks(rank), seconds=timeout)
        return [found[rank] for rank in range(len(self.connections))]

    def _receive(self, rank: int) -> Outcome:
        try:
            kind, result = pickle.loads(self.connections[rank].recv_bytes())
        except (EOFError, ConnectionResetError):
            self.processes[rank].join(_STACK_PATIENCE)
            printed = self._read(f"stderr-{rank}")
            return Outcome(rank, "died", text=f"exit code {self.processes[rank].exitcode}\n{printed}")
        if kind == "returned":
            return Outcome(rank, kind, value=result)
        return Outcome(rank, kind, text=result + self._read(f"stderr-{rank}"))

    def _stacks(self, rank: int) -> str:
        process = self.processes[rank]
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGUSR1)
        end = time.monotonic() + _STACK_PATIENCE
        text = self._read(f"stacks-{rank}")
        while time.monotonic() < end:
            time.sleep(0.1)
            before, text = text, self._read(f"stacks-{rank}")
            # Written piece by piece: whole once it grows no more.
            if "most recent call first" in text and text == before:
                break
        process.kill()
        return text + self._read(f"stderr-{rank}")

    def _read(self, name: str) -> str:
        path = self.folder / name
        return path.read_text(errors="replace")[-8000:] if path.exists() else ""

    def close(self) -> None:
        if self not in _open:
            return
        _open.remove(self)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join(_STACK_PATIENCE)
        for connection in self.connections:
            connection.close()
        shutil.rmtree(self.folder, ignore_errors=True)


_pools: dict[tuple[int, float], _Pool] = {}
_open: list[_Pool] = []


@atexit.register
def _close_all() -> None:
    for pool in list(_open):
        pool.close()


def _serve(rank: int, n: int, patience: float, folder: str, connection: Connection) -> None:
    """Makes calls until the test process ends; every failure ends the process, as it would end a program."""
    stacks = open(f"{folder}/stacks-{rank}", "w")  # noqa: SIM115 (faulthandler writes to it while the process lives)
    faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
    printed = os.open(f"{folder}/stderr-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    torch.set_num_threads(1)
    os.environ.update(GLOO_SOCKET_IFNAME="lo", RANK=str(rank), WORLD_SIZE=str(n), LOCAL_RANK=str(rank))
    try:
        limit = datetime.timedelta(seconds=patience)
        # A file and no port, which another process could take.
        dist.init_process_group("gloo", f"file://{folder}/store", timeout=limit, rank=rank, world_size=n)
        while True:
            function, arguments = pickle.loads(connection.recv_bytes())
            connection.send_bytes(pickle.dumps(("returned", function(*arguments))))
    except EOFError:
        os._exit(0)
    except BaseException:
        connection.send_bytes(pickle.dumps(("raised", traceback.format_exc())))
        # At once: the sockets close, and other ranks that wait for this one hear of it.
        os._exit(1)
