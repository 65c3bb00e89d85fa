"""Times competitors against each other within one run.

A machine's speed changes from second to second, so only times taken side by side are compared. Each round calls
every competitor once and begins with the next one of them; ratios are taken within a round.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

# The names, in all operations, of the two competitors that the others are compared with.
OURS = "ours"
STREAM = "stream"

# Bytes written before each call on a GPU, so that no competitor finds its tensors in the cache: more than any L2
# has.
_FLUSH_BYTES = 256 * 1024 * 1024
_WARM_UP = 3
_QUANTILES = (0.2, 0.5, 0.8)


@dataclass(frozen=True)
class Prepared:
    """Holds a competitor that needs preparation before each call, which is not timed."""

    prepare: Callable[[], object]
    run: Callable[[], object]

    def __call__(self) -> object:
        """Prepares and runs, for torch.compile and the warm-up."""
        self.prepare()
        return self.run()


Step = Callable[[], object]
Timer = Callable[[Step], float]


@dataclass(frozen=True)
class Case:
    """Describes one size of one operation."""

    name: str
    bytes_moved: int | None
    """The least bytes that a call must read and write; None where memory does not bound the time."""
    rounds: int
    setup: Callable[[], dict[str, Step]]
    """Makes the competitors. It is called when the case's turn comes: all cases together need much memory."""
    compiled: Callable[[], Step] | None = None
    """Makes torch's operation under torch.compile, if there is one."""
    notes: Callable[[], list[str]] | None = None
    """Makes lines that are shown with the times, about anything else that is measured."""


@dataclass
class Times:
    """Holds one competitor's times in a case, in seconds, one for each round."""

    seconds: list[float]
    bytes_moved: int | None
    theirs_over_ours: float | None = None
    """Median over the rounds of its time divided by ours."""
    share_of_stream: float | None = None
    """Median over the rounds of the bandwidth probe's time divided by its own."""

    @property
    def quantiles(self) -> tuple[float, float, float]:
        """Times below which 20, 50 and 80 % of the rounds are."""
        low, median, high = (quantile(self.seconds, q) for q in _QUANTILES)
        return low, median, high

    @property
    def gb_per_s(self) -> float | None:
        """Compulsory bytes divided by the median time, in 1e9 bytes a second."""
        return None if self.bytes_moved is None else self.bytes_moved / self.quantiles[1] / 1e9

    def to_json(self) -> dict[str, Any]:
        """Returns the figures of the table, and every time as measured."""
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
    """Holds what was measured in a case."""

    case: str
    rounds: int
    bytes_moved: int | None
    times: dict[str, Times]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON can hold it."""
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
        device: Where its tensors are; chooses the clock.
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
    """Times all competitors once in each round; each round begins with the next one.

    Args:
        competitors: The calls by name.
        rounds: How many times each is timed.
        timer: Times one call.

    Returns:
        The seconds by name, one for each round.
    """
    for step in competitors.values():
        for _ in range(_WARM_UP):
            step()
    names = list(competitors)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    # A collection inside a timed call would count for the competitor that happens to trigger it.
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
    """Returns the clock for calls that work on a device.

    The one for CUDA (events around the call, the L2 cache flushed before it) has not yet run on hardware.

    Args:
        device: The device.

    Returns:
        A function that calls its argument and returns the seconds.
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
    """Computes a quantile, linear between neighbouring values.

    Args:
        values: At least one.
        q: 0 for the least value, 0.5 for the median, 1 for the largest.
    """
    ordered = sorted(values)
    place = q * (len(ordered) - 1)
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def median_ratio(above: list[float], below: list[float]) -> float:
    """Computes the median over the rounds of one competitor's time divided by another's.

    Args:
        above: Seconds of the first, one for each round.
        below: Seconds of the second.
    """
    return quantile([a / b for a, b in zip(above, below, strict=True)], 0.5)


def choose(cases: list[Case], wanted: list[str]) -> list[Case]:
    """Selects the cases that the user asks for.

    Args:
        cases: All cases of the operation.
        wanted: Names, or parts of names; empty for all. A whole name selects only that case.

    Returns:
        The cases, in their own order.

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
