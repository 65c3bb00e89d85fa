"""The models of `onepass bench train`: a small GPT, ResNet-18, a residual MLP, and one block of convolutions.

Each is written once; a `Kit` makes the layers that the competitors differ in, under the same names, so that all
begin with the same weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onepass.bench.train.layers import Kit

__all__ = ["GPT", "MLP", "Chain", "ResNet18"]


class _Block(nn.Module):
    """Attention and two linear layers, each with dropout and a residual."""

    def __init__(self, kit: Kit, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_linear = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.after_attention, self.after_linear = kit.drop_add(dropout), kit.drop_add(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block.

        Args:
            x: Of shape (sequences, tokens, width).
        """
        sequences, tokens, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(sequences, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = self.after_attention(self.out(heads.transpose(1, 2).reshape(sequences, tokens, width)), x)
        y: Tensor = self.after_linear(self.down(F.gelu(self.up(self.norm_linear(x)))), x)
        return y


class GPT(nn.Module):
    """A small GPT.

    Args:
        kit: Makes the layers.
        vocabulary: Number of tokens.
        layers: Number of blocks.
        width: Width of the residual stream.
        length: The most tokens of a sequence.
        dropout: Probability of dropout.
    """

    def __init__(
        self,
        kit: Kit,
        vocabulary: int = 32_000,
        layers: int = 4,
        width: int = 256,
        length: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(_Block(kit, width, width // 64, dropout) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Computes the logits, of shape (sequences * tokens, vocabulary).

        Args:
            tokens: Of shape (sequences, tokens).
        """
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.blocks(self.tokens(tokens) + self.places(places))
        # Flattened before, so that the logits are no view, which a loss could not overwrite.
        logits: Tensor = self.head(self.norm(x).flatten(0, 1))
        return logits


class _Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, kit: Kit, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm_first = kit.norm_relu(outputs, 2, 0.0)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm_second = kit.norm_relu(outputs, 2, 0.0)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), kit.norm(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block.

        Args:
            x: Images.
        """
        y: Tensor = self.norm_second(self.second(self.norm_first(self.first(x))), self.shortcut(x))
        return y


class ResNet18(nn.Module):
    """ResNet-18 for small images: the first convolution is 3x3 and nothing is pooled before the blocks.

    Args:
        kit: Makes the layers.
        classes: Number of classes.
        width: Channels of the first blocks.

    Source: He et al. 2016.
    """

    def __init__(self, kit: Kit, classes: int = 10, width: int = 64) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, width, 3, 1, 1, bias=False), kit.norm_relu(width, 2, 0.0)
        blocks, inputs = [], width
        for stage in range(4):
            outputs = width * 2**stage
            blocks += [_Residual(kit, inputs, outputs, 1 + (stage > 0)), _Residual(kit, outputs, outputs, 1)]
            inputs = outputs
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the logits.

        Args:
            x: Images of shape (N, 3, height, width).
        """
        logits: Tensor = self.head(self.blocks(self.norm(self.first(x))).mean((2, 3)))
        return logits


class MLP(nn.Module):
    """Residual blocks of linear layers, batch norm, ReLU and dropout.

    Args:
        kit: Makes the layers.
        width: Features of each layer.
        blocks: Number of blocks of two linear layers.
        classes: Number of classes.
        dropout: Probability of dropout.
    """

    def __init__(
        self, kit: Kit, width: int = 512, blocks: int = 3, classes: int = 10, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(2 * blocks))
        self.norms = nn.ModuleList(kit.norm_relu(width, 1, dropout) for _ in range(2 * blocks))
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the logits.

        Args:
            x: Of shape (N, width).
        """
        for i in range(0, len(self.linears), 2):
            y = self.norms[i](self.linears[i](x))
            x = self.norms[i + 1](self.linears[i + 1](y), x)
        logits: Tensor = self.head(x)
        return logits


class Chain(nn.Module):
    """A 1x1 convolution, batch norm with ReLU, and another 1x1 convolution.

    Args:
        kit: Makes the layers.
        channels: Channels of all.
    """

    def __init__(self, kit: Kit, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(2))
        self.norm = kit.norm_relu(channels, 2, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the three.

        Args:
            x: Images.
        """
        y: Tensor = self.second(self.norm(self.first(x)))
        return y
