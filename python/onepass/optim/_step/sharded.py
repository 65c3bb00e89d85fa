"""Steps on DTensors: each rank updates its own shards, by an optimizer of the same class that holds plain tensors.

The optimizer that the user has keeps DTensors, in its groups and as states, so that FSDP and checkpoints see what
they expect. Its twin holds their local parts, which are the same memory. What depends on the whole model, the norm
of all gradients and whether a step is skipped, is decided together before the twins step.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from onepass._arguments import told
from onepass.optim._lists.kinds import is_sharded
from onepass.optim._sharding.mesh import check_placements, common_group, contributes, place_of
from onepass.optim._sharding.reduce import Decision, Shares, decide, memory_of, sum_over

__all__ = ["Shards"]

# Shards of a parameter draw by numbers that are so far apart: 2^this.
_PLACE_BITS = 20
# Options of groups that belong to the optimizer that the user has.
_NOT_SHARED = ("params", "param_names")


class _Shard:
    """A parameter, its local part, and the states that both know.

    Attributes:
        param: A DTensor or a plain tensor.
        local: Its memory on this rank.
        states: The visible states when they were last the same as the twin's.
    """

    __slots__ = ("local", "param", "states")

    def __init__(self, param: Tensor) -> None:
        self.param = param
        self.local = memory_of(param).detach()
        self.states: dict[str, Any] = {}

    def is_current(self) -> bool:
        """Whether the parameter still has the memory that it had."""
        memory = memory_of(self.param)
        return bool(memory.data_ptr() == self.local.data_ptr() and memory.shape == self.local.shape)

    def wrapped(self, value: Any) -> Any:
        """A state of the twin as the user sees it."""
        if not is_sharded(self.param) or not isinstance(value, Tensor) or value.shape != self.local.shape:
            return value
        if value.dim() == 0 and self.param.dim() != 0:
            return value
        whole: Any = self.param
        return DTensor.from_local(
            value,
            whole.device_mesh,
            whole.placements,
            run_check=False,
            shape=whole.shape,
            stride=whole.stride(),
        )

    def unwrapped(self, value: Any) -> Any:
        """A visible state as the twin has it."""
        if not is_sharded(value):
            return value
        whole: Any = self.param
        if value.placements != whole.placements or value.device_mesh != whole.device_mesh:
            value = value.redistribute(whole.device_mesh, whole.placements)
        return memory_of(value)


class _Part(NamedTuple):
    """Parameters that follow each other in a group of the owner, one group of the twin."""

    group: int
    """The number of the owner's group."""
    shards: list[_Shard]
    counted: bool
    """Whether this rank counts them in norms; else another one with the same shards does."""
    first: int
    """The number of the first one, for random draws."""


