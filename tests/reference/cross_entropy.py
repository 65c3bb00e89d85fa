"""The cross-entropy loss and its gradient in numpy, in the precision of their arguments."""

from __future__ import annotations

import numpy as np


def rows_of_classes(x: np.ndarray) -> np.ndarray:
    """Reshapes (C), (N, C) or (N, C, d1, ...) to one row of C for each distribution."""
    return x[None] if x.ndim == 1 else np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def like(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Reshapes rows of C back to the shape of the logits."""
    if len(shape) == 1:
        return rows[0]
    return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


def target_of_labels(
    labels: list[np.ndarray],
    lams: list[np.ndarray],
    weight: np.ndarray,
    smoothing: float,
    ignore_index: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Computes q and the weight in a mean of each row; labels and lams have one entry for each row."""
    rows, classes = len(labels[0]), len(weight)
    q, total = np.zeros((rows, classes), weight.dtype), np.zeros(rows, weight.dtype)
    for label, lam in zip(labels, lams, strict=True):
        for r in range(rows):
            if label[r] == ignore_index:
                continue
            q[r, label[r]] += lam[r] * (1 - smoothing) * weight[label[r]]
            q[r] += lam[r] * smoothing / classes * weight
            total[r] += lam[r] * weight[label[r]]
    return q, total


def loss_and_gradient(
    x: np.ndarray, q: np.ndarray, weights: np.ndarray, z_loss: float, reduction: str, grad: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Computes both for rows x; grad is the upstream gradient, one number or one for each row."""
    below = x.max(1, keepdims=True) - x
    log_sum = np.log(np.exp(-below).sum(1, keepdims=True))
    lse = x.max(1) + log_sum[:, 0]
    loss = (q * (log_sum + below)).sum(1) + z_loss * weights * lse**2
    factor = q.sum(1) + 2 * z_loss * weights * lse
    dx = factor[:, None] * np.exp(-below - log_sum) - q
    if reduction == "none":
        return loss, dx * grad[:, None]
    count = weights.sum() if reduction == "mean" else 1
    return loss.sum() / count, dx * (grad / count)
