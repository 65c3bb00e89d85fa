"""The networks of the planted faults: each for images of one channel and ten classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["Attention", "Recurrent", "convolutional", "deep", "perceptron", "pooled"]


def perceptron(
    size: int, width: int = 64, *, depth: int = 2, norm: bool = False, dropout: float = 0.0
) -> nn.Module:
    """Makes hidden layers of one width with ReLU.

    Args:
        size: Pixels along an edge of an image.
        width: Units of a hidden layer.
        depth: Hidden layers.
        norm: Whether each has a batch norm.
        dropout: The share of units that dropout zeroes, 0 for no dropout.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    features = size * size
    for _ in range(depth):
        layers += [
            nn.Linear(features, width, bias=not norm),
            *([nn.BatchNorm1d(width)] if norm else []),
            nn.ReLU(),
        ]
        layers += [nn.Dropout(dropout)] if dropout else []
        features = width
    return nn.Sequential(*layers, nn.Linear(features, 10))


def convolutional(size: int, width: int = 8, *, norm: bool = False, dropout: float = 0.0) -> nn.Module:
    """Makes two convolutions with ReLU and pooling, and a linear layer; arguments as in `perceptron`."""

    def block(channels_in: int, channels_out: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=not norm)
        return [convolution, *([nn.BatchNorm2d(channels_out)] if norm else []), nn.ReLU(), nn.MaxPool2d(2)]

    features = 2 * width * (size // 4) ** 2
    last = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*block(1, width), *block(width, 2 * width), nn.Flatten(), *last, nn.Linear(features, 10))


def deep(size: int, width: int, depth: int, activation: Callable[[], nn.Module], gain: float = 1.0) -> nn.Module:
    """Makes many linear layers of one width; `gain` multiplies torch's initial weights."""
    layers: list[nn.Module] = [nn.Flatten()]
    features = size * size
    for _ in range(depth):
        layers += [nn.Linear(features, width), activation()]
        features = width
    model = nn.Sequential(*layers, nn.Linear(features, 10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(gain)
    return model


def pooled(size: int, grid: int, width: int = 32) -> nn.Module:
    """Makes a network that sees only the means of grid x grid fields: too little to tell ten classes apart."""
    fields = [nn.AdaptiveAvgPool2d(grid), nn.Flatten()]
    return nn.Sequential(*fields, nn.Linear(grid * grid, width), nn.Tanh(), nn.Linear(width, 10))


class Recurrent(nn.Module):
    """Reads an image row by row with torch's RNN; the last state gives the class.

    Args:
        size: Pixels along an edge.
        width: Units of the state.
        gain: The recurrent weights are orthogonal times this.
    """

    def __init__(self, size: int, width: int = 64, gain: float = 1.0) -> None:
        super().__init__()
        self.rnn = nn.RNN(size, width, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(width, 10)
        weight = self.rnn.get_parameter("weight_hh_l0")
        nn.init.orthogonal_(weight, gain)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, 10)."""
        states, _ = self.rnn(images[:, 0])
        logits: Tensor = self.head(states[:, -1])
        return logits


class Attention(nn.Module):
    """Reads the rows of an image as tokens of a transformer encoder.

    Args:
        size: Pixels along an edge.
        width: Numbers of a token.
        depth: Encoder layers.
        norm_first: Whether norms come before attention (pre-norm); else after the sum (post-norm).
    """

    def __init__(self, size: int, width: int = 32, depth: int = 6, *, norm_first: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(size, width)
        self.place = nn.Parameter(0.1 * torch.randn(size, width))
        layers = [
            nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=norm_first)
            for _ in range(depth)
        ]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, 10)."""
        logits: Tensor = self.head(self.layers(self.embed(images[:, 0]) + self.place).mean(1))
        return logits
