"""The optimizers, SGD with momentum, next to torch's implementations: shapes and setup.

Competitors: ``ours``; torch's ``fused``, ``foreach`` and ``loop`` (foreach=False, fused=False: the default of
torch.optim for CPU parameters; for CUDA parameters it is foreach); ``stream``, a plain loop that reads and writes
the same number of bytes of flat arrays, whose speed is called the bandwidth; ``compile``, torch's step under
torch.compile. All share the gradients; each has its own parameters and states. An implementation that the user
names joins the cases of its rule, with torch's default options, and with gradients of its own because it may write
to them. Three steps of it are first compared with torch's plain loop.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from onepass.bench.entrants import Entrant, Entry, difference, limit_of
from onepass.bench.harness import OURS, STREAM, Case, Step
from onepass.bench.probe import probe
from onepass.optim._step.fused import FusedOptimizer
from onepass.optim._step.plain import fused_classes, plain_class

TORCHS: dict[str, dict[str, Any]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"foreach": False, "fused": False},
}


@dataclass(frozen=True)
class Rule:
    """Describes an optimizer and the options that it is timed with."""

    kind: type[FusedOptimizer]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """What an implementation of it stands for."""
        return self.kind.__name__.lower()

    @property
    def is_torchs(self) -> bool:
        """Whether torch has it, too."""
        return hasattr(torch.optim, self.kind.__name__)

    @property
    def states(self) -> int:
        """How many states of a parameter's size it keeps."""
        param = torch.nn.Parameter(torch.zeros(2))
        param.grad = torch.zeros(2)
        optimizer = self.kind([param], **self.options)
        optimizer.step()
        return sum(value.shape == param.shape for value in optimizer.state[param].values())


@dataclass(frozen=True)
class Shape:
    """Describes how many tensors of how many elements there are."""

    name: str
    count: int
    numel: int
    rounds: int


_OPTIONS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}}
RULES = {kind.__name__.lower(): Rule(kind, _OPTIONS.get(kind.__name__, {})) for kind in fused_classes()}
LARGE = Shape("4x16M", 4, 16 * 1024 * 1024, rounds=15)
SHAPES = (LARGE, Shape("1000x1024", 1000, 1024, rounds=100), Shape("200x65536", 200, 65536, rounds=30))
# Arguments of torch's optimizers that choose a way to compute, not what is computed.
_FLAGS = ("foreach", "fused", "capturable", "differentiable")
# The options that every optimizer of a rule gets, so that all compute the same.
_SHARED = ("lr", "betas", "eps", "momentum", "weight_decay")
# The comparison of an entrant with torch: large steps, so that 16 bits hold them.
_COMPARED_STEPS, _COMPARED_LR, _COMPARED_TENSORS, _COMPARED_NUMEL = 3, 0.1, 4, 16384
# Tensors so small that what is timed is Python and the gathering of pointers.
OVERHEAD = Shape("1000x1", 1000, 1, rounds=200)


def cases(device: torch.device) -> list[Case]:
    """Lists all cases.

    Args:
        device: Where their tensors are.
    """
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
        competitors = {OURS: _step(rule.kind, rule.options, grads)}
        for label, flags in TORCHS.items():
            if rule.is_torchs or label == "loop":
                competitors[label] = _step(plain_class(rule.kind), {**rule.options, **flags}, grads)
        competitors[STREAM] = probe((1 + 2 * writes) * bytes_of_one, writes, device)
        return competitors

    return Case(
        name=name,
        bytes_moved=(1 + 2 * writes) * bytes_of_one,
        rounds=shape.rounds,
        setup=setup,
        compiled=(lambda: _compiled(rule, shape, dtype, device)) if rule.is_torchs else None,
        stands_for=rule.name,
        join=partial(_entry, rule, shape, dtype, device),
    )


def _overhead_case(name: str, rule: Rule, device: torch.device) -> Case:
    def setup() -> dict[str, Step]:
        grads = _tensors(OVERHEAD, torch.float32, device)
        return {
            OURS: _step(rule.kind, rule.options, grads),
            "fused": _step(plain_class(rule.kind), {**rule.options, **TORCHS["fused"]}, grads),
        }

    return Case(
        name=name,
        bytes_moved=None,
        rounds=OVERHEAD.rounds,
        setup=setup,
        stands_for=rule.name,
        join=partial(_entry, rule, OVERHEAD, torch.float32, device),
    )


def _entry(rule: Rule, shape: Shape, dtype: torch.dtype, device: torch.device, entrant: Entrant) -> Entry:
    defaults = inspect.signature(plain_class(rule.kind)).parameters
    shared = {name: defaults[name].default for name in _SHARED if name in defaults} | rule.options
    # The arguments of the entrant that torch has, too, hold for both: weight_decay=0.1, amsgrad=True.
    own = {name: value for name, value in entrant.kwargs.items() if name in defaults and name not in _FLAGS}

    def step() -> Step:
        return _step(partial(entrant, **shared), {}, _tensors(shape, dtype, device))

    few = Shape("", min(shape.count, _COMPARED_TENSORS), min(shape.numel, _COMPARED_NUMEL), 1)
    options = {**shared, "lr": _COMPARED_LR, **own}
    return Entry(step, lambda: _compare(rule, few, dtype, device, entrant, options), limit_of(dtype))


def _compare(
    rule: Rule, shape: Shape, dtype: torch.dtype, device: torch.device, entrant: Entrant, options: dict[str, Any]
) -> tuple[str, float]:
    """Takes a few steps, and compares how far the parameters have moved."""
    seeded = torch.Generator().manual_seed(1)
    start = [torch.randn(shape.numel, generator=seeded).to(device, dtype) for _ in range(shape.count)]
    mine, torchs = ([torch.nn.Parameter(tensor.clone()) for tensor in start] for _ in range(2))
    plain = plain_class(rule.kind)(torchs, **options, **TORCHS["loop"])
    for optimizer, params in ((entrant(mine, **options), mine), (plain, torchs)):
        generator = torch.Generator().manual_seed(0)
        for _ in range(_COMPARED_STEPS):
            for param in params:
                param.grad = torch.randn(param.shape, generator=generator).to(device=device, dtype=dtype)
            optimizer.step()
    found, wanted, before = (
        torch.cat([t.detach().double() for t in tensors]) for tensors in (mine, torchs, start)
    )
    return "param", difference(found, wanted, wanted - before)


def _tensors(shape: Shape, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    return [torch.randn(shape.numel, device=device).to(dtype) for _ in range(shape.count)]


def _step(kind: Callable[..., Optimizer], options: dict[str, Any], grads: list[Tensor]) -> Callable[[], object]:
    params = [torch.nn.Parameter(torch.randn_like(grad)) for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    step: Callable[[], object] = kind(params, **options).step
    return step


def _compiled(rule: Rule, shape: Shape, dtype: torch.dtype, device: torch.device) -> Step:
    # A learning rate that is a number would be baked in; a tensor is how torch's guide compiles a step.
    options = {**rule.options, "lr": torch.tensor(1e-3)}
    step = _step(plain_class(rule.kind), options, _tensors(shape, dtype, device))
    return torch.compile(step)
