"""The accuracy of any optimizer class next to torch's plain loop, both against that loop in float64."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from onepass.parity.case import Refused, asked
from onepass.parity.harness import Refusal, Row, Tally
from onepass.parity.optim import DTYPES, RULES, SHAPES
from onepass.parity.subject import Subject

__all__ = ["DTYPES", "measure", "option_sets", "options_text", "rows"]

_LR = 0.01
# Far above the rounding of any dtype, far below the factor of a bias correction.
_ALIKE = 0.05


def option_sets(rule: str) -> list[dict[str, Any]]:
    """Returns the sets of options in which a rule is measured.

    Args:
        rule: A rule of onepass.optim: the name of a class in small letters.
    """
    return {name.lower(): sets for name, sets in RULES.items()}[rule]


def options_text(options: dict[str, Any]) -> str:
    """Writes options in a cell of a table.

    Args:
        options: Names and values.
    """
    return ", ".join(name if value is True else f"{name}={value}" for name, value in options.items()) or "defaults"


def rows(subject: Subject, dtypes: Sequence[torch.dtype], steps: int) -> Iterator[Row | Refusal]:
    """Measures an implementation with every set of options in every dtype.

    Args:
        subject: What is measured.
        dtypes: Dtypes of parameters and gradients, from `DTYPES`.
        steps: How many steps each run takes, at least 1.

    Yields:
        A row for the parameters and, where states have torch's names, one for each; or a refusal of the options.
    """
    for dtype in dtypes:
        for options in option_sets(subject.rule):
            try:
                yield from measure(subject, dtype, options, steps)
            except Refused as refused:
                name = str(dtype).removeprefix("torch.")
                yield Refusal(subject.rule, name, options_text(options), str(refused))


def measure(subject: Subject, dtype: torch.dtype, options: dict[str, Any], steps: int) -> list[Row]:
    """Measures an implementation with one set of options in one dtype.

    Each step of torch's starts from what the implementation had stored: the errors are those of single steps.
    Where the states are not torch's by name and meaning, each side goes on from its own: errors add up on both.

    Args:
        subject: What is measured.
        dtype: Dtype of parameters and gradients.
        options: The options, but for the learning rate.
        steps: How many steps.

    Raises:
        Refused: The implementation raised.
    """
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
    options = {"lr": _LR, **options}
    mine = [torch.nn.Parameter(value.to(subject.device, copy=True)) for value in start]
    loop = [torch.nn.Parameter(value.to(subject.device, copy=True)) for value in start]
    exact = [torch.nn.Parameter(value.double()) for value in start]
    others = subject.reference(loop, options), subject.reference(exact, options)
    with asked():
        optimizer = subject.make(mine, options)
    tallies: defaultdict[str, Tally] = defaultdict(Tally)
    aligned = False
    for step in range(1, steps + 1):
        grads = [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]
        if aligned:
            for other, params in zip(others, (loop, exact), strict=True):
                _follow(other, params, optimizer, mine)
        for params in (mine, loop, exact):
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad.to(device=param.device, dtype=param.dtype, copy=True)
        with asked():
            optimizer.step()
        for other in others:
            other.step()
        if step == 1:
            aligned = _states_are_torchs(optimizer, mine, others[0], loop)
        for name, triple in _gathered((optimizer, *others), (mine, loop, exact), aligned).items():
            tallies[name].add(step, *triple)
    del options["lr"]
    dtype_name, text = str(dtype).removeprefix("torch."), options_text(options)
    return [tally.row(subject.rule, dtype_name, text, tensor) for tensor, tally in tallies.items()]


def _states(optimizer: Optimizer, param: Tensor) -> dict[str, Tensor]:
    """Returns the states that are plain tensors of the parameter's shape, without the step count."""
    return {
        name: value
        for name, value in optimizer.state.get(param, {}).items()
        if type(value) is Tensor and value.is_floating_point() and value.shape == param.shape and name != "step"
    }


def _states_are_torchs(
    optimizer: Optimizer, mine: Sequence[Tensor], other: Optimizer, theirs: Sequence[Tensor]
) -> bool:
    """Says after the first step whether states have torch's names and mean the same.

    Some packages keep averages whose bias is corrected under torch's names.
    """
    for own, param in zip(mine, theirs, strict=True):
        ours, torchs = _states(optimizer, own), _states(other, param)
        if ours.keys() != torchs.keys():
            return False
        for name, state in torchs.items():
            off = (ours[name].double() - state.double()).abs().max()
            if not off <= _ALIKE * state.double().abs().max():
                return False
    return True


@torch.no_grad()
def _follow(other: Optimizer, params: Sequence[Tensor], optimizer: Optimizer, mine: Sequence[Tensor]) -> None:
    for theirs, own in zip(params, mine, strict=True):
        theirs.copy_(own)
        states = _states(optimizer, own)
        for name, state in _states(other, theirs).items():
            state.copy_(states[name])


def _gathered(
    optimizers: tuple[Optimizer, Optimizer, Optimizer],
    sides: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]],
    aligned: bool,
) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Puts each kind of tensor in a row: ours, torch's in ours' dtype, float64."""
    found: defaultdict[str, list[tuple[Tensor, ...]]] = defaultdict(list)
    for params in zip(*sides, strict=True):
        found["param"].append(params)
        if aligned:
            states = [_states(optimizer, param) for optimizer, param in zip(optimizers, params, strict=True)]
            for name in states[0]:
                found[name].append(tuple(own[name] for own in states))
    joined = {}
    for name, triples in found.items():
        mine, theirs, wide = (
            torch.cat([t.detach().flatten() for t in kind]) for kind in zip(*triples, strict=True)
        )
        # A state may be kept in another dtype than torch's.
        joined[name] = mine, theirs.to(mine.dtype), wide
    return joined
