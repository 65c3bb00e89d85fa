"""Traps of state and of calls: checkpoints, copies, groups, closures, GradScaler."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from onepass.parity.case import Inapplicable, Wrong, asked
from onepass.parity.contest import Contest, draws, gradients
from onepass.parity.subject import Subject
from onepass.parity.traps.trap import Trap, trap

__all__ = ["TRAPS"]

TRAPS: list[Trap] = []
_SHAPE = (6, 8)


def _one(subject: Subject, dtype: torch.dtype = torch.float32) -> Contest:
    return Contest(subject, [subject.param(value) for value in draws([_SHAPE], 1, dtype)])


def _through_a_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def _states(optimizer: Optimizer, param: Tensor) -> dict[str, Tensor]:
    """The states that are tensors, but for the step count."""
    own = optimizer.state.get(param, {})
    return {name: value for name, value in own.items() if isinstance(value, Tensor) and name != "step"}


@trap(TRAPS, "step counts and states that are not in the checkpoint")
def state_dict_continues(subject: Subject) -> None:
    """Continues, after its state_dict went through a file into a new optimizer, as if nothing had happened."""
    contest, plain = _one(subject).run(3), _one(subject).run(3)
    with asked():
        saved = _through_a_file(contest.optimizer.state_dict())
        contest.params = [subject.param(param) for param in contest.params]
        contest.optimizer = subject.make(list(contest.params), {})
        contest.optimizer.load_state_dict(saved)
    contest.run(3, seed=200).judge(like=plain.run(3, seed=200))


def _judge_loaded(subject: Subject, dtype: torch.dtype) -> None:
    contest = _one(subject, dtype).run(2)
    (param,) = contest.params
    with asked():
        before = {name: value.clone() for name, value in _states(contest.optimizer, param).items()}
        saved = _through_a_file(contest.optimizer.state_dict())
        other = subject.param(param)
        loaded = subject.make([other], {})
        loaded.load_state_dict(saved)
    after = _states(loaded, other)
    for name, value in before.items():
        if name not in after:
            raise Wrong(f"state {name} is not there after loading")
        if after[name].dtype != value.dtype:
            raise Wrong(f"state {name} was {value.dtype} and is {after[name].dtype} after loading")
        with asked():
            same = torch.equal(after[name], value)
        if not same:
            raise Wrong(f"state {name} has other values after loading")


@trap(TRAPS, "torch's Optimizer.load_state_dict casts states to their parameter's dtype")
def state_dtype_is_kept_by_loading(subject: Subject) -> None:
    """Keeps dtype and values of its own states through load_state_dict, for float32 and bfloat16 parameters."""
    _judge_loaded(subject, torch.float32)
    _judge_loaded(subject, torch.bfloat16)


@trap(TRAPS, "docs/traps.md: float32 states of bfloat16 parameters; torch rounds them when loading")
def wide_states_in_a_checkpoint(subject: Subject) -> None:
    """Keeps float32 states that a checkpoint has for bfloat16 parameters, or refuses them."""
    contest = _one(subject, torch.bfloat16).run(1)
    (param,) = contest.params
    saved = _through_a_file(contest.optimizer.state_dict())
    wide = {name: value for name, value in saved["state"][0].items() if _is_bfloat16(value, param)}
    if not wide:
        raise Inapplicable("it keeps no bfloat16 states for bfloat16 parameters")
    for name, value in wide.items():
        saved["state"][0][name] = wide[name] = value.float() * (1 + 2**-12)
    other = subject.param(param)
    with asked():
        loaded = subject.make([other], {})
        loaded.load_state_dict(copy.deepcopy(saved))
    for name, value in wide.items():
        found = loaded.state[other].get(name)
        if found is None or not torch.equal(found.float().cpu(), value.cpu()):
            raise Wrong(f"state {name} was rounded to {getattr(found, 'dtype', None)}")


def _is_bfloat16(value: object, param: Tensor) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bfloat16 and value.shape == param.shape


@trap(TRAPS, "states in attributes that a copy lacks")
def deepcopy_continues(subject: Subject) -> None:
    """Continues in a deep copy of parameters and optimizer."""
    contest, plain = _one(subject).run(2), _one(subject).run(4)
    with asked():
        contest.params, contest.optimizer = copy.deepcopy((contest.params, contest.optimizer))
    contest.run(2, seed=102).judge(like=plain)


@trap(TRAPS, "states in attributes that a pickle lacks")
def pickle_continues(subject: Subject) -> None:
    """Continues after parameters and optimizer were pickled together."""
    contest, plain = _one(subject).run(2), _one(subject).run(4)
    with asked():
        contest.params, contest.optimizer = pickle.loads(pickle.dumps((contest.params, contest.optimizer)))
    contest.run(2, seed=102).judge(like=plain)


@trap(TRAPS, "lists of parameters that are made once")
def add_param_group(subject: Subject) -> None:
    """Updates the parameters of a group that is added after steps, with the group's own learning rate."""
    values = draws([_SHAPE, _SHAPE], 1)
    contest, plain = _one(subject).run(2), _one(subject).run(2)
    late = subject.param(values[1])
    twins = [torch.nn.Parameter(late.detach().clone()), torch.nn.Parameter(late.detach().cpu().double())]
    with asked():
        contest.optimizer.add_param_group({"params": [late], "lr": 0.03})
    for optimizer, params, param in zip(
        (contest.loop, contest.exact), (contest.loop_params, contest.exact_params), twins, strict=True
    ):
        optimizer.add_param_group({"params": [param], "lr": 0.03})
        params.append(param)
    contest.params.append(late)
    contest.run(3, seed=200).judge(like=plain.run(3, seed=200))


