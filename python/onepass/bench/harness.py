"""Times competitors against each other within one run.

A machine's speed changes from second to second, so only times taken side by side are compared: each round
calls every competitor once, beginning with another one each time, and ratios are taken within a round.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

# Competitors have these names in all operations: the two that others are compared with.
OURS = "ours"
STREAM = "stream"

# Written before each call on a GPU, so that no competitor finds its tensors in the cache; larger than any L2.
_FLUSH_BYTES = 256 * 1024 * 1024
_WARM_UP = 3
_QUANTILES = (0.2, 0.5, 0.8)


@dataclass(frozen=True)
class Prepared:
    """A competitor that needs something done before each call, which is not timed."""

    prepare: Callable[[], object]
    run: Callable[[], object]

    def __call__(self) -> object:
        """Both: what torch.compile and the warm-up call."""
        self.prepare()
        return self.run()


Step = Callable[[], object]
Timer = Callable[[Step], float]


@dataclass(frozen=True)
class Case:
    """One size of one operation."""

    name: str
    bytes_moved: int | None
    """Bytes that a call must read and write at least; None where time is not bound by memory."""
    rounds: int
    setup: Callable[[], dict[str, Step]]
    """Makes the competitors; called when the case's turn comes, because all cases together need much memory."""
    compiled: Callable[[], Step] | None = None
    """Makes torch's operation under torch.compile, if there is one."""
    notes: Callable[[], list[str]] | None = None
    """Makes lines that are shown with the times: what else there is to measure."""


@dataclass
class Times:
    """One competitor's times of a case, in seconds, one a round."""

    seconds: list[float]
    bytes_moved: int | None
    theirs_over_ours: float | None = None
    """Median over the rounds of its time divided by ours."""
    share_of_stream: float | None = None
    """Median over the rounds of the bandwidth probe's time divided by its own."""

    @property
    def quantiles(self) -> tuple[float, float, float]:
        """Times below which 20, 50 and 80 % of the rounds lie."""
        low, median, high = (quantile(self.seconds, q) for q in _QUANTILES)
        return low, median, high

    @property
    def gb_per_s(self) -> float | None:
        """Compulsory bytes over the median time, in 1e9 bytes a second."""
        return None if self.bytes_moved is None else self.bytes_moved / self.quantiles[1] / 1e9

    def to_json(self) -> dict[str, Any]:
        """Figures as in the table, and every time as measured."""
        low, median, high = self.quantiles
        return {
            "seconds_20": low,
            "seconds_50": median,
            "seconds_80": high,
            "gb_per_s": self.gb_per_s,
            "share_of_stream": self.share_of_stream,
            "theirs_over_ours": self.theirs_over_ours,
            "seconds": self.seconds,
        }


@dataclass
class Result:
    """What a case gave."""

    case: str
    rounds: int
    bytes_moved: int | None
    times: dict[str, Times]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "case": self.case,
            "rounds": self.rounds,
            "bytes_moved": self.bytes_moved,
            "competitors": {name: times.to_json() for name, times in self.times.items()},
            "notes": self.notes,
        }


def measure(case: Case, rounds: int, device: torch.device, with_compile: bool = False) -> Result:
    """Runs one case.

    Args:
        case: What to run.
        rounds: How many times each competitor is timed, at least 1.
        device: Where its tensors lie; chooses the clock.
        with_compile: Also time torch's operation under torch.compile; where that fails a note says so.

    Returns:
        Times of all competitors.
    """
    notes = [] if case.notes is None else case.notes()
    competitors = case.setup()
    if with_compile and case.compiled is not None:
        try:
            compiled = case.compiled()
            for _ in range(_WARM_UP):
                compiled()
            competitors["compile"] = compiled
        except Exception as error:  # whatever the compiler raises, the others are still worth timing
            notes.append(f"torch.compile failed: {type(error).__name__}: {str(error).splitlines()[0]}")
    seconds = interleave(competitors, rounds, timer_of(device))
    times = {name: Times(values, case.bytes_moved) for name, values in seconds.items()}
    for name, entry in times.items():
        entry.theirs_over_ours = None if name == OURS else median_ratio(entry.seconds, seconds[OURS])
        if STREAM in seconds:
            entry.share_of_stream = median_ratio(seconds[STREAM], entry.seconds)
    # Optimizers and their parameters refer to each other; the next case needs the memory.
    competitors.clear()
    gc.collect()
    return Result(case.name, rounds, case.bytes_moved, times, notes)


def interleave(competitors: dict[str, Step], rounds: int, timer: Timer) -> dict[str, list[float]]:
    """Times all competitors once a round; each round begins with the next one."""
    for step in competitors.values():
        for _ in range(_WARM_UP):
            step()
    names = list(competitors)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    # A collection inside a timed call would be charged to whoever happened to trigger it.
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                step = competitors[name]
                if isinstance(step, Prepared):
                    step.prepare()
                    step = step.run
                seconds[name].append(timer(step))
    finally:
        if collecting:
            gc.enable()
    return seconds


def timer_of(device: torch.device) -> Timer:
    """The clock for calls that work on the device.

    The path for CUDA (events around the call, the L2 cache flushed before it) has not yet run on hardware.
    """
    if device.type != "cuda":
        return _host_seconds
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=device)

    # torch gives events no types.
    event: Any = torch.cuda.Event

    def device_seconds(step: Step) -> float:
        begin, end = event(enable_timing=True), event(enable_timing=True)
        flush.zero_()
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize(device)
        return float(begin.elapsed_time(end)) / 1e3

    return device_seconds


def _host_seconds(step: Step) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def quantile(values: list[float], q: float) -> float:
    """The q-quantile, linear between neighbours."""
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def median_ratio(above: list[float], below: list[float]) -> float:
    """Median over the rounds of one competitor's time over another's."""
    return quantile([a / b for a, b in zip(above, below, strict=True)], 0.5)


def choose(cases: list[Case], wanted: list[str]) -> list[Case]:
    """The cases that the user asks for.

    Args:
        cases: All of them.
        wanted: Names, or parts of names; empty for all. A whole name picks that case alone.

    Raises:
        ValueError: A name fits none.
    """
    chosen: dict[str, Case] = {}
    for name in wanted:
        fitting = [c for c in cases if c.name == name] or [c for c in cases if name in c.name]
        if not fitting:
            raise ValueError(f"bench: case must be part of one of {', '.join(c.name for c in cases)}, got {name}")
        chosen.update((c.name, c) for c in fitting)
    return [c for c in cases if c.name in chosen or not wanted]
