"""Times competitors against each other within one run.

A machine's speed changes from second to second, so only times taken side by side are compared. Each round calls
every competitor once and begins with the next one of them; ratios are taken within a round.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from onepass.bench.case import OURS, STREAM, Case, Prepared, SelfTimed, choose
from onepass.bench.entrants import Entrant
from onepass.bench.faults import WRONG, Fault, raised
from onepass.bench.probe import Step, probe

__all__ = [
    "OURS",
    "STREAM",
    "Case",
    "Prepared",
    "Result",
    "SelfTimed",
    "Step",
    "Timer",
    "Times",
    "choose",
    "interleave",
    "measure",
    "median_ratio",
    "quantile",
    "timer_of",
]

# Bytes written before each call on a GPU, so that no competitor finds its tensors in the cache: more than any L2
# has.
_FLUSH_BYTES = 256 * 1024 * 1024
_WARM_UP = 3
_QUANTILES = (0.2, 0.5, 0.8)

Timer = Callable[[Step], float]


@dataclass
class Times:
    """Holds one competitor's times in a case, in seconds, one for each round.

    Args:
        seconds: The times.
        bytes_moved: The least bytes that a call must read and write, if memory bounds the time.

    Example:
        >>> from onepass.bench import Times
        >>> times = Times([2.0, 1.0, 3.0], bytes_moved=6 * 10**9)
        >>> times.quantiles[1], times.gb_per_s
        (2.0, 3.0)
    """

    seconds: list[float]
    bytes_moved: int | None
    theirs_over_ours: float | None = None
    """Median over the rounds of its time divided by ours."""
    share_of_stream: float | None = None
    """Median over the rounds of the bandwidth probe's time divided by its own."""
    difference: float | None = None
    """The largest difference of its results from torch's; None where they were not compared."""
    figures: dict[str, Any] = field(default_factory=dict)
    """What else the case has measured."""

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
            "difference": self.difference,
            "seconds": self.seconds,
            **({"figures": self.figures} if self.figures else {}),
        }


@dataclass
class Result:
    """Holds what was measured in a case.

    Args:
        case: Name of the case.
        rounds: How many times each competitor was to be timed.
        bytes_moved: As in the `Case`.
        times: The times of each competitor, by name.
        notes: Lines that are shown with the times.
        faults: Competitors that were wrong or raised, and are therefore not timed.

    Example:
        >>> from onepass.bench import Result, Times
        >>> Result("a", 1, None, {"ours": Times([1.0], None)}).to_json()["competitors"]["ours"]["seconds"]
        [1.0]
    """

    case: str
    rounds: int
    bytes_moved: int | None
    times: dict[str, Times]
    notes: list[str] = field(default_factory=list)
    faults: dict[str, Fault] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the result as JSON can hold it."""
        return {
            "case": self.case,
            "rounds": self.rounds,
            "bytes_moved": self.bytes_moved,
            "competitors": {name: times.to_json() for name, times in self.times.items()},
            "notes": self.notes,
            "faults": {name: fault.to_json() for name, fault in self.faults.items()},
        }


def measure(
    case: Case,
    rounds: int,
    device: torch.device,
    with_compile: bool = False,
    entrants: Sequence[Entrant] = (),
    after_round: Callable[[], object] | None = None,
) -> Result:
    """Runs one case.

    A competitor that raises, and an entrant whose results are wrong, is not timed; `Result.faults` names it.

    Args:
        case: What to run.
        rounds: How many times each competitor is timed, at least 1.
        device: Where its tensors are; chooses the clock.
        with_compile: Also time torch's operation under torch.compile; where that fails a note says so.
        entrants: Implementations that join the case if they fit. Each is compared with torch's results once.
        after_round: Called between rounds, outside the clock.

    Returns:
        Times of all competitors.

    Raises:
        TypeError: `case.setup` made no dict of functions.

    Example:
        >>> import torch
        >>> from onepass.bench import Case, measure
        >>> case = Case("nothing", None, 2, lambda: {"ours": lambda: None, "broken": lambda: 1 / 0})
        >>> result = measure(case, 2, torch.device("cpu"))
        >>> len(result.times["ours"].seconds), result.faults["broken"].how
        (2, 'raised')
    """
    notes = [] if case.notes is None else list(case.notes())
    competitors = _competitors(case, device)
    faults: dict[str, Fault] = {}
    differences = _join(case, entrants, competitors, faults)
    if with_compile and case.compiled is not None:
        try:
            compiled = case.compiled()
            _warm_up(compiled)
            competitors["compile"] = compiled
        except Exception as error:  # whatever the compiler raises, the others are still worth timing
            notes.append(f"torch.compile failed: {type(error).__name__}: {str(error).splitlines()[0]}")
    if with_compile and case.more_compiled is not None:
        competitors |= case.more_compiled()
    seconds = interleave(competitors, rounds, timer_of(device), faults, after_round)
    times = {name: Times(values, case.bytes_moved) for name, values in seconds.items()}
    more = {} if case.figures is None else case.figures({name: competitors[name] for name in seconds}, rounds)
    for name, entry in times.items():
        entry.difference, entry.figures = differences.get(name), more.get(name, {})
        ours = case.baseline(name)
        if name != ours and ours in seconds:
            entry.theirs_over_ours = median_ratio(entry.seconds, seconds[ours])
        if STREAM in seconds and ours == OURS:
            entry.share_of_stream = median_ratio(seconds[STREAM], entry.seconds)
    # Optimizers and their parameters refer to each other; the next case needs the memory.
    competitors.clear()
    gc.collect()
    return Result(case.name, rounds, case.bytes_moved, times, notes, faults)


def _competitors(case: Case, device: torch.device) -> dict[str, Step]:
    """Makes a case's competitors, with the bandwidth probe."""
    made = case.setup()
    if not isinstance(made, dict) or not made or not all(callable(step) for step in made.values()):
        raise TypeError(f"Case {case.name}: setup must return a dict of functions, at least one, got {made!r}")
    if case.bytes_moved is not None and STREAM not in made:
        return {**made, STREAM: probe(case.bytes_moved, 1, device)}
    return dict(made)


