"""Traps of an optimizer's formula: options that are ignored or done otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from onepass.parity.case import Inapplicable, asked
from onepass.parity.contest import Contest, draws, gradients
from onepass.parity.subject import Subject, accepts, has_option
from onepass.parity.traps.trap import Trap, trap

__all__ = ["TRAPS"]

TRAPS: list[Trap] = []
_SHAPES = ((7,), (5, 13), (64,))
_ADAMS = ("adam", "adamw")


def _contest(subject: Subject, options: Mapping[str, Any], seed: int = 1, scale: float = 1.0) -> Contest:
    return Contest(subject, [subject.param(scale * value) for value in draws(_SHAPES, seed)], options)


def _sizable(step: int, scale: float = 1.0) -> list[Tensor]:
    """Draws gradients none of which is near 0."""
    return [scale * value for value in gradients(_SHAPES, 100 + step)]


def _judge_each(contest: Contest, grads: Sequence[list[Tensor]], like: Contest | None = None) -> None:
    for step, some in enumerate(grads, 1):
        contest.step(some)
        if like is not None:
            like.step(some)
        contest.judge(f"after step {step} the parameters", like)


def _judge_option(subject: Subject, options: dict[str, Any], without: dict[str, Any], steps: int = 4) -> None:
    """Judges an option; what is wrong without it, too, is no fault of the option."""
    with_it, plain = _contest(subject, options), _contest(subject, without)
    _judge_each(with_it, [_sizable(step) for step in range(steps)], plain)


@trap(TRAPS, "the rule itself", required=True)
def plain_steps(subject: Subject) -> None:
    """Takes three steps with float32 parameters, each contiguous in its own memory."""
    _contest(subject, {}).run(3).judge()


@trap(TRAPS, "DeepSpeed counts steps once for each dtype of a group", *_ADAMS)
def bias_correction(subject: Subject) -> None:
    """Corrects the bias of both averages by the number of this step, at each of the first ten steps."""
    options = {"betas": (0.5, 0.75)} if accepts(subject.implementation, "betas") else {}
    _judge_each(_contest(subject, options), [_sizable(step) for step in range(10)])


@trap(TRAPS, "arguments that are accepted and ignored")
def betas(subject: Subject) -> None:
    """Takes betas=(0.5, 0.75) into account."""
    if not has_option(subject.rule, "betas"):
        raise Inapplicable(f"{subject.rule} has no betas")
    _judge_option(subject, {"betas": (0.5, 0.75)}, {})


@trap(TRAPS, "coupled and decoupled decay are taken for one another")
def weight_decay(subject: Subject) -> None:
    """Decays weights as the rule does: adamw multiplies the weight, adam and sgd add to the gradient."""
    _judge_option(subject, {"weight_decay": 0.5}, {"weight_decay": 0.0})


@trap(TRAPS, "no package named; a formula of several papers", *_ADAMS)
def eps_outside_the_root(subject: Subject) -> None:
    """Adds eps to the root of the corrected second moment, not below the root and not before the correction."""
    with_it, plain = _contest(subject, {"eps": 1e-2}), _contest(subject, {})
    for step in range(3):
        grads = _sizable(step, 0.01)
        with_it.step(grads)
        plain.step(grads)
        with_it.judge(f"after step {step + 1} the parameters", plain)


@trap(TRAPS, "bitsandbytes documents amsgrad and ignores it", *_ADAMS)
def amsgrad(subject: Subject) -> None:
    """Takes amsgrad=True into account: the largest second moment stays after a large gradient."""
    fast = {"betas": (0.5, 0.5)} if accepts(subject.implementation, "betas") else {}
    with_it, plain = _contest(subject, {**fast, "amsgrad": True}), _contest(subject, fast)
    _judge_each(with_it, [_sizable(step, scale) for step, scale in enumerate((10.0, 0.1, 0.1))], plain)


@trap(TRAPS, "bitsandbytes accepts nesterov and ignores it", "sgd")
def nesterov(subject: Subject) -> None:
    """Takes nesterov=True into account."""
    _judge_option(subject, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9})


@trap(TRAPS, "bitsandbytes accepts dampening and ignores it", "sgd")
def dampening(subject: Subject) -> None:
    """Takes dampening=0.5 into account, from the second step on."""
    with_it = _contest(subject, {"momentum": 0.9, "dampening": 0.0})
    plain = _contest(subject, {"momentum": 0.9})
    _judge_each(with_it, [_sizable(0)], plain)
    for optimizer in with_it.all_optimizers:  # what the first step makes of it is a case of its own
        optimizer.param_groups[0]["dampening"] = 0.5
    _judge_each(with_it, [_sizable(1), _sizable(2)], plain)


@trap(TRAPS, "apex's FusedSGD (apex#1143)", "sgd")
def first_momentum_is_not_dampened(subject: Subject) -> None:
    """Starts the momentum buffer with the gradient itself, although dampening=0.75."""
    with_it = _contest(subject, {"momentum": 0.5, "dampening": 0.75})
    plain = _contest(subject, {"momentum": 0.5})
    _judge_each(with_it, [_sizable(0)], plain)


@trap(TRAPS, "a buffer that is made only with momentum", "sgd")
def no_momentum(subject: Subject) -> None:
    """Takes steps without momentum."""
    _judge_option(subject, {"momentum": 0.0}, {})


@trap(TRAPS, "arguments that are accepted and ignored")
def maximize(subject: Subject) -> None:
    """Takes maximize=True into account, with weight decay that still shrinks the weights."""
    decay = {"weight_decay": 0.1} if accepts(subject.implementation, "weight_decay") else {}
    _judge_option(subject, {"maximize": True, **decay}, decay)


@trap(TRAPS, "arguments that are kept from the first step")
def lr_changed_between_steps(subject: Subject) -> None:
    """Takes the learning rate that is in the group at each step."""
    changed, plain = _contest(subject, {"lr": 0.1}), _contest(subject, {"lr": 0.1})
    for step, lr in enumerate((0.1, 0.02, 0.5), 1):
        for optimizer in changed.all_optimizers:
            optimizer.param_groups[0]["lr"] = lr
        grads = _sizable(step)
        changed.step(grads)
        plain.step(grads)
        changed.judge(f"after step {step} the parameters", plain)


@trap(TRAPS, "a tensor that is read once")
def lr_as_tensor(subject: Subject) -> None:
    """Takes a tensor as learning rate, and its new value when it is written in place."""
    changed, plain = _contest(subject, {"lr": torch.tensor(0.125)}), _contest(subject, {"lr": 0.125})
    grads = [_sizable(step) for step in range(4)]
    _judge_each(changed, grads[:2], plain)
    for optimizer in changed.all_optimizers:
        group = optimizer.param_groups[0]
        with asked():
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(0.5)
            else:
                group["lr"] = 0.5
    _judge_each(changed, grads[2:], plain)


@trap(TRAPS, "one launch for all groups")
def groups_have_their_own_options(subject: Subject) -> None:
    """Takes each group's own learning rate and weight decay."""

    def grouping(params: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
        decay = {"weight_decay": 0.25} if accepts(subject.implementation, "weight_decay") else {}
        return [{"params": params[:1]}, {"params": params[1:2], "lr": 0.02}, {"params": params[2:], **decay}]

    values = draws(_SHAPES, 1)
    grouped = Contest(subject, [subject.param(value) for value in values], {}, grouping)
    plain = _contest(subject, {})
    alike = _contest(subject, {"weight_decay": 0.25}) if accepts(subject.implementation, "weight_decay") else plain
    for step in range(3):
        for contest in {grouped, plain, alike}:
            contest.step(_sizable(step))
    grouped.judge(like=max((plain, alike), key=Contest.worst))


@trap(TRAPS, "NVIDIA apex, DeepSpeed: 0 times infinity (pytorch#1402 asks for groups without decay)")
def infinite_parameter_without_decay(subject: Subject) -> None:
    """Multiplies nothing by a weight decay of 0: an infinite parameter makes no nan."""
    values = draws(((16,),), 1)[0]
    values[2] = torch.inf
    contest = Contest(subject, [subject.param(values)]).run(2)
    contest.judge(like=_contest(subject, {}).run(2))


@trap(TRAPS, "0 divided by 0", "adam", "adamw")
def zero_gradient(subject: Subject) -> None:
    """Leaves an element whose gradient has always been 0 as it is."""
    contest, plain = (Contest(subject, [subject.param(draws(((16,),), 1)[0])]) for _ in "ab")
    for step in range(3):
        grads = gradients(((16,),), 2 + step)[0]
        plain.step([grads.clone()])
        grads[::2] = 0
        contest.step([grads])
    contest.judge(like=plain)
