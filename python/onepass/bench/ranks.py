"""Runs the competitors of a case on several processes at once; the benchmark's own process is rank 0."""

from __future__ import annotations

import datetime
import multiprocessing
import shutil
import tempfile
import weakref
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from onepass.bench.case import Prepared
from onepass.bench.probe import Step

__all__ = ["RANKS", "on_ranks"]

# As many as the machines of the results have cores.
RANKS = 2
# Seconds after which a rank that waits for another one ends with an error.
_PATIENCE = 120.0


def on_ranks(make: Callable[[], dict[str, Step]]) -> dict[str, Step]:
    """Makes the competitors of a case on each rank; a call runs one of them on all ranks at the same time.

    The ranks meet before each call, outside the clock. Each has its share of the threads, at least one.

    Args:
        make: A function of a module, or a partial of one: it is pickled. It finds an initialised
            torch.distributed.

    Returns:
        The competitors of rank 0, each of which takes the others along.

    Raises:
        RuntimeError: This process is already in a process group.
    """
    if dist.is_initialized():
        raise RuntimeError("onepass bench: the process must be in no process group, got an initialised one")
    world = _World(make)
    return {name: Prepared(partial(world.meet, name), step) for name, step in world.steps.items()}


class _World:
    """The process group of one case. It ends when the case's competitors go."""

    def __init__(self, make: Callable[[], dict[str, Step]]) -> None:
        folder = tempfile.mkdtemp()
        threads = torch.get_num_threads()
        share = max(1, threads // RANKS)
        context = multiprocessing.get_context("spawn")
        self._connections: list[Any] = []
        processes = []
        for rank in range(1, RANKS):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, share, folder, theirs, make), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            processes.append(process)
        self._end = weakref.finalize(self, _end, self._connections, processes, folder, threads)
        try:
            _join(0, share, folder)
            self.steps = make()
        except BaseException:
            self._end()
            raise

    def meet(self, name: str) -> None:
        """Says which competitor is next, and waits until all ranks are there."""
        for connection in self._connections:
            connection.send(name)
        dist.barrier()


def _join(rank: int, threads: int, folder: str) -> None:
    torch.set_num_threads(threads)
    limit = datetime.timedelta(seconds=_PATIENCE)
    # A file and no port, which another process could take.
    dist.init_process_group("gloo", f"file://{folder}/store", timeout=limit, rank=rank, world_size=RANKS)


def _end(connections: list[Connection], processes: list[Any], folder: str, threads: int) -> None:
    for connection in connections:
        connection.close()
    for process in processes:
        process.join(_PATIENCE)
    if dist.is_initialized():
        dist.destroy_process_group()
    torch.set_num_threads(threads)
    shutil.rmtree(folder, ignore_errors=True)


def _serve(
    rank: int, threads: int, folder: str, connection: Connection, make: Callable[[], dict[str, Step]]
) -> None:
    """Runs what rank 0 names, until its end of the connection closes."""
    _join(rank, threads, folder)
    steps = make()
    while True:
        try:
            name = connection.recv()
        except (EOFError, ConnectionResetError):
            break
        dist.barrier()
        try:
            steps[name]()
        except Exception:  # rank 0 raises the same, and reports it
            continue
    dist.destroy_process_group()
