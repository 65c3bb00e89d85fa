"""The network of the demo, and how it is judged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from onepass.nn import CrossEntropyLoss

# Bounds the memory of an evaluation.
_EVALUATION_BATCH = 500


class Score(NamedTuple):
    """Mean cross-entropy, the share of images that were named right, and the expected calibration error.

    That is how far the confidence in what was named lies from how often it was right.
    """

    loss: float
    accuracy: float
    calibration_error: float


def network() -> nn.Sequential:
    """Three convolutions with batch norm, dropout and two linear layers, for images of 28 x 28 pixels.

    Its layers have deterministic backward passes on the CPU and on CUDA. Weights are drawn from torch's default
    generator.
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
    # Batch norm has a bias of its own.
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels_out), nn.ReLU()]


def narrowed(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with its convolutions and linear layers in a dtype; batch norm keeps float32 statistics."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.to(dtype)
    return model


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> Score:
    """The model's score in evaluation mode; it is left in training mode."""
    model.eval()
    logits = torch.cat([model(some).float() for some in torch.split(images, _EVALUATION_BATCH)])
    model.train()
    loss, seen = CrossEntropyLoss(return_stats=True)(logits, labels)
    return Score(float(loss), float(seen.accuracy), float(seen.expected_calibration_error()))
