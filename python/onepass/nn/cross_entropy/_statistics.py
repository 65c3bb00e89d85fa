"""What the loss has seen of the predictions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from onepass import _native

__all__ = ["LossStatistics", "no_totals", "statistics_of"]


class LossStatistics(NamedTuple):
    """Holds what the loss has seen of the predictions: float64 tensors on its device, for which nobody has waited.

    All are over the rows that count, those that are not ignored. The confidence of a row is its largest
    probability; a bin holds the rows whose confidence lies in one of 15 equal parts of 0 to 1.

    Example:
        >>> import torch
        >>> from onepass.nn.functional import cross_entropy
        >>> _, seen = cross_entropy(torch.eye(3) * 9, torch.tensor([0, 1, 0]), return_stats=True)
        >>> int(seen.rows), round(seen.accuracy.item(), 3)
        (3, 0.667)
        >>> round(seen.expected_calibration_error().item(), 3)
        0.333
    """

    rows: Tensor
    """How many rows count."""
    accuracy: Tensor
    """Mean probability that the target gives the class with the largest logit (the first of equals): 0 or 1 for a
    label, lam or 1 - lam for one of two, y for probabilities. Label smoothing does not change it."""
    entropy: Tensor
    """Mean entropy of the predictions, in nats."""
    largest_logit: Tensor
    """The largest logit; -inf without rows."""
    bin_rows: Tensor
    """Rows of each bin, of shape (15,)."""
    bin_accuracy: Tensor
    """Mean accuracy of each bin's rows; nan in an empty one."""
    bin_confidence: Tensor
    """Mean confidence of each bin's rows; nan in an empty one."""

    def expected_calibration_error(self) -> Tensor:
        """Computes the mean over the rows of their bin's gap between accuracy and confidence; nan without rows.

        Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
        """
        gaps = (self.bin_accuracy - self.bin_confidence).abs() * self.bin_rows
        return gaps.nan_to_num(nan=0.0).sum() / self.bin_rows.sum()


def no_totals(input: Tensor) -> Tensor:
    """Returns the totals of no rows."""
    core = _native.core
    totals = torch.zeros(core.cross_entropy_totals, dtype=torch.float64, device=input.device)
    totals[core.cross_entropy_places["largest_logit"]] = -math.inf
    return totals


def statistics_of(totals: Tensor) -> LossStatistics:
    """Returns the statistics of the kernels' totals."""
    places = _native.core.cross_entropy_places
    rows = totals[places["rows"]]
    bin_rows, correct, confidence = totals[places["bins"] :].view(3, -1)
    return LossStatistics(
        rows=rows,
        accuracy=totals[places["correct"]] / rows,
        entropy=totals[places["entropy"]] / rows,
        largest_logit=totals[places["largest_logit"]],
        bin_rows=bin_rows,
        bin_accuracy=correct / bin_rows,
        bin_confidence=confidence / bin_rows,
    )
