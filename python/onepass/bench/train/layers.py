"""The layers in which the competitors of `onepass bench train` differ: torch's in a row, or ours in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import onepass.nn
import onepass.optim

__all__ = ["KITS", "Kit"]

# The learning rate of all; small enough that no loss overflows in any number of rounds.
_LR = 1e-3
_MOMENTUM = 0.9


@dataclass(frozen=True)
class Kit:
    """Makes the layers, the loss and the optimizer of a model.

    Args:
        norm_relu: Makes batch norm and ReLU of a number of channels, for 2 (images) or 1 (rows) dimensions, with a
            probability of dropout behind. Its forward takes x, and a residual that is added before the ReLU.
        norm: Makes a batch norm of images.
        drop_add: Makes dropout of a probability; its forward takes x and a residual that is added behind it.
        loss: Makes the cross-entropy loss, in a compiled model or not. Ours writes the gradient over the logits,
            which torch.compile does not know.
        adamw: Makes AdamW of a model; torch's is fused if the second argument says so.
        sgd: Makes SGD with momentum, in the same way.
    """

    norm_relu: Callable[[int, int, float], nn.Module]
    norm: Callable[[int], nn.Module]
    drop_add: Callable[[float], nn.Module]
    loss: Callable[[bool], nn.Module]
    adamw: Callable[[nn.Module, bool], torch.optim.Optimizer]
    sgd: Callable[[nn.Module, bool], torch.optim.Optimizer]


class _NormRelu(nn.Module):
    """torch's batch norm, and what follows it, as models write it."""

    def __init__(self, channels: int, dimensions: int, dropout: float) -> None:
        super().__init__()
        self.norm = (nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm1d)(channels)
        self.dropout = dropout

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y = self.norm(x)
        if residual is not None:
            y += residual
        y = F.relu(y, inplace=True)
        return F.dropout(y, self.dropout, self.training) if self.dropout else y


class _OurNormRelu(nn.Module):
    """Our batch norm, with its parameters under the same names."""

    def __init__(self, channels: int, dimensions: int, dropout: float) -> None:
        super().__init__()
        kind = onepass.nn.BatchNorm2d if dimensions == 2 else onepass.nn.BatchNorm1d
        self.norm = kind(channels, activation="relu", dropout=dropout)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        y: Tensor = self.norm(x, residual)
        return y


class _DropAdd(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return residual + F.dropout(x, self.p, self.training)


class _OurDropAdd(nn.Module):
    def __init__(self, p: float) -> None:
        super().__init__()
        self.dropout = onepass.nn.Dropout(p)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = self.dropout(x, residual)
        return y


KITS = {
    "torch": Kit(
        _NormRelu,
        nn.BatchNorm2d,
        _DropAdd,
        lambda compiled: nn.CrossEntropyLoss(),
        lambda model, fused: torch.optim.AdamW(model.parameters(), lr=_LR, fused=fused or None),
        lambda model, fused: torch.optim.SGD(model.parameters(), lr=_LR, momentum=_MOMENTUM, fused=fused or None),
    ),
    "ours": Kit(
        _OurNormRelu,
        onepass.nn.BatchNorm2d,
        _OurDropAdd,
        lambda compiled: onepass.nn.CrossEntropyLoss(inplace_backward=not compiled),
        lambda model, fused: onepass.optim.AdamW(model.parameters(), lr=_LR),
        lambda model, fused: onepass.optim.SGD(model.parameters(), lr=_LR, momentum=_MOMENTUM),
    ),
}
