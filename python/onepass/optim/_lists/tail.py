"""The tail of one step: what it does besides the update, and the tensors in which that is decided.

Pass one, where one is needed, reads the gradients and writes what it decides into the control tensor; pass two
reads it there. On CUDA nothing waits for it: the skipped steps are counted on the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from onepass import _native

__all__ = ["NORM", "NOTHING", "SKIPPED_STEPS", "Tail", "TailMemory"]

# Places in the control tensor (csrc/math/clip.h, StepControl).
_SKIP, NORM, SKIPPED_STEPS = 1, 2, 4


class TailMemory:
    """The tensors of one optimizer's tails, kept from step to step on the device of its parameters.

    Args:
        device: Where the parameters are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        """Where they are."""
        self.control = torch.zeros(_native.core.control_size, dtype=torch.float64, device=device)
        """What pass one decided."""
        self.statistics: Tensor | None = None
        """A row for each param group, if they are measured."""
        self._groups = 0
        self._workspace: Tensor | None = None

    def measure(self, groups: int) -> None:
        """Makes the next step measure that many param groups, and with 0 none."""
        if groups == 0:
            self.statistics = None
        elif self.statistics is None or self._groups != groups:
            size = (groups, _native.core.statistics_size)
            self.statistics = torch.full(size, float("nan"), dtype=torch.float64, device=self.device)
            self._groups = groups

    def workspace(self, elements: int) -> Tensor:
        """Memory for at least that many float64 numbers. The core asks for it where it needs some."""
        if self._workspace is None or self._workspace.numel() < elements:
            self._workspace = torch.empty(elements, dtype=torch.float64, device=self.device)
        return self._workspace

    def note(self, skipped: bool, norm: float) -> None:
        """Writes what the core would have decided of a step that was decided elsewhere."""
        self.control[_SKIP] = float(skipped)
        self.control[NORM] = norm
        self.control[SKIPPED_STEPS] += float(skipped)

    def note_on_device(self, found_inf: float | Tensor | None, norm: Tensor | None) -> None:
        """Writes what was decided elsewhere about a step, without waiting for a GPU."""
        if norm is not None:
            self.control[NORM] = norm
        skipped = torch.as_tensor(0.0 if found_inf is None else found_inf, device=self.control.device) != 0
        self.control[_SKIP] = skipped.to(torch.float64).reshape(())
        self.control[SKIPPED_STEPS] += self.control[_SKIP]

    def skipped_on_host(self) -> bool:
        """True if the last decision, known without waiting for a GPU, was to skip the step."""
        return self.control.is_cpu and bool(self.control[_SKIP])


class Tail(NamedTuple):
    """What a step does besides the update. The core reads the fields by name (csrc/bind/optim/tail.h)."""

    max_grad_norm: float | None = None
    """Largest norm of all gradients together that is not clipped."""
    skip_nonfinite: bool = False
    """Whether a gradient that is not finite skips the step."""
    zero_grad: bool = False
    """Whether the step zeroes the gradients."""
    ema_decay: float | None = None
    """Decay of the moving averages that the step keeps."""
    grad_scale: float | Tensor | None = None
    """What the gradients are divided by."""
    found_inf: float | Tensor | None = None
    """Not 0 if the step is to be skipped."""
    memory: TailMemory | None = None
    """Where it is decided; None if nothing is asked for."""

    @property
    def asked(self) -> Tail | None:
        """The tail as the core takes it: None if nothing is asked for."""
        return None if self.memory is None else self

    @property
    def has_ema(self) -> bool:
        """Whether the step keeps moving averages."""
        return self.ema_decay is not None

    @property
    def may_skip(self) -> bool:
        """Whether the step may turn out not to be taken."""
        return self.skip_nonfinite or self.found_inf is not None

    def skipped_on_host(self) -> bool:
        """True if the last step is known, without waiting for a GPU, not to have been taken."""
        return self.may_skip and self.memory is not None and self.memory.skipped_on_host()


NOTHING = Tail()
"""The tail of a step that is the update alone."""
