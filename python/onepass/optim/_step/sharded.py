"""Steps on DTensors: each rank updates its own shards, by an optimizer of the same class that holds plain tensors.

The optimizer that the user has keeps DTensors, in its groups and as states, so that FSDP and checkpoints see what
they expect. Its twin holds their local parts, which are the same memory. What depends on the whole model, the norm
of all gradients and whether a step is skipped, is decided together before the twins step.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from onepass._arguments import told
from onepass.optim._lists.kinds import is_sharded
from onepass.optim._sharding.mesh import check_placements, common_group, contributes, draw_part_of, place_of
from onepass.optim._sharding.reduce import Decision, Shares, decide, sum_over
from onepass.optim._sharding.seen import Seen
from onepass.optim._sharding.shard import Shard
from onepass.optim._step.precision import DRAW_PART, mode_of

__all__ = ["Shards"]

# Shards of a parameter draw by numbers that are so far apart: 2^this.
_PLACE_BITS = 20
# Options of groups that belong to the optimizer that the user has.
_NOT_SHARED = ("params", "param_names")


class _Part(NamedTuple):
    """Parameters that follow each other in a group of the owner, one group of the twin."""

    group: int
    """The number of the owner's group."""
    shards: list[Shard]
    counted: bool
    """Whether this rank counts them in norms; else another one with the same shards does."""
    first: int
    """The number of the first one, for random draws."""
    part: tuple[int, ...] | None = None
    """Where a shard that is rounded by draws is in the whole; then it is the only one."""


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
        self._groups = [[Shard(param) for param in group["params"]] for group in owner.param_groups]
        self._shards = [shard for group in self._groups for shard in group]
        self._seen = Seen(self._shards)
        # The gradients that this rank counts in norms, those that are not empty.
        self._counted: list[Tensor] = []
        for number, group in enumerate(owner.param_groups):
            for index, param in enumerate(group["params"]):
                if is_sharded(param):
                    check_placements(f"{type(owner).__name__}: param_groups[{number}]['params'][{index}]", param)
        meshes = {p.device_mesh for group in owner.param_groups for p in group["params"] if is_sharded(p)}
        self.group = common_group(type(owner).__name__, meshes)
        self._parts = list(self._runs(owner))
        groups = [
            {
                **options_of(owner.param_groups[part.group]),
                "params": [shard.local for shard in part.shards],
                DRAW_PART: part.part,
            }
            for part in self._parts
        ]
        self.twin = kind(groups)
        self.twin._firsts = [part.first for part in self._parts]

    def _runs(self, owner: Optimizer) -> Iterator[_Part]:
        """Cuts the owner's groups where it changes which rank counts a parameter; if they round by draws, at each.

        Parameters keep their numbers, by which stochastic rounding draws: as for the whole parameter, if it is
        known where the shard is in it. Else copies of a shard draw alike, and other shards otherwise.
        """
        number = 0
        for place, group in enumerate(self._groups):
            draws = mode_of(owner.param_groups[place]) == "stochastic"
            kinds = [(contributes(shard.param, self.group), k if draws else 0) for k, shard in enumerate(group)]
            at = 0
            for (counted, _), run in itertools.groupby(kinds):
                n = len(list(run))
                part = draw_part_of(group[at].param) if draws else None
                index = place_of(group[at].param) if draws and part is None else 0
                yield _Part(place, group[at : at + n], counted, number + at + (index << _PLACE_BITS), part)
                at += n
            number += len(group)

    def fit(self, owner: Any) -> bool:
        """Whether the twin still holds the memory of the owner's parameters."""
        if [len(group["params"]) for group in owner.param_groups] != [len(shards) for shards in self._groups]:
            return False
        return self._seen.has_params([param for group in owner.param_groups for param in group["params"]])

    def step(self, owner: Any, zero_grad: bool) -> None:
        """Takes a step of the owner."""
        twin = self.twin
        self._take_options(owner)
        self._take_grads(owner)
        has_states = self._seen.has_states(owner.state)
        if not has_states:
            for shard in self._shards:
                shard.take_states(owner.state, twin.state)
        decided = self._decide(owner)
        twin.ema_decay, twin.telemetry = owner.ema_decay, owner.telemetry
        twin.max_grad_norm, twin.skip_nonfinite = None, False
        for name, value in (("grad_scale", decided.grad_scale), ("found_inf", decided.found_inf)):
            if value is not None:
                setattr(twin, name, value)
            elif hasattr(twin, name):
                delattr(twin, name)
        twin.has_replaced_states = False
        twin.step(zero_grad=zero_grad)
        if twin.has_replaced_states:
            for shard in self._shards:
                shard.show_states(owner.state, twin.state)
        if twin.has_replaced_states or not has_states:
            self._seen.keep_states(owner.state)
        self._note(owner, decided)

    def _take_options(self, owner: Any) -> None:
        for own, part in zip(self.twin.param_groups, self._parts, strict=True):
            for key, value in owner.param_groups[part.group].items():
                if key not in _NOT_SHARED and own.get(key) is not value:
                    own[key] = value

    def _take_grads(self, owner: Any) -> None:
        if self._seen.has_grads():
            return
        name = type(owner).__name__
        for number, group in enumerate(self._groups):
            for index, shard in enumerate(group):
                shard.take_grad(name, number, index)
        self._counted = [
            shard.grad
            for part in self._parts
            if part.counted
            for shard in part.shards
            if shard.grad is not None and shard.grad.numel()
        ]
        self._seen.keep_grads()

    def _decide(self, owner: Any) -> Decision:
        scale, found = owner._scaling()
        norm, _ = owner._checked_numbers(type(owner).__name__.lower())
        if norm is None and not owner.skip_nonfinite:
            return Decision(scale, found, None, None)
        shares = sum_over(self.group, Shares.of(self._counted, owner._device()))
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
