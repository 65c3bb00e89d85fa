"""The network of the demo, and how it is judged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from onepass.nn import CrossEntropyLoss

# Images in one forward pass of an evaluation; more would need more memory.
_EVALUATION_BATCH = 500


class Score(NamedTuple):
    """Holds how good a network is on some images."""

    loss: float
    """Mean cross-entropy."""
    accuracy: float
    """The share of images whose digit was recognised."""
    calibration_error: float
    """Expected calibration error: how far the confidence is from the accuracy."""


def network() -> nn.Sequential:
    """Makes a network for images of 28 x 28 pixels.

    It has three convolutions with batch norm, dropout and two linear layers. Its layers have deterministic
    backward passes on the CPU and on CUDA. Weights are drawn from torch's default generator.
    """
    return nn.Sequential(
        *_block(1, 16),
        nn.MaxPool2d(2),
        *_block(16, 32),
        nn.MaxPool2d(2),
        *_block(32, 64),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(128, 10),
    )


def _block(channels_in: int, channels_out: int) -> list[nn.Module]:
    # No bias: batch norm has one of its own.
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]


def narrowed(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Converts convolutions and linear layers to a dtype, in place; batch norms stay float32.

    Args:
        model: What is converted.
        dtype: The dtype of its weights.

    Returns:
        The model.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.to(dtype)
    return model


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> Score:
    """Scores a model in evaluation mode, and leaves it in training mode.

    Args:
        model: A network for the images.
        images: (N, 1, 28, 28), of the dtype of the model's weights.
        labels: int64, (N,).
    """
    model.eval()
    logits = torch.cat([model(some).float() for some in torch.split(images, _EVALUATION_BATCH)])
    model.train()
    loss, seen = CrossEntropyLoss(return_stats=True)(logits, labels)
    return Score(float(loss), float(seen.accuracy), float(seen.expected_calibration_error()))
