"""Models whose batch norms `fuse` looks for, and what a training step of one gives."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tolerance import FACTOR, FLOAT64, ulp


class Residual(nn.Module):
    """A ResNet's block, whose additions and ReLUs stand in forward code."""

    def __init__(self, width: int = 8, dropout: float = 0.0, shortcut: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(dropout)
        self.shortcut = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.shortcut is not None:
            identity = self.shortcut(x)
        out += identity
        return self.drop(self.relu(out))


class Functional(nn.Module):
    """The same by functions, with a flag and a probability that are attributes."""

    def __init__(self, width: int = 8, p: float = 0.0) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.p, self.adds = p, True

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        y = self.norm(self.conv(x * scale))
        if self.adds:
            y = torch.add(x, y)
        return F.dropout(F.relu(y), p=self.p, training=self.training)


class UNet(nn.Module):
    """Two levels, with a concatenation."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.enter, self.down = self.pair(1, width), self.pair(width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.leave, self.head = self.pair(2 * width, width), nn.Conv2d(width, 1, 1)

    @staticmethod
    def pair(inside: int, outside: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for channels in (inside, outside):
            layers += [nn.Conv2d(channels, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.enter(x)
        deep = self.down(F.max_pool2d(wide, 2))
        return self.head(self.leave(torch.cat([wide, self.up(deep)], dim=1)))


class Generator(nn.Module):
    """A GAN's generator: from a vector to an image."""

    def __init__(self, size: int = 6, width: int = 8) -> None:
        super().__init__()
        self.enter = nn.Linear(size, width * 16)
        self.norm0 = nn.BatchNorm1d(width * 16)
        self.grow1 = nn.ConvTranspose2d(width, width, 4, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.grow2 = nn.ConvTranspose2d(width, 1, 4, 2, 1)

    def forward(self, z: Tensor) -> Tensor:
        h = F.relu(self.norm0(self.enter(z)))
        h = h.view(z.size(0), -1, 4, 4)
        return torch.tanh(self.grow2(F.relu_(self.norm1(self.grow1(h)))))


class Mlp(nn.Module):
    """A residual MLP with batch norm, ReLU and dropout."""

    def __init__(self, width: int = 16, p: float = 0.0) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(p))
        self.lin, self.norm, self.drop = nn.Linear(width, width), nn.BatchNorm1d(width), nn.Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        return self.drop(F.relu(self.norm(self.lin(h)) + h))


def results(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Returns the output, all gradients and all statistics of a training step, and the evaluation after it."""
    model.train()
    x = x.clone().requires_grad_(x.is_floating_point())
    y = model(x)
    y.square().sum().backward()
    grads = [x.grad, *(p.grad for p in model.parameters())]
    buffers = [b.clone() for b in model.buffers() if b.is_floating_point()]
    with torch.no_grad():
        after = model.eval()(x.detach())
    return [y.detach(), *grads, *buffers, after]


def assert_parity_by_norm(parameters: int, ours: list[Tensor], torchs: list[Tensor], exact: list[Tensor]) -> None:
    """Fails if outputs, gradients or statistics, each kind by its norm, break the rule of parity.

    Element by element a network of many layers can break it by luck: each of its values has one error of torch's
    as a yardstick, which may be small.
    """
    grads = 1 + parameters
    kinds = {
        "output": (0, 1),
        "gradients": (1, 1 + grads),
        "statistics": (1 + grads, -1),
        "evaluation": (-1, None),
    }
    for kind, (start, stop) in kinds.items():
        chosen = [
            (our, their, right)
            for our, their, right in zip(ours[start:stop], torchs[start:stop], exact[start:stop], strict=True)
        ]
        our_error = sum(float((our.double() - right).square().sum()) for our, _, right in chosen) ** 0.5
        their_error = sum(float((their.double() - right).square().sum()) for _, their, right in chosen) ** 0.5
        last = sum(float(ulp(right, our.dtype).square().sum()) for our, _, right in chosen) ** 0.5
        assert our_error <= FACTOR * their_error + last, (kind, our_error, their_error, last)


def state(model: nn.Module) -> dict[str, Tensor]:
    """Returns copies of the buffers."""
    return {name: value.clone() for name, value in model.named_buffers()}


def assert_as_written(model: nn.Module, *inputs: Tensor, calls: int = 2) -> None:
    """Compares calls with what the forward says, from the same statistics: results, statistics and inputs."""
    for _ in range(calls):
        before, values = state(model), []
        for call in (model, model._call_impl):
            for name, value in model.named_buffers():
                value.copy_(before[name])
            given = [x.clone() for x in inputs]
            result = call(*given)
            values.append((result, state(model), given))
        torch.testing.assert_close(*values, **FLOAT64)
