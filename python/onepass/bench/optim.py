"""SGD with momentum, Adam and AdamW beside torch's implementations: shapes and setup.

Competitors: ``ours``; torch's ``fused``, ``foreach`` and ``loop`` (foreach=False, fused=False: what torch.optim
does with CPU parameters when nothing is asked for; with CUDA parameters that is foreach); ``stream``, a plain
loop over flat arrays of the same number of bytes, as many of them read and written, whose speed is called the
bandwidth; ``compile``, torch's step under torch.compile. All share the gradients; each has its own parameters
and states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import onepass.optim
from onepass.bench.harness import OURS, STREAM, Case, Step
from onepass.bench.probe import probe

TORCHS: dict[str, dict[str, Any]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"foreach": False, "fused": False},
}


@dataclass(frozen=True)
class Rule:
    """An optimizer: its class's name in torch.optim and onepass.optim, its number of states, its options."""

    kind: str
    states: int
    options: dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """How many tensors of how many elements."""

    name: str
    count: int
    numel: int
    rounds: int


RULES = {
    "sgd": Rule("SGD", 1, {"momentum": 0.9}),
    "adam": Rule("Adam", 2, {}),
    "adamw": Rule("AdamW", 2, {}),
}
LARGE = Shape("4x16M", 4, 16 * 1024 * 1024, rounds=15)
SHAPES = (LARGE, Shape("1000x1024", 1000, 1024, rounds=100), Shape("200x65536", 200, 65536, rounds=30))
# Tensors so small that what is timed is Python and the gathering of pointers.
OVERHEAD = Shape("1000x1", 1000, 1, rounds=200)


def cases(device: torch.device) -> list[Case]:
    """All cases, with their tensors on `device`."""
    return list(_cases(device))


def _cases(device: torch.device) -> Iterator[Case]:
    for name, rule in RULES.items():
        for shape in SHAPES:
            yield _bandwidth_case(f"{name}-{shape.name}", rule, shape, torch.float32, device)
    yield _bandwidth_case("adamw-4x16M-bfloat16", RULES["adamw"], LARGE, torch.bfloat16, device)
    for name in ("sgd", "adamw"):
        yield _overhead_case(f"overhead-{name}", RULES[name], device)


def _bandwidth_case(name: str, rule: Rule, shape: Shape, dtype: torch.dtype, device: torch.device) -> Case:
    # The gradient is read; parameter and states are read and written.
    writes = 1 + rule.states
    bytes_of_one = shape.count * shape.numel * dtype.itemsize

    def setup() -> dict[str, Step]:
        grads = _tensors(shape, dtype, device)
        competitors = {OURS: _step(onepass.optim, rule, {}, grads)}
        for label, flags in TORCHS.items():
            competitors[label] = _step(torch.optim, rule, flags, grads)
        competitors[STREAM] = probe((1 + 2 * writes) * bytes_of_one, writes, device)
        return competitors

    return Case(
        name=name,
        bytes_moved=(1 + 2 * writes) * bytes_of_one,
        rounds=shape.rounds,
        setup=setup,
        compiled=lambda: _compiled(rule, shape, dtype, device),
    )


def _overhead_case(name: str, rule: Rule, device: torch.device) -> Case:
    def setup() -> dict[str, Step]:
        grads = _tensors(OVERHEAD, torch.float32, device)
        return {
            OURS: _step(onepass.optim, rule, {}, grads),
            "fused": _step(torch.optim, rule, TORCHS["fused"], grads),
        }

    return Case(name=name, bytes_moved=None, rounds=OVERHEAD.rounds, setup=setup)


def _tensors(shape: Shape, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    return [torch.randn(shape.numel, device=device).to(dtype) for _ in range(shape.count)]


def _step(package: Any, rule: Rule, flags: dict[str, Any], grads: list[Tensor]) -> Callable[[], object]:
    params = [torch.nn.Parameter(torch.randn_like(grad)) for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    step: Callable[[], object] = getattr(package, rule.kind)(params, **rule.options, **flags).step
    return step


def _compiled(rule: Rule, shape: Shape, dtype: torch.dtype, device: torch.device) -> Step:
    # A learning rate that is a number would be baked in; a tensor is how torch's guide compiles a step.
    options = {"lr": torch.tensor(1e-3)}
    step = _step(torch.optim, rule, options, _tensors(shape, dtype, device))
    return torch.compile(step)
