"""The only tolerances of the tests: the parity rule (onepass/parity/rule.py) as assertions, then fixed numbers.

A fixed number stands where the rule cannot judge: results of whole trainings, of other packages, of formulas in
float64. Each says why it is as large as it is. ``*_RTOL`` and ``*_ATOL`` are numbers, relative and absolute; the
others are arguments of torch.testing.assert_close.
"""

from __future__ import annotations

import torch
from torch import Tensor

from onepass.parity.rule import FACTOR, error, ulp, within

__all__ = ["FACTOR", "assert_parity", "assert_scalar", "error", "ulp"]


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


def both(tolerance: float) -> dict[str, float]:
    """The same tolerance, relative and absolute."""
    return {"rtol": tolerance, "atol": tolerance}


# The same formula in float64 by two programs: some dozens of roundings of 1e-16 each.
FLOAT64 = both(1e-12)

# Optimizers.

# Weights after some steps of one rule in float32 by two programs, which round in other places: 1e-7 a step.
FLOAT32_STEPS = {"rtol": 1e-5, "atol": 1e-6}
# Weights after two or three steps at a rate of 1e-3 with states in 8 bits that were rounded by other dithers: a
# few per cent of a step.
CODED = {"rtol": 1e-3, "atol": 1e-4}
# The same through autocast, where a last place of a weight can round its 16-bit copy the other way.
AUTOCAST_STEPS = {"rtol": 1e-4, "atol": 1e-5}
# Twenty steps of a dozen roundings each in float64, none of which cancels by more than a few digits.
FLOAT64_STEPS = {"rtol": 1e-12, "atol": 1e-14}
# Moving averages in float32, which are rounded once a step.
AVERAGES = {"rtol": 1e-6, "atol": 1e-7}
AVERAGE_ATOL = 1e-6
# The norm of gradients next to one that is float32, or that torch computes in float32.
NORM_RTOL = 1e-6
# The norm of gradients in float64: of a hundred elements, and of a few thousand.
NORM_FLOAT64_RTOL = 1e-14
LONG_NORM_FLOAT64_RTOL = 1e-12
# Clipping divides by norm + 1e-6, as torch does, so the result is shorter than asked for by a millionth or so.
CLIPPED_RTOL = 1e-5
# Clipped float16 gradients are rounded to 11 binary digits each.
CLIPPED_HALF_RTOL = 1e-3

# Schedules.

# Both sides are a few float64 operations on the same numbers, about 1e-16 each, and a power of up to 300
# multiplies that.
SCHEDULE_RTOL = 1e-12
# The same near a rate of 0, where a difference of larger numbers is left.
SCHEDULE_ATOL = 1e-15
# One formula on a number and on numpy's array of them: the powers and cosines of two libraries.
PREVIEW_RTOL, PREVIEW_ATOL = 1e-14, 1e-16
# torch's recursive step multiplies quotients of rates, which lose digits where a rate is near 0.
RECURSIVE_RTOL, RECURSIVE_ATOL = 1e-9, 1e-12
# Rates in float32 tensors.
FLOAT32_RATES = {"rtol": 1e-5, "atol": 1e-7}
# Losses of a training with batches of 8 and of 32: sums in another order, through 20 updates with a growing rate.
ACCUMULATED_RTOL = 1e-4

# Layers.

# Outputs of a small network whose batch norms are folded, fused or converted by a tool: sums in another order.
TOOL_OUTPUTS = both(1e-5)
# Gradients through a batch norm, whose sums over the batch cancel, and weights after a few steps along them.
NORM_GRADIENTS = both(1e-4)
# Second derivatives of a batch norm: they divide by its variance three times; float16 has 11 binary digits.
SECOND_DERIVATIVES = {torch.float32: both(1e-3), torch.float16: both(0.1)}
# Gradients of weight and bias that several ranks have each rounded, next to those of one batch.
RANK_SUMS = both(1e-5)
# Results in bfloat16, which has 8 binary digits, after some roundings.
HALF_RESULTS = both(0.02)
# The same after four operations of torch's, each of which rounds.
LONG_HALF_RESULTS = both(0.05)
# float64 results of torch's own tests: sums of up to some thousand elements.
UPSTREAM_FLOAT64 = {"rtol": 1e-10, "atol": 1e-12}
# Predictions over samples, for an example in a batch and for it only: matrix products in another order.
SAMPLED = {"rtol": 1e-4, "atol": 1e-5}
# Means and entropies over samples, against float64; their differences have lost digits.
SAMPLE_MEANS = both(1e-5)
SAMPLE_DIFFERENCES = {"rtol": 1e-3, "atol": 1e-5}
# A variance of 1 of float32 values near 1e4, which are 1e-3 apart.
FAR_VARIANCE_RTOL = 1e-3

# A row whose first elements are a thousand deviations away, in float32: sums around their shift lose a digit,
# sums of squares would lose four.
OUTLIER_ROWS = both(1e-6)