@trap(TRAPS, "closures that are taken and not called")
def closure(subject: Subject) -> None:
    """Calls the closure once, with gradients enabled, uses the gradients that it makes, and returns its loss."""
    contest, plain = _one(subject), _one(subject)
    grad = gradients([_SHAPE], 10)[0]
    calls: list[bool] = []

    def evaluate() -> Tensor:
        calls.append(torch.is_grad_enabled())
        contest.params[0].grad = grad.to(subject.device)
        return torch.tensor(7.5)

    contest.give([grad])
    contest.params[0].grad = None
    with asked():
        loss: Any = contest.optimizer.step(evaluate)  # type: ignore[arg-type]  # torch returns tensors, too
    contest.loop.step()
    contest.exact.step()
    contest.steps = 1
    plain.step([grad])
    if calls != [True]:
        raise Wrong(f"the closure was called {len(calls)} times, with gradients enabled: {calls}")
    if loss is None or float(loss) != 7.5:
        raise Wrong(f"step returned {loss} and not the closure's loss")
    contest.judge(like=plain)


@trap(TRAPS, "torch's fused SGD keeps a buffer that was never written (LibreYOLO#771)")
def grad_scaler(subject: Subject) -> None:
    """Skips a first and a later step in which GradScaler finds an overflow, and unscales the others."""
    contest, plain = _one(subject), _one(subject)
    scaler = torch.amp.GradScaler(subject.device.type, init_scale=8.0, growth_interval=1000)
    param = contest.params[0]
    for step, overflow in enumerate((True, False, True, False)):
        grad = gradients([_SHAPE], 10 + step)[0]
        before = param.detach().clone()
        contest.give([grad])
        scale = scaler.scale(torch.ones((), device=subject.device)).item()
        param.grad = (grad * scale).to(subject.device)
        if overflow:
            param.grad[0, 3] = torch.inf
        with asked():
            scaler.step(contest.optimizer)
            scaler.update()
        if overflow:
            if not torch.equal(param, before):
                raise Wrong(f"step {step + 1} had an overflow and was taken")
            continue
        contest.loop.step()
        contest.exact.step()
        contest.steps += 1
        plain.step([grad])
    contest.judge(like=plain)


@trap(TRAPS, "docs/traps.md: lost updates; torch's loop never moves such a weight")
def small_updates_add_up(subject: Subject) -> None:
    """Moves a bfloat16 weight of 1.0 in 100 steps, each of which is below half its unit in the last place."""
    params = [subject.param(torch.ones(64, dtype=torch.bfloat16))]
    with asked():
        optimizer = subject.make(params, {"lr": 1e-3})
    for _ in range(100):
        params[0].grad = torch.full_like(params[0], 0.25)
        with asked():
            optimizer.step()
    if (params[0] == 1).all():
        raise Wrong("after 100 steps every weight is still 1.0")
