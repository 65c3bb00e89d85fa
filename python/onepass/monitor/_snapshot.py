"""Keeps everything that training steps change, and puts it back bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onepass._arguments import check_module, listed, told
from onepass.optim._step.stateful import StatefulOptimizer
from onepass.optim.lr_scheduler._arguments import check_optimizer
from onepass.optim.lr_scheduler._updates import Hook
from onepass.optim.lr_scheduler._wrapped import stepping

Restore = Callable[[], Any]


class Snapshot:
    """Keeps the state of a training: weights, buffers, gradients, modes, optimizer, scaler and random numbers.

    The objects stay the same: tensors get their contents back in place, so a learning rate in a tensor, a CUDA
    graph or a scheduler that counts the optimizer's updates goes on as if nothing had happened. Nothing is changed
    before everything is kept. If a tensor refuses its contents, all others get theirs.

    The random number generators of Python, numpy and torch's CPU are kept, those of all CUDA devices if CUDA is in
    use, and that of MPS.

    Args:
        model: The model, with its non-persistent buffers and frozen parameters. Its gradients are put aside: it
            has none until `restore`.
        optimizer: Its optimizer, of any class.
        scaler: A torch.amp.GradScaler, or None.
        generators: Further random number generators, for instance of a loader or a sampler.

    Raises:
        TypeError: An argument is of another kind.

    Example:
        >>> import torch
        >>> from onepass.monitor import Snapshot
        >>> from onepass.optim import SGD
        >>> model = torch.nn.Linear(2, 1)
        >>> optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> before = model.weight.clone()
        >>> snapshot = Snapshot(model, optimizer)
        >>> model(torch.ones(4, 2)).sum().backward()
        >>> optimizer.step()
        >>> torch.equal(model.weight, before)
        False
        >>> snapshot.restore()
        >>> torch.equal(model.weight, before), len(optimizer.state)
        (True, 0)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scaler: Any = None,
        generators: Iterable[torch.Generator] = (),
    ) -> None:
        check_module("Snapshot", "model", model)
        check_optimizer("Snapshot", optimizer)
        if scaler is not None and not hasattr(scaler, "__dict__"):
            raise TypeError(f"Snapshot: scaler must be a torch.amp.GradScaler, got {told(scaler)}")
        generators = generators_in("Snapshot", generators)
        self._memo: dict[int, Restore] = {}
        self._refused: list[str] = []
        self._parts: list[Restore] = [self._random_numbers(generators), *self._model(model)]
        self._parts += self._optimizer(optimizer)
        if scaler is not None:
            self._parts.append(self._hold(scaler.__dict__))
        _put_aside(model, optimizer)

    def restore(self) -> None:
        """Puts everything back; may be called more than once.

        Raises:
            RuntimeError: Something could not be put back; everything else has been.
        """
        self._refused = []
        for part in self._parts:
            self._try(part)
        if self._refused:
            raise RuntimeError(f"lr_range_test: everything must be put back, got {'; '.join(self._refused)}")

    def _try(self, part: Restore) -> None:
        try:
            part()
        except Exception as error:  # whatever it is, everything else is put back first
            self._refused.append(str(error))

    def _hold(self, value: Any) -> Restore:
        """Keeps a value; returns a function that puts its contents back and returns the same object."""
        if id(value) in self._memo:
            return self._memo[id(value)]
        if isinstance(value, Tensor):
            restore = self._tensor(value)
        elif isinstance(value, dict):
            restore = self._dict(value)
        elif isinstance(value, (list, tuple)):
            restore = self._sequence(value)
        else:
            return lambda: value
        self._memo[id(value)] = restore
        return restore

    def _tensor(self, value: Tensor) -> Restore:
        copy = value.detach().clone()

        def restore() -> Tensor:
            self._try(lambda: _fill(value, copy))
            return value

        return restore

    def _dict(self, value: dict[Any, Any]) -> Restore:
        entries = {key: self._hold(entry) for key, entry in value.items()}

        def restore() -> Any:
            before = {key: entry() for key, entry in entries.items()}
            value.clear()
            value.update(before)
            return value

        return restore

    def _sequence(self, value: Any) -> Restore:
        entries = [self._hold(entry) for entry in value]

        def restore() -> Any:
            before = [entry() for entry in entries]
            if isinstance(value, list):
                value[:] = before
            return value

        return restore

    def _model(self, model: nn.Module) -> list[Restore]:
        parts: list[Restore] = []
        for module in model.modules():
            parts += [self._hold(module._parameters), self._hold(module._buffers), _attribute(module, "training")]
        return parts + [_attribute(param, "grad") for param in model.parameters()]

    def _optimizer(self, optimizer: Optimizer) -> list[Restore]:
        inner = stepping(optimizer)
        owners = [optimizer] if inner is None or inner is optimizer else [optimizer, inner]
        for owner in owners:
            if isinstance(owner, StatefulOptimizer):
                owner._drop_placeholders()  # put back, they would not be recognised as placeholders
        groups = optimizer.param_groups
        grads = [_attribute(param, "grad") for group in groups for param in group["params"]]
        state, options = self._hold(optimizer.state), self._hold(groups)
        # A plan is left out: the next step makes another. The tail, which counts skipped steps, must not go on.
        kept = [
            (owner, {name: value for name, value in owner.__dict__.items() if name != "_plan"}) for owner in owners
        ]
        hooks = [] if inner is None else inner._optimizer_step_post_hooks.values()
        counters = [hook.updates() for hook in hooks if isinstance(hook, Hook)]
        counts = [self._hold(counter.__dict__) for counter in counters if counter is not None]

        def restore() -> None:
            for owner, attributes in kept:
                owner.__dict__.clear()
                owner.__dict__.update(attributes)

        return [restore, state, options, *grads, *counts]

    def _random_numbers(self, generators: list[torch.Generator]) -> Restore:
        # Workers of loaders and transforms use numpy's global generator. torch's function for CUDA has no types.
        python, numpys, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
        mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        own = [(generator, generator.get_state()) for generator in generators]

        def restore() -> None:
            random.setstate(python)
            np.random.set_state(numpys)  # noqa: NPY002
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state_all(cuda)
            if mps is not None:
                torch.mps.set_rng_state(mps)
            for generator, state in own:
                generator.set_state(state)

        return restore


