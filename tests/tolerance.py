"""The parity rule (onepass/parity/rule.py) as assertions: the only tolerances of the tests."""

from __future__ import annotations

from torch import Tensor

from onepass.parity.rule import FACTOR, error, ulp, within

__all__ = ["FACTOR", "SCALAR_ULPS", "SCHEDULE_RTOL", "assert_parity", "assert_scalar", "error", "ulp"]


# Sums of a whole tensor are one number each, which torch may hit by luck; ours is sums of rows with up to two
# roundings each, of which some fall the same way.
SCALAR_ULPS = 4


def assert_scalar(ours: Tensor, exact: Tensor, what: str = "") -> None:
    """Fails if a sum or mean of a whole tensor is further than SCALAR_ULPS from the exact one."""
    distance, unit = float(error(ours, exact)), float(ulp(exact, ours.dtype).nan_to_num(nan=1.0))
    assert distance <= SCALAR_ULPS * unit, f"{what}: {ours.item()!r}, float64 says {exact.item()!r}"


def assert_parity(ours: Tensor, torchs: Tensor, exact: Tensor, what: str = "") -> None:
    """Fails if ours is further from `exact` than the parity rule allows.

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
