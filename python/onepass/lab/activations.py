"""What a forward pass keeps for the backward pass, by depth, with and without checkpoints."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

import onepass.nn
from onepass.lab.experiment import Case, Experiment, Point, Points
from onepass.lab.memory import LiveBytes
from onepass.lab.pictures import line
from onepass.lab.statistics import Check, Estimate, estimate, ratio

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from onepass.lab.result import Result

TORCH, OURS, CHECKPOINTS, NO_GRAD = "torch", "onepass", "onepass, checkpoints", "onepass, no_grad"
KEPT, PEAK, TIME, OFF = "kept, MiB", "peak, MiB", "CPU time, ms", "difference of gradients"
_MIB = 2.0**20


@dataclass(frozen=True)
class Activations(Experiment):
    """Counts the bytes of all live tensors in forward and backward passes of a chain of blocks.

    A block is a convolution, a batch norm, a ReLU and a dropout on (batch, channels, size, size). Kept is what
    lives after the forward pass; the peak is over both passes. With checkpoints the chain is cut into as many
    segments as the square root of its depth, and the backward pass computes the inside of a segment again.

    Claim: Kept memory grows in proportion to depth; with checkpoints at every square root of the depth the peak
    grows like the square root, and the gradients stay the same; without gradients it does not grow; our fused
    layers keep about half of what torch's keep.

    Criterion: The exponent of the kept bytes by depth is above 0.9; that of the peak with checkpoints is below
    0.7; the gradients with checkpoints differ by less than 1e-9 of their norm; the peak of a forward pass under
    no_grad at the largest depth is below 1.2 times that at the least; ours keep less than 0.6 of torch's bytes at
    the largest depth (all 95 % intervals).

    Limits: What an operator allocates for itself is not counted, nor are weights. The share that our layers save
    is that of this block; without dropout the two keep the same in a chain, because the output of a ReLU is also
    the input of the next convolution. Times are of a shared machine and no part of the criterion.

    Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"; torch.utils.checkpoint.
    """

    name: ClassVar[str] = "activations"
    seeds: ClassVar[int] = 3
    long_seeds: ClassVar[int] = 5
    depths: tuple[int, ...] = (4, 16, 36, 64)
    batch: int = 32
    channels: int = 8
    size: int = 16

    def cases(self) -> Sequence[Case]:
        """Lists ways and depths."""
        return [
            {"way": way, "depth": depth} for way in (TORCH, OURS, CHECKPOINTS, NO_GRAD) for depth in self.depths
        ]

    def measure(self, case: Case, seed: int) -> Iterator[Point]:
        """Runs both passes once with the memory counted, and once with the time taken.

        Args:
            case: The way and the depth.
            seed: Seeds weights, inputs and dropouts.
        """
        way = case["way"]
        model = self._chain(case["depth"])
        if way != TORCH:
            onepass.nn.convert(model, fuse_relu=True)
        inputs = torch.randn(self.batch, self.channels, self.size, self.size)
        with torch.set_grad_enabled(way != NO_GRAD):
            forward = partial(_checkpointed, model) if way == CHECKPOINTS else model
            torch.manual_seed(seed)
            memory = LiveBytes()
            with memory:
                loss = forward(inputs).square().mean()
                kept = memory.now
                if way != NO_GRAD:
                    loss.backward()
            values = {KEPT: kept / _MIB, PEAK: memory.peak / _MIB}
            if way == CHECKPOINTS:
                plain = copy.deepcopy(model)
                plain.zero_grad()
                torch.manual_seed(seed)
                plain(inputs).square().mean().backward()
                right, found = _gradient(plain), _gradient(model)
                values[OFF] = float((found - right).norm() / right.norm())
            begin = time.process_time()
            loss = forward(inputs).square().mean()
            if way != NO_GRAD:
                loss.backward()
            values[TIME] = 1e3 * (time.process_time() - begin)
        yield Point(seed, case, values)

    def _chain(self, depth: int) -> nn.Sequential:
        def block() -> list[nn.Module]:
            convolution = nn.Conv2d(self.channels, self.channels, 3, padding=1, bias=False)
            return [convolution, nn.BatchNorm2d(self.channels), nn.ReLU(), nn.Dropout(0.1)]

        return nn.Sequential(*(nn.Sequential(*block()) for _ in range(depth)))

    def checks(self, points: Points) -> list[Check]:
        """Computes exponents and ratios.

        Args:
            points: The measurements.
        """
        first, last = min(self.depths), max(self.depths)
        deep, shallow = (points.of(PEAK, way=NO_GRAD, depth=depth) for depth in (last, first))
        ours, torchs = (points.of(KEPT, way=way, depth=last) for way in (OURS, TORCH))
        differences = (points.of(OFF, way=CHECKPOINTS, depth=depth) for depth in self.depths)
        return [
            Check("exponent of the kept bytes by depth", self._exponent(points, KEPT, OURS), above=0.9),
            Check(
                "exponent of the peak by depth, checkpoints", self._exponent(points, PEAK, CHECKPOINTS), below=0.7
            ),
            Check(
                "largest relative difference of gradients with checkpoints",
                estimate([max(of_seed) for of_seed in zip(*differences, strict=True)]),
                below=1e-9,
            ),
            Check(f"peak under no_grad, depth {last} / {first}", ratio(deep, shallow), below=1.2),
            Check("kept, onepass / torch", ratio(ours, torchs), below=0.6),
        ]

    def _exponent(self, points: Points, name: str, way: str) -> Estimate:
        by_depth = np.log([points.of(name, way=way, depth=depth) for depth in self.depths])
        slopes, _ = np.polyfit(np.log(self.depths), by_depth, 1)
        return estimate(slopes.tolist())

    def draw(self, result: Result, figure: Figure) -> None:
        """Draws kept bytes, peaks and times by depth.

        Args:
            result: What was found.
            figure: An empty figure.
        """
        for axes, name in zip(figure.subplots(1, 3), (KEPT, PEAK, TIME), strict=True):
            for i, way in enumerate((OURS, TORCH, CHECKPOINTS, NO_GRAD)):
                rows = [row for row in result.rows if row.case["way"] == way]
                depths = [row.case["depth"] for row in rows]
                line(axes, depths, [row.values[name] for row in rows], way, i)
            axes.set(xlabel="depth, blocks", ylabel=name)
        figure.axes[0].legend(frameon=False)


def _checkpointed(model: nn.Sequential, inputs: Tensor) -> Tensor:
    segments = max(1, math.isqrt(len(model)))
    # torch gives this function no types.
    checkpointed: Any = checkpoint_sequential
    found: Tensor = checkpointed(model, segments, inputs, use_reentrant=False)
    return found


def _gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


EXPERIMENT = Activations