def _put_aside(model: nn.Module, optimizer: Optimizer) -> None:
    """Takes gradients away, and what a step of ours remembers."""
    for param in (*model.parameters(), *(p for group in optimizer.param_groups for p in group["params"])):
        param.grad = None
    for owner in (optimizer, stepping(optimizer)):
        for name in ("_plan", "_tail"):
            getattr(owner, "__dict__", {}).pop(name, None)


def _fill(value: Tensor, contents: Tensor) -> None:
    """Writes contents into a tensor, also into one that is expanded, made in inference mode, or resized since."""
    with torch.inference_mode() if value.is_inference() else torch.no_grad():
        if value.layout != torch.strided or value.shape != contents.shape or value.dtype != contents.dtype:
            value.data = contents.clone()
            return
        # Elements that share memory (expand) are written once, through the first of them.
        once = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in value.stride())
        value[once].copy_(contents[once])


def _attribute(owner: Any, name: str) -> Restore:
    value = getattr(owner, name)
    return lambda: setattr(owner, name, value)


def generators_in(function: str, generators: Iterable[torch.Generator]) -> list[torch.Generator]:
    """Returns the argument `generators` as a list; raises TypeError unless all of them are generators."""
    found = listed(function, "generators", generators, "torch.Generators")
    for i, generator in enumerate(found):
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"{function}: generators[{i}] must be a torch.Generator, got {told(generator)}")
    return found