def _join(
    case: Case, entrants: Sequence[Entrant], competitors: dict[str, Step], faults: dict[str, Fault]
) -> dict[str, float]:
    """Adds the entrants that fit and are right; returns by how much their results differ from torch's."""
    differences = {}
    for entrant in entrants:
        if case.join is None or entrant.stands_for != case.stands_for:
            continue
        try:
            entry = case.join(entrant)
            if entry is None:
                continue
            tensor, differences[entrant.name] = entry.compare()
            limit = max(entry.limit, entrant.tolerance)
            # A difference that is not a number is no right one either.
            if not differences[entrant.name] <= limit:
                text = f"{tensor} differs from torch's by {differences[entrant.name]:.2g}, allowed are {limit:.2g}"
                faults[entrant.name] = Fault(WRONG, text)
            else:
                competitors[entrant.name] = entry.make()
        except Exception as error:  # whatever another package raises, the others are still worth timing
            faults[entrant.name] = raised(error)
    return differences


def interleave(
    competitors: dict[str, Step],
    rounds: int,
    timer: Timer,
    faults: dict[str, Fault] | None = None,
    after_round: Callable[[], object] | None = None,
) -> dict[str, list[float]]:
    """Times all competitors once in each round; each round begins with the next one.

    Args:
        competitors: The calls by name.
        rounds: How many times each is timed.
        timer: Times one call.
        faults: Takes a competitor that raises, which then no longer competes. Without it the error goes on.
        after_round: Called between rounds.

    Returns:
        The seconds by name, one for each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in competitors}

    def attempt(name: str, run: Callable[[Step], object]) -> None:
        try:
            run(competitors[name])
        except Exception as error:
            if faults is None:
                raise
            faults[name] = raised(error)
            del seconds[name]

    def timed(step: Step) -> float:
        if isinstance(step, SelfTimed):
            return step.seconds()
        if isinstance(step, Prepared):
            step.prepare()
            step = step.run
        return timer(step)

    for name in competitors:
        attempt(name, _warm_up)
    # A collection inside a timed call would count for the competitor that happens to trigger it.
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            names = list(seconds)
            first = turn % max(len(names), 1)
            for name in names[first:] + names[:first]:
                attempt(name, lambda step, name=name: seconds[name].append(timed(step)))  # type: ignore[misc]
            if after_round is not None:
                after_round()
    finally:
        if collecting:
            gc.enable()
    return seconds


def _warm_up(step: Step) -> None:
    for _ in range(_WARM_UP):
        step()


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
