"""A parameter and its local part, with the gradients and states of both.

Only what is another object than before is looked at again: to make a DTensor takes 50 us.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import Tensor
from torch.distributed.tensor import DTensor

from onepass.optim._lists.kinds import is_plain, is_sharded
from onepass.optim._sharding.mesh import memory_of

__all__ = ["Shard"]


class Shard:
    """A parameter, its local part, and what both had when they were last the same.

    Attributes:
        param: A DTensor or a plain tensor.
        local: Its memory on this rank, the parameter of the twin.
        grad: The gradient of `local`.
        is_sharded: Whether the parameter is a DTensor.
        holds_memory: Whether the parameter, or what a DTensor consists of, is a plain tensor.
    """

    __slots__ = (
        "_grad",
        "_made",
        "_memory",
        "_pointer",
        "_shape",
        "_states",
        "grad",
        "holds_memory",
        "is_sharded",
        "local",
        "param",
    )

    def __init__(self, param: Tensor) -> None:
        self.param: Any = param
        self.is_sharded = is_sharded(param)
        memory = memory_of(param)
        self.local: Any = memory.detach()
        # The object that holds the memory, if it does so itself, and where the memory is.
        whole: Any = param
        held = whole._local_tensor if self.is_sharded else whole
        self._memory = held if is_plain(held) else None
        self.holds_memory = self._memory is not None
        self._pointer, self._shape = memory.data_ptr(), memory.shape
        self._grad: Any = None
        self.grad: Any = None
        # The values of the states: those that the user sees, and those of the twin.
        self._states: tuple[Any, ...] = ()
        self._made: tuple[Any, ...] = ()

    def is_current(self) -> bool:
        """Whether the parameter still has the memory that it had."""
        memory = self.param._local_tensor if self.is_sharded else self.param
        if memory is not self._memory:
            memory = memory_of(self.param)
        return bool(memory.data_ptr() == self._pointer and memory.shape == self._shape)

    def take_grad(self, optimizer: str, group: int, index: int) -> None:
        """Gives the local part the parameter's gradient.

        Args:
            optimizer: What errors call the optimizer.
            group: The number of the parameter's group.
            index: Its place there.
        """
        grad = self.param.grad
        if grad is self._grad and (grad is None or not self.is_sharded or grad._local_tensor is self.grad):
            return
        place = f"{optimizer}: param_groups[{group}]['params'][{index}]"
        local = None if grad is None else self._local_grad(place, grad)
        self.local.grad = local
        # A gradient that was redistributed is another one than was found.
        self._grad = self.param.grad
        self.grad = local

    def _local_grad(self, place: str, grad: Any) -> Tensor:
        param = self.param
        if is_sharded(grad) != self.is_sharded:
            what = ("a DTensor", "a plain tensor")
            wanted, got = what if self.is_sharded else what[::-1]
            raise TypeError(f"{place} must have a gradient that is {wanted} as it is itself, got {got}")
        if not self.is_sharded:
            plain: Tensor = grad
            return plain
        if grad.device_mesh != param.device_mesh:
            raise ValueError(
                f"{place} must have a gradient on its own mesh {param.device_mesh}, got one on {grad.device_mesh}"
            )
        if grad.placements != param.placements:
            # Written back, so that zeroing and clipping reach what is used.
            param.grad = grad = grad.redistribute(param.device_mesh, param.placements)
        local: Tensor = memory_of(grad)
        return local

    def take_states(self, visible: Any, own: Any) -> None:
        """Gives the twin the states that the user sees, if those are others than they were.

        Args:
            visible: The states of the user's optimizer.
            own: Those of the twin.
        """
        found = visible.get(self.param)
        kept = self._states
        if found is None:
            if kept:
                self._states = self._made = ()
                own.pop(self.local, None)
            return
        if len(found) == len(kept) and all(map(operator.is_, found.values(), kept)):
            return
        own[self.local] = made = {name: self._unwrapped(value) for name, value in found.items()}
        self._states, self._made = (*found.values(),), (*made.values(),)

    def show_states(self, visible: Any, own: Any) -> None:
        """Gives the user's optimizer the states that a step has made or replaced."""
        made = own.get(self.local)
        if not made:
            if self._states:
                self._states = self._made = ()
                visible.pop(self.param, None)
            return
        if len(made) == len(self._made) and all(map(operator.is_, made.values(), self._made)):
            return
        before = {id(value): shown for value, shown in zip(self._made, self._states, strict=True)}
        shown = {name: before[id(v)] if id(v) in before else self._wrapped(v) for name, v in made.items()}
        visible[self.param] = shown
        self._states, self._made = (*shown.values(),), (*made.values(),)

    def _wrapped(self, value: Any) -> Any:
        """A state of the twin as the user sees it."""
        if not self.is_sharded or not isinstance(value, Tensor) or value.shape != self.local.shape:
            return value
        whole = self.param
        if value.dim() == 0 and whole.dim() != 0:
            return value
        return DTensor.from_local(
            value,
            whole.device_mesh,
            whole.placements,
            run_check=False,
            shape=whole.shape,
            stride=whole.stride(),
        )

    def _unwrapped(self, value: Any) -> Any:
        """A visible state as the twin has it."""
        if not is_sharded(value):
            return value
        whole = self.param
        if value.placements != whole.placements or value.device_mesh != whole.device_mesh:
            value = value.redistribute(whole.device_mesh, whole.placements)
        return memory_of(value)
