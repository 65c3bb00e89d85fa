"""Placeholder states: memory that torch.distributed.checkpoint loads a checkpoint into.

It asks a fresh optimizer for states by taking a step with zero gradients and a rate of 0 (older versions keep the
rate), which looks like any other step. torch's own classes take that step, and count it. Ours look at who is
calling, take no step, and remember which states were made for this: until something is written into them the
optimizer behaves like one without states.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from onepass.optim._lists.kinds import is_fake
from onepass.optim._step.precision import LOW_STATES

# Functions that ask, and their modules; the second is torch.distributed's optimizer with names.
_ASKING = {
    "_init_optim_state": "torch.distributed.checkpoint.state_dict",
    "init_state": "torch.distributed.optim.named_optimizer",
}
# At most this many frames are between it and a step: wrappers of hooks, schedulers and trainers.
_FRAMES = 24
# With the compiler between them, too.
COMPILED_FRAMES = 500
# States that a parameter may lack while it has others; a step then begins them.
_BEGIN_LATER = ("momentum_buffer", "ema", *LOW_STATES)


def are_asked_for(frames: int = _FRAMES) -> bool:
    """Whether the step that is being taken is the one by which torch.distributed asks for states."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frames:
        name = frame.f_code.co_name
        if name in _ASKING and frame.f_globals.get("__name__") == _ASKING[name]:
            return True
        frame, frames = frame.f_back, frames - 1
    return False


class Placeholders:
    """Which states of an optimizer are placeholders, and which of them have been written since.

    Args:
        state: All states of the optimizer, all of them placeholders.
    """

    def __init__(self, state: dict[Tensor, dict[str, Any]]) -> None:
        self._marks = {
            param: {name: (value, version_of(value)) for name, value in own.items()}
            for param, own in state.items()
        }

    def unwritten(self, param: Tensor, own: dict[str, Any]) -> list[str]:
        """The names of the placeholders that nobody has written."""
        marks = self._marks.get(param, {})
        return [
            name
            for name, value in own.items()
            if name in marks and value is marks[name][0] and marks[name][1] == version_of(value) is not None
        ]

    def without(self, param: Tensor, own: dict[str, Any]) -> dict[str, Any]:
        """The parameter's states without the unwritten placeholders that a step can do without."""
        dropped = self.unwritten(param, own)
        if len(dropped) < len(own):
            dropped = [name for name in dropped if name in _BEGIN_LATER]
        return {name: value for name, value in own.items() if name not in dropped}


def version_of(value: Any) -> int | None:
    """The version counter of the memory that a checkpoint is loaded into; None if there is no counter."""
    memory = getattr(value, "_local_tensor", value)  # a DTensor's
    if type(memory) is not Tensor or memory.is_inference():
        return None
    return int(memory._version)


def unbegun(param: Tensor, dtype: torch.dtype) -> Tensor:
    """Makes a momentum buffer with which the next step has the result of a first step.

    It is all -0.0, the neutral element of addition: momentum times it plus a gradient is the gradient, bit for
    bit. With dampening a first step has another formula, so it must be recognised (`is_unbegun`).
    """
    return torch.zeros_like(param, dtype=dtype, requires_grad=False).neg_()


def is_unbegun(buffer: Any) -> bool:
    """Whether a momentum buffer is one that `unbegun` made and nobody has written."""
    # Placeholders are dense; torch's loop may have left a sparse buffer.
    if not isinstance(buffer, Tensor) or not _has_values(buffer) or buffer.layout != torch.strided:
        return False
    if buffer.is_complex():
        buffer = torch.view_as_real(buffer.resolve_conj())
    return bool(((buffer == 0) & buffer.signbit()).all())


def all_exact(value: Tensor, dtype: torch.dtype) -> bool:
    """Whether the dtype can hold every element of the value exactly."""
    return value.dtype == dtype or (_has_values(value) and torch.equal(value.to(dtype).to(value.dtype), value))


def _has_values(tensor: Tensor) -> bool:
    return not (tensor.is_meta or is_fake(tensor))
