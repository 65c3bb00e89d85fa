"""Compares formats of 8-bit optimizer states with float32 ones, on gradients of known spread, and writes a JSON.

    python benchmarks/state_formats.py --output benchmarks/results/state-formats.json

Each gradient is scale * (0.3 + noise), its scale lognormal with sigma within each block. The error is that of the
parameters, which begin at 0: norm of the difference over norm, and largest difference over largest parameter. The
formats of others are emulated here from their papers and code; ours is the kernel.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onepass.bench import machine
from onepass.optim import Adam

LR, EPS, BETAS = 1e-3, 1e-12, (0.9, 0.999)
SIGNAL = 0.3
SIGMAS = (0.0, 1.0, 2.0)
Rounding = Callable[[Tensor], Tensor]


def dynamic_map(signed: bool) -> Tensor:
    """The dynamic tree of 8 bits: decades with linear steps, finer towards the largest (Dettmers et al. 2022)."""
    found = [0.0, 1.0]
    for i in range(7):
        count = 2**i + 1 if signed else 2 ** (i + 1) + 1
        steps = torch.linspace(0.1, 1, count)
        means = (10.0 ** (i - 6) * (steps[:-1] + steps[1:]) / 2).tolist()
        found += means + [-x for x in means if signed]
    return torch.tensor(sorted(found))


def by_map(codes: Tensor, block: int) -> Rounding:
    """Rounds to the nearest of the codes, relative to the largest magnitude of each block."""
    middles = (codes[1:] + codes[:-1]) / 2

    def rounded(x: Tensor) -> Tensor:
        blocks = x.view(-1, block)
        scale = blocks.abs().amax(1, keepdim=True).clamp(min=1e-38)
        return (codes[torch.bucketize((blocks / scale).contiguous(), middles)] * scale).view(-1)

    return rounded


def by_root(rounding: Rounding) -> Rounding:
    """Rounds the square root."""
    return lambda x: rounding(x.sqrt()).square()


def logarithmic(block: int, octaves: float) -> Rounding:
    """Rounds the logarithm to one of 255 steps below the block's largest number."""

    def rounded(x: Tensor) -> Tensor:
        blocks = x.view(-1, block)
        scale = blocks.amax(1, keepdim=True).clamp(min=1e-38)
        level = ((blocks / scale).clamp(min=1e-38).log2() / octaves + 1) * 254
        value = scale * 2 ** ((level.round().clamp(0, 254) / 254 - 1) * octaves)
        return torch.where(blocks == 0, blocks, value).view(-1)

    return rounded


def flash_first(x: Tensor) -> Tensor:
    """FlashOptim's first moment: 2 x / (1 + |x|) in steps of 1 / 127, blocks of 32, a float16 scale."""
    blocks = x.view(-1, 32)
    scale = blocks.abs().amax(1, keepdim=True).half().float().clamp(min=1e-30)
    y = blocks / scale
    code = (2 * y / (1 + y.abs()) * 127).round().clamp(-127, 127) / 127
    return (code / (2 - code.abs()) * scale).view(-1)


def flash_second(x: Tensor) -> Tensor:
    """FlashOptim's second moment: the root in steps of 1 / 255, blocks of 32, a float16 scale."""
    blocks = x.sqrt().view(-1, 32)
    scale = blocks.amax(1, keepdim=True).half().float().clamp(min=1e-30)
    return ((blocks / scale * 255 + 0.5).floor().clamp(max=255) / 255 * scale).square().view(-1)


FORMATS: dict[str, tuple[Rounding, Rounding]] = {
    "bitsandbytes, torchao": (by_map(dynamic_map(True), 256), by_map(dynamic_map(False), 256)),
    "FlashOptim": (flash_first, flash_second),
    "dynamic, root of v, 32": (by_map(dynamic_map(True), 32), by_root(by_map(dynamic_map(False), 32))),
    "dynamic, log of root of v, 32": (by_map(dynamic_map(True), 32), by_root(logarithmic(32, 16))),
}


class Emulated:
    """Adam whose moments are rounded after each step."""

    def __init__(self, numel: int, first: Rounding, second: Rounding) -> None:
        self.param, self.m, self.v = (torch.zeros(numel) for _ in range(3))
        self._first, self._second = first, second
        self._steps = 0

    def step(self, grad: Tensor) -> None:
        """Takes a step."""
        self._steps += 1
        (beta1, beta2), t = BETAS, self._steps
        m, v = beta1 * self.m + (1 - beta1) * grad, beta2 * self.v + (1 - beta2) * grad.square()
        self.param -= LR / (1 - beta1**t) * m / ((v / (1 - beta2**t)).sqrt() + EPS)
        self.m, self.v = self._first(m), self._second(v)


class Ours:
    """The kernel's step."""

    def __init__(self, numel: int) -> None:
        self.param = torch.nn.Parameter(torch.zeros(numel))
        self.optimizer = Adam([self.param], lr=LR, eps=EPS, betas=BETAS, state_format="8bit")

    def step(self, grad: Tensor) -> None:
        """Takes a step."""
        self.param.grad = grad
        self.optimizer.step()

    @property
    def v(self) -> Tensor:
        """The second moments."""
        found: Tensor = self.optimizer.float_state_dict()["state"][0]["exp_avg_sq"]
        return found


def compare(numel: int, sigma: float, steps: int, change: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """Runs all formats on the same gradients.

    Args:
        numel: Parameters.
        sigma: Of the gradients' scales.
        steps: Steps of Adam.
        change: What the scale of every other element is multiplied by after a fifth of the steps.
        seed: Of the gradients.

    Returns:
        For each format its error, the largest one, and the mean of its second moments over the exact ones, of the
        elements whose scale changed.
    """
    generator = torch.Generator().manual_seed(seed)
    scale = (sigma * torch.randn(numel, generator=generator)).exp() * 1e-3
    exact = Emulated(numel, lambda x: x, lambda x: x)
    runs: dict[str, Any] = {name: Emulated(numel, *both) for name, both in FORMATS.items()}
    runs["onepass"] = Ours(numel)
    for step in range(steps):
        if step == steps // 5:
            scale[::2] *= change
        grad = scale * (torch.randn(numel, generator=generator) + SIGNAL)
        for run in (exact, *runs.values()):
            run.step(grad)
    found = {}
    for name, run in runs.items():
        wrong = run.param.detach() - exact.param
        found[name] = {
            "error": float(wrong.norm() / exact.param.norm()),
            "largest": float(wrong.abs().max() / exact.param.abs().max()),
            "second_moments": float((run.v / exact.v)[::2].mean()),
        }
    return found


def main() -> None:
    """Prints the study and writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numel", type=int, default=16384)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--long-steps", type=int, default=2000)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    results = []
    for sigma, steps, change in [
        *((sigma, options.steps, 1.0) for sigma in SIGMAS),
        *((sigma, options.long_steps, change) for sigma in (0.0, 1.0) for change in (1.0, 0.1, 10.0)),
    ]:
        found = compare(options.numel, sigma, steps, change)
        results.append({"sigma": sigma, "steps": steps, "change": change, "formats": found})
        for name, row in found.items():
            figures = "  ".join(f"{key} {value:.4g}" for key, value in row.items())
            print(f"sigma {sigma:g}  steps {steps}  change {change:g}  {name:30s} {figures}", flush=True)
    if options.output:
        record = {**machine.record(torch.get_num_threads()), "numel": options.numel, "results": results}
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
