"""The rule by which results are compared (D10), as assertions: the only tolerances of the tests."""

from __future__ import annotations

from torch import Tensor

from onepass.parity.rule import FACTOR, error, ulp, within

__all__ = ["FACTOR", "SCHEDULE_RTOL", "assert_d10", "error", "ulp"]


def assert_d10(ours: Tensor, torchs: Tensor, exact: Tensor, what: str = "") -> None:
    """Fails if ours is further from `exact` than D10 allows.

    Args:
        ours: Our result.
        torchs: torch's result from the same inputs, in the same dtype.
        exact: The result in float64.
        what: What is compared, for the message.
    """
    verdict = within(ours, torchs, exact)
    if verdict.ok:
        return
    worst = verdict.worst
    raise AssertionError(
        f"{what}: element {worst} is {ours.flatten()[worst].item()!r}, float64 says "
        f"{exact.flatten()[worst].item()!r}; error {verdict.error:.3g}, allowed {verdict.limit:.3g} "
        f"(torch's largest: {verdict.torch_error:.3g})"
    )


# Relative, for schedules: both sides are a few float64 operations on the same numbers, about 1e-16 each, and a
# power of up to 300 multiplies that.
SCHEDULE_RTOL = 1e-12