# Cross-entropy.

# The loss and its gradient in float32 against float64: roundings of the exponential, of its sum, of the logarithm.
LOSS = {"rtol": 1e-6, "atol": 0.0}
LOSS_GRADIENT_RTOL = 2e-6
LOSS_GRADIENT = {"rtol": LOSS_GRADIENT_RTOL, "atol": 1e-12}
LOSS_GRADIENT_ONLY_RELATIVE = {"rtol": LOSS_GRADIENT_RTOL, "atol": 0.0}
# The same of probabilities, all below 1.
LOSS_GRADIENT_ATOL = 1e-6
# A confident row: nothing cancels in ours.
CONFIDENT = {"rtol": 3e-7, "atol": 0.0}
# torch's own loss in float32, which subtracts numbers near each other, and in bfloat16.
TORCHS_LOSS = {torch.float32: {"rtol": 1e-5, "atol": 1e-6}, torch.bfloat16: both(2e-2)}
# torch's gradient next to infinite logits, the difference of a probability and 1.
TORCHS_LOSS_GRADIENT = {"rtol": 1e-4, "atol": 1e-6}
# Sums over a batch that torch makes in float32; a single logarithm.
STATISTICS_RTOL = 1e-5
LOGARITHM_RTOL = 1e-6

# The command.

# Normalised pixels: float32 sums of three million.
PIXELS_ATOL = 1e-3
# Losses of the first ten steps with two optimizers that round differently; a step of bfloat16 weights.
DEMO_RTOL = 1e-3
DEMO_HALF_RTOL = 0.05
# Losses with other dropout masks, at the first step and later; of averages of such weights.
DEMO_MASKS_RTOL = 0.1
DEMO_LATER_MASKS_RTOL = 0.3
DEMO_AVERAGE_RTOL = 0.1
# One level of uint8 after normalising by ImageNet's deviations: some rivals round between their steps.
RIVALS_ATOL = 0.02
# An error of 1 ulp, in units of the spacing at the root mean square of two numbers.
ULPS_ATOL = 0.02
# A ratio that README gives with two decimals.
SHOWN_RTOL = 0.01
# e to the power of x by the loss's formula, with the spacing of subnormal numbers.
EXPONENTIAL = {"rtol": 1e-7, "atol": 2.0**-150}

# Augmentation.

# Values up to 1 by torchvision in float64 next to ours in float64; the scales of its filters are float32, as are
# the coefficients of its perspectives, and its table of hues.
IMAGE_FLOAT64_ATOL = 1e-9
IMAGE_FILTER_ATOL = 2e-6
IMAGE_PERSPECTIVE_ATOL = 2e-4
IMAGE_HUE_ATOL = 2e-6
# A few roundings of float32, next to values up to 1; to noise, which goes up to 5.
IMAGE_FLOAT32_ATOL = 3e-6
IMAGE_NOISE_ATOL = 1e-5
# Coordinates up to some dozens in float32, after a map and a division.
COORDINATES = {"rtol": 1e-5, "atol": 1e-4}
# The middle of a spot of five pixels, weighted by sampled values, next to the middle of its corners' box.
SPOT_ATOL = 0.3

# Other packages (tests/clients); whole trainings are compared by clients/programs.py.

# Gradients of each sample, and weights after five steps along them.
SAMPLE_GRADIENTS = {"rtol": 1e-4, "atol": 1e-6}
SAMPLE_STEPS = {"rtol": 0.0, "atol": 1e-6}
# Shares of the largest element: of features or attributions of a network, and of its outputs after steps on few
# images, whose statistics are rough.
NETWORK_SHARE = 1e-4
ROUGH_NETWORK_SHARE = 1e-3
# The share of a loss by which it may miss float64, a number that torch may hit by luck.
LOSS_SHARE = 1e-5
# Running statistics after ten steps on two processes.
RUNNING_STATISTICS = {"rtol": 1e-4, "atol": 1e-5}
# Outputs of two networks of the same layers of torch's, whose batch norms a tool replaced in one of them.
EQUAL_NETWORKS = {"rtol": 1e-5, "atol": 1e-6}
# Outputs of quantised layers, of layers that torch fuses, of features beyond a hundred layers.
QUANTISED = both(1e-4)
FUSED_BY_TORCH = both(1e-3)
DEEP_FEATURES = {"rtol": 1e-3, "atol": 1e-4}
# What must differ: attributions with and without a ReLU, of the largest; a training's movement.
VISIBLE_SHARE = 1e-2
LEAST_MOVEMENT = 1e-3
# Images that are normalised by a quarter: values are four times as large, and errors of positions, too.
IMAGE_GUARDED_ATOL = 2e-5
# Losses and weights of ours and torch's after three steps of the models of `onepass bench train`; AdamW's first
# steps divide gradients by themselves, so rounding moves those that are almost 0.
WHOLE_STEPS = {"rtol": 1e-3, "atol": 2e-4}
