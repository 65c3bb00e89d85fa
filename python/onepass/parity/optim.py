"""The optimizers next to torch's plain loop, both against that loop in float64."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from onepass.optim._step.fused import FusedOptimizer
from onepass.optim._step.plain import fused_classes, plain_class
from onepass.parity.harness import Row, Tally

# Without float64, against which the others are measured.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# A rule takes from each set the options that it has.
_OPTIONS: list[dict[str, Any]] = [
    {},
    {"betas": (0.8, 0.95)},
    {"eps": 1e-3},
    {"weight_decay": 0.1},
    {"amsgrad": True},
    {"maximize": True},
    {"betas": (0.5, 0.9), "weight_decay": 0.1, "amsgrad": True, "maximize": True},
]
_OWN_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {},
        {"weight_decay": 0.1},
        {"maximize": True},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.5},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1, "maximize": True},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True},
    ],
}


def _option_sets(kind: type[Optimizer]) -> list[dict[str, Any]]:
    if kind.__name__ in _OWN_OPTIONS:
        return _OWN_OPTIONS[kind.__name__]
    known = inspect.signature(kind).parameters
    found: list[dict[str, Any]] = []
    for options in _OPTIONS:
        own = {name: value for name, value in options.items() if name in known}
        if own not in found:
            found.append(own)
    return found


RULES = {kind.__name__: _option_sets(kind) for kind in fused_classes()}
_LR = 0.01
# A scalar, sizes that leave a tail at every vector width, and a matrix.
SHAPES: tuple[tuple[int, ...], ...] = ((), (7,), (61,), (33, 65), (4096,))


def rows(dtypes: Sequence[torch.dtype], steps: int, device: torch.device) -> Iterator[Row]:
    """Measures every rule with every set of options in every dtype.

    Args:
        dtypes: Dtypes of parameters, gradients and states, from `DTYPES`.
        steps: How many steps each run takes, at least 1.
        device: Where ours and torch's loop run; float64 runs on the CPU.

    Yields:
        A row for the parameters and one for each state.
    """
    for kind in fused_classes():
        for dtype in dtypes:
            for options in RULES[kind.__name__]:
                yield from _measure(kind, dtype, options, steps, device)


def _measure(
    kind: type[FusedOptimizer], dtype: torch.dtype, options: dict[str, Any], steps: int, device: torch.device
) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in SHAPES]
    ours = make(kind, start, dtype, device, options)
    plain = {"foreach": False, "fused": False, **options}
    loop = make(plain_class(kind), start, dtype, device, plain)
    # float64 starts from the same values, which are those that the narrow dtype can hold.
    held = [tensor.to(dtype) for tensor in start]
    exact = make(plain_class(kind), held, torch.float64, torch.device("cpu"), plain)
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    for step in range(1, steps + 1):
        grads = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
        # Ours runs all steps undisturbed; each step of torch's starts from what ours had stored. So the comparison
        # is of the errors of single steps, not of how runs drift apart.
        for other in (loop, exact):
            follow(other, ours)
        for optimizer in (ours, loop, exact):
            for param, grad in zip(params_of(optimizer), grads, strict=True):
                param.grad = grad.to(device=param.device, dtype=param.dtype)
            optimizer.step()
        judge(step, ours, loop, exact, tallies)
    text = ", ".join(name if value is True else f"{name}={value}" for name, value in options.items()) or "defaults"
    for tensor, tally in tallies.items():
        yield tally.row(kind.__name__, str(dtype).removeprefix("torch."), text, tensor)


def make(
    kind: type[Optimizer],
    start: list[Tensor],
    dtype: torch.dtype,
    device: torch.device,
    options: dict[str, Any],
) -> Optimizer:
    """Makes an optimizer of torch or of ours.

    Args:
        kind: Its class.
        start: Values of its parameters.
        dtype: Dtype of its parameters.
        device: Where they are.
        options: Its options but for the learning rate.
    """
    params = [torch.nn.Parameter(tensor.to(device=device, dtype=dtype, copy=True)) for tensor in start]
    return kind(params, lr=_LR, **options)  # type: ignore[call-arg]  # Optimizer itself takes no lr


def params_of(optimizer: Optimizer) -> list[Tensor]:
    """Lists all parameters, in the order of the groups.

    Args:
        optimizer: Whose parameters.
    """
    return [param for group in optimizer.param_groups for param in group["params"]]


def _states(optimizer: Optimizer, param: Tensor) -> dict[str, Tensor]:
    """Returns the states of the parameter's shape, without the step count, which each optimizer has for itself."""
    own = optimizer.state[param]
    return {name: value for name, value in own.items() if isinstance(value, Tensor) and name != "step"}


@torch.no_grad()
def follow(other: Optimizer, ours: Optimizer) -> None:
    """Copies parameters and states, but not the step count.

    Args:
        other: Where to.
        ours: Where from.
    """
    for theirs, mine in zip(params_of(other), params_of(ours), strict=True):
        theirs.copy_(mine)
        for name, state in _states(other, theirs).items():
            state.copy_(ours.state[mine][name])


def judge(step: int, ours: Optimizer, loop: Optimizer, exact: Optimizer, tallies: dict[str, Tally]) -> None:
    """Adds each kind of tensor to its row, all parameters as one tensor: a single scalar may be right by luck.

    Args:
        step: Number of the step, from 1.
        ours: Our optimizer.
        loop: torch's plain loop, after the same step.
        exact: torch's plain loop in float64, after the same step.
        tallies: The rows by kind of tensor.
    """
    gathered: defaultdict[str, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
    for mine, theirs, wide in zip(params_of(ours), params_of(loop), params_of(exact), strict=True):
        gathered["param"].append((mine, theirs, wide))
        for name, state in _states(loop, theirs).items():
            gathered[name].append((ours.state[mine][name], state, exact.state[wide][name]))
    for name, triples in gathered.items():
        mine, theirs, wide = (
            torch.cat([t.detach().flatten() for t in kind]) for kind in zip(*triples, strict=True)
        )
        tallies[name].add(step, mine, theirs, wide)