class Shards:
    """The local parts of an optimizer's parameters, and the twin that updates them.

    Args:
        owner: The optimizer that the user has.
        kind: The class of the twin.

    Raises:
        ValueError: A parameter's placements cannot be updated in parts.
    """

    def __init__(self, owner: Optimizer, kind: type[Any]) -> None:
        self._kind = kind
        self._names = [type(owner).__name__, ""]
        self._groups = [[_Shard(param) for param in group["params"]] for group in owner.param_groups]
        for number, group in enumerate(owner.param_groups):
            for index, param in enumerate(group["params"]):
                if is_sharded(param):
                    check_placements(f"{type(owner).__name__}: param_groups[{number}]['params'][{index}]", param)
        meshes = {p.device_mesh for group in owner.param_groups for p in group["params"] if is_sharded(p)}
        self.group = common_group(type(owner).__name__, meshes)
        self._parts = list(self._runs())
        groups = [
            {**options_of(owner.param_groups[part.group]), "params": [shard.local for shard in part.shards]}
            for part in self._parts
        ]
        self.twin = kind(groups)
        self.twin._firsts = [part.first for part in self._parts]

    def _runs(self) -> Iterator[_Part]:
        """Cuts the owner's groups where it changes which rank counts a parameter, or which shard this rank has.

        Parameters keep their numbers, by which stochastic rounding draws, the same for all copies of a shard.
        """
        number = 0
        for place, group in enumerate(self._groups):
            kinds = [(contributes(shard.param, self.group), place_of(shard.param)) for shard in group]
            at = 0
            for (counted, index), run in itertools.groupby(kinds):
                n = len(list(run))
                yield _Part(place, group[at : at + n], counted, number + at + (index << _PLACE_BITS))
                at += n
            number += len(group)

    def fit(self, owner: Any) -> bool:
        """Whether the twin still holds the memory of the owner's parameters."""
        return len(owner.param_groups) == len(self._groups) and all(
            len(group["params"]) == len(shards)
            and all(
                shard.param is param and shard.is_current()
                for shard, param in zip(shards, group["params"], strict=True)
            )
            for group, shards in zip(owner.param_groups, self._groups, strict=True)
        )

    def step(self, owner: Any, zero_grad: bool) -> None:
        """Takes a step of the owner."""
        self._take_options(owner)
        self._take_grads(owner)
        self._take_states(owner)
        twin = self.twin
        decided = self._decide(owner)
        twin.ema_decay, twin.telemetry = owner.ema_decay, owner.telemetry
        twin.max_grad_norm, twin.skip_nonfinite = None, False
        for name, value in (("grad_scale", decided.grad_scale), ("found_inf", decided.found_inf)):
            if value is not None:
                setattr(twin, name, value)
            elif hasattr(twin, name):
                delattr(twin, name)
        twin.step(zero_grad=zero_grad)
        self._show_states(owner)
        self._note(owner, decided)

    def _take_options(self, owner: Any) -> None:
        for own, part in zip(self.twin.param_groups, self._parts, strict=True):
            for key, value in owner.param_groups[part.group].items():
                if key not in _NOT_SHARED and own.get(key) is not value:
                    own[key] = value

    def _take_grads(self, owner: Any) -> None:
        for number, group in enumerate(self._groups):
            for index, shard in enumerate(group):
                grad = shard.param.grad
                if grad is None:
                    shard.local.grad = None
                    continue
                local = self._local_grad(owner, number, index, shard, grad)
                if shard.local.grad is not local:
                    shard.local.grad = local

    def _local_grad(self, owner: Any, number: int, index: int, shard: _Shard, grad: Tensor) -> Tensor:
        name = f"{type(owner).__name__}: param_groups[{number}]['params'][{index}]"
        if is_sharded(grad) != is_sharded(shard.param):
            what = ("a DTensor", "a plain tensor")
            wanted, got = what if is_sharded(shard.param) else what[::-1]
            raise TypeError(f"{name} must have a gradient that is {wanted} as it is itself, got {got}")
        if not is_sharded(grad):
            return grad
        whole: Any = grad
        param: Any = shard.param
        if whole.device_mesh != param.device_mesh:
            raise ValueError(
                f"{name} must have a gradient on its own mesh {param.device_mesh}, got one on {whole.device_mesh}"
            )
        if whole.placements != param.placements:
            # Written back, so that zeroing and clipping reach what is used.
            param.grad = whole = whole.redistribute(param.device_mesh, param.placements)
        local: Tensor = memory_of(whole)
        return local

    def _take_states(self, owner: Any) -> None:
        for group in self._groups:
            for shard in group:
                own = owner.state.get(shard.param)
                if own is None:
                    if shard.states:
                        shard.states = {}
                        self.twin.state.pop(shard.local, None)
                    continue
                kept = shard.states
                if len(own) == len(kept) and all(map(operator.is_, own.values(), kept.values())):
                    continue
                self.twin.state[shard.local] = {name: shard.unwrapped(value) for name, value in own.items()}
                shard.states = dict(own)

    def _show_states(self, owner: Any) -> None:
        """Gives the owner the states that a step has made or replaced."""
        for group in self._groups:
            for shard in group:
                made = self.twin.state.get(shard.local)
                if not made:
                    if shard.states:
                        shard.states = {}
                        owner.state.pop(shard.param, None)
                    continue
                kept = shard.states
                if len(made) == len(kept) and all(
                    name in kept and value is memory_of(kept[name]) for name, value in made.items()
                ):
                    continue
                shown = {
                    name: kept[name] if name in kept and memory_of(kept[name]) is value else shard.wrapped(value)
                    for name, value in made.items()
                }
                owner.state[shard.param] = shown
                shard.states = dict(shown)

    def _decide(self, owner: Any) -> Decision:
        scale, found = owner._scaling()
        norm, _ = owner._checked_numbers(type(owner).__name__.lower())
        if norm is None and not owner.skip_nonfinite:
            return Decision(scale, found, None, None)
        grads = [
            shard.local.grad
            for part in self._parts
            for shard in part.shards
            if part.counted and shard.local.grad is not None
        ]
        shares = sum_over(self.group, Shares.of(grads, owner._device()))
        return decide(shares, norm, owner.skip_nonfinite, scale, found)

    def _note(self, owner: Any, decided: Decision) -> None:
        """Writes what the user reads: the norm, the skipped steps, the statistics of the whole model."""
        if self.twin._tail is None:
            return
        memory = owner._tail_memory()
        if decided.norm is not None:
            memory.note_on_device(decided.found_inf, decided.norm)
        elif decided.found_inf is not None:
            memory.note_on_device(decided.found_inf, None)
        if owner.telemetry and memory.statistics is not None:
            memory.statistics = self._statistics(len(owner.param_groups), decided)

    def _statistics(self, groups: int, decided: Decision) -> Tensor:
        """The statistics of the groups, over all ranks: squares of norms and counts add up."""
        rows = self.twin._tail.statistics
        total = torch.zeros(groups, rows.shape[1], dtype=torch.float64, device=rows.device)
        for row, part in zip(rows, self._parts, strict=True):
            if part.counted:
                total[part.group, :3] += row[:3].square()
                total[part.group, 3:] += row[3:]
        total = sum_over(self.group, Shares(total)).values
        total[:, :3] = total[:, :3].sqrt()
        if decided.share is not None:  # the twin saw gradients as if their scale were this much greater
            total[:, 0] /= decided.share
        return total


def options_of(group: dict[str, Any]) -> dict[str, Any]:
    """The options of a group that a twin's group has, too."""
    return {name: value for name, value in group.items() if name not in _NOT_SHARED}


def kind_of(optimizer: Optimizer) -> type[Any]:
    """The class of this package that an optimizer is of, or descends from."""
    for base in type(optimizer).__mro__:
        if base.__module__.startswith("onepass.optim.") and not base.__module__.startswith("onepass.optim._"):
            return base
    raise TypeError(f"Shards: optimizer must be one of onepass.optim, got {told(optimizer)}")
