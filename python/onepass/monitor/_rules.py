"""The rules by which a curve of the range test suggests a rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

# The share of the rate with the least loss that is suggested: that rate itself is too high to train with.
_SAFETY = 0.1
# A loss that fell by less than this share did not fall: rounding alone moves a constant loss.
_FALL = 1e-3


def _fell(losses: Sequence[float]) -> bool:
    return len(losses) > 2 and min(losses[2:]) < losses[0] - _FALL * abs(losses[0])


def steepest(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Finds the rate at which the loss falls fastest with the logarithm of the rate, before its least value."""
    if not _fell(losses):
        return None
    last = int(np.argmin(losses))
    slope = np.gradient(np.asarray(losses[: last + 1]), np.log(np.asarray(lrs[: last + 1])))
    return lrs[int(np.argmin(slope))]


def valley(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Finds the rate in the middle of the longest falling subsequence of the losses.

    Source: the rule `valley` of fastai's learning rate finder.
    """
    if not _fell(losses):
        return None
    count = len(losses)
    longest, before = np.ones(count, dtype=int), np.full(count, -1)
    for i in range(1, count):
        higher = [j for j in range(i) if losses[j] > losses[i]]
        if higher:
            before[i] = max(higher, key=lambda j: longest[j])
            longest[i] = longest[before[i]] + 1
    begin = end = int(np.argmax(longest))
    while before[begin] >= 0:
        begin = int(before[begin])
    return lrs[(begin + end) // 2]


def last_stable(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Returns a tenth of the rate with the least loss, up to which the loss did not rise."""
    return lrs[int(np.argmin(losses))] * _SAFETY if _fell(losses) else None


RULES: dict[str, Callable[[Sequence[float], Sequence[float]], float | None]] = {
    "steepest": steepest,
    "valley": valley,
    "last_stable": last_stable,
}
