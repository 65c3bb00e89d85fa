"""Traps of gradients: which there are, when they come, their values and dtypes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from onepass.parity.case import Inapplicable, Wrong, asked
from onepass.parity.contest import Contest, draws, gradients
from onepass.parity.subject import Subject, accepts
from onepass.parity.traps.trap import Trap, trap

__all__ = ["TRAPS"]

TRAPS: list[Trap] = []


def _params(subject: Subject, count: int, shape: tuple[int, ...] = (24,)) -> list[torch.nn.Parameter]:
    return [subject.param(value) for value in draws([shape] * count, 1)]


def _variants(subject: Subject) -> list[dict[str, Any]]:
    """Options with which an optimizer goes different ways."""
    if subject.rule == "sgd":
        return [{"momentum": 0.9}, {"momentum": 0.0}] if accepts(subject.implementation, "momentum") else [{}]
    return [{}]


@trap(TRAPS, "torch's fused SGD raises TypeError; a frozen layer, an expert that was not routed to")
def late_first_gradient(subject: Subject) -> None:
    """Takes the first gradient of a parameter for its first, in whatever step of the others it comes."""
    for options in _variants(subject):
        late = Contest(subject, _params(subject, 2), options)
        alone = Contest(subject, _params(subject, 2)[1:], options)
        for step in range(5):
            grads: list[Tensor | None] = [*gradients([(24,)] * 2, 10 + step)]
            if step < 2:
                grads[1] = None
            else:
                alone.step(grads[1:])
            late.step(grads)
        late.judge(like=alone)


@trap(TRAPS, "DeepSpeed's FusedAdam counts the last parameter's steps, once for each dtype", "adam", "adamw")
def step_counts_of_several_dtypes(subject: Subject) -> None:
    """Counts the steps of each parameter, in a group of float32, bfloat16 and float64."""
    dtypes = (torch.float32, torch.bfloat16, torch.float64)

    def params() -> list[torch.nn.Parameter]:
        return [subject.param(torch.linspace(1, 2, 24).to(dtype)) for dtype in dtypes]

    mixed = Contest(subject, params())
    alone = [Contest(subject, [param]) for param in params()]
    for step in range(4):
        grads: list[Tensor | None] = [
            gradients([(24,)], 10 * i + step, dtype)[0] if step >= i else None for i, dtype in enumerate(dtypes)
        ]
        mixed.step(grads)
        for contest, grad in zip(alone, grads, strict=True):
            if grad is not None:
                contest.step([grad])
    for dtype, one in zip(dtypes, alone, strict=True):
        mixed.judge("in a group of several dtypes parameters", one, only=dtype)


@trap(TRAPS, "frozen layers")
def no_gradient_no_change(subject: Subject) -> None:
    """Leaves a parameter without a gradient as it is, whether others have gradients or none has."""
    decay = {"weight_decay": 0.5} if accepts(subject.implementation, "weight_decay") else {}
    params = _params(subject, 3)
    before = [param.detach().clone() for param in params]
    with asked():
        optimizer = subject.make([{"params": params[:2]}, {"params": params[2:]}], decay)
        optimizer.step()
        params[0].grad = torch.ones_like(params[0])
        optimizer.step()
    for param, old in zip(params[1:], before[1:], strict=True):
        if not torch.equal(param, old):
            raise Wrong("a parameter without a gradient has changed")


@trap(TRAPS, "lists of no tensors")
def empty_group(subject: Subject) -> None:
    """Takes a step with a group that has no parameter."""
    contest = Contest(subject, _params(subject, 1), {}, lambda params: [{"params": []}, {"params": params}])
    contest.run(2).judge(like=Contest(subject, _params(subject, 1)).run(2))


@trap(TRAPS, "bitsandbytes' 8-bit kernels skip such elements and zero their states")
def non_finite_gradient(subject: Subject) -> None:
    """Lets an infinite gradient and a nan through to their elements, as torch's loop does, and to no others."""
    for value in (torch.inf, -torch.inf, torch.nan):
        contest, plain = (Contest(subject, _params(subject, 1)) for _ in "ab")
        for step in range(2):
            grad = gradients([(24,)], 10 + step)[0]
            plain.step([grad])
            if step == 0:
                grad[[0, 7, 23]] = value
            contest.step([grad])
        contest.judge(f"after a gradient of {value} the parameters", plain)


@trap(TRAPS, "kernels that read gradients as their parameters' dtype")
def gradient_of_another_dtype(subject: Subject) -> None:
    """Converts a float32 gradient of a bfloat16 parameter."""
    params = [subject.param(draws([(40,)], 1, torch.bfloat16)[0])]
    if not hasattr(params[0], "grad_dtype"):
        raise Inapplicable(f"torch {torch.__version__} has no gradients of another dtype")
    contest = Contest(subject, params)
    contest.run(3, dtype=torch.float32).judge(like=_half(subject).run(3))


def _half(subject: Subject) -> Contest:
    return Contest(subject, [subject.param(draws([(40,)], 1, torch.bfloat16)[0])])


@trap(TRAPS, "weight decay or maximize done in the gradient's memory")
def gradient_is_left_as_it_is(subject: Subject) -> None:
    """Writes nothing into gradients."""
    own = {"weight_decay": 0.5, "maximize": True}
    options = {name: value for name, value in own.items() if accepts(subject.implementation, name)}
    params = _params(subject, 2)
    with asked():
        optimizer = subject.make(params, options)
    for step in range(2):
        grads = gradients([(24,)] * 2, 10 + step)
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.to(param.device, copy=True)
        with asked():
            optimizer.step()
        for param, grad in zip(params, grads, strict=True):
            if param.grad is None or not torch.equal(param.grad.cpu(), grad):
                raise Wrong(f"gradients are not what they were before step {step + 1}")


@trap(TRAPS, "docs/traps.md: a gradient that is its parameter")
def gradient_in_its_parameters_memory(subject: Subject) -> None:
    """Reads a gradient that shares its parameter's memory before it writes there."""
    decay = {"weight_decay": 0.5} if accepts(subject.implementation, "weight_decay") else {}
    shared, plain = (Contest(subject, _params(subject, 1), decay) for _ in "ab")
    for contest in (shared, plain):  # what a first step of Adam makes of a gradient is its sign
        contest.run(1)
    grads = [plain.params[0].detach().clone()]
    plain.step(grads)
    shared.give(grads)
    shared.params[0].grad = shared.params[0].data
    with asked():
        shared.optimizer.step()
    shared.loop.step()
    shared.exact.step()
    shared.steps += 1
    shared.judge(like=plain)


@trap(TRAPS, "embeddings with sparse=True")
def sparse_gradient(subject: Subject) -> None:
    """Takes a sparse gradient, or refuses it."""
    contest, plain = (Contest(subject, [subject.param(draws([(12, 5)], 1)[0])]) for _ in "ab")
    for step in range(2):
        dense = gradients([(12, 5)], 10 + step)[0]
        contest.step([dense.to_sparse(1)])
        plain.step([dense])
    contest.judge(like=plain)


@trap(TRAPS, "complex numbers taken for real ones")
def complex_parameter(subject: Subject) -> None:
    """Updates real and imaginary parts of a complex parameter, or refuses it."""
    start = draws([(24,)], 1, torch.complex64)[0]
    contest = Contest(subject, [subject.param(start)])
    parts = Contest(subject, [subject.param(torch.view_as_real(start).clone())])
    for step in range(3):
        grad = gradients([(24,)], 10 + step, torch.complex64)[0]
        contest.step([grad])
        parts.step([torch.view_as_real(grad)])
    contest.judge(like=parts)
