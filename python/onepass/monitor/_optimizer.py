"""Watches an optimizer's steps: norms, lost updates and skipped steps, kept as tensors for which nobody waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onepass.monitor._layers import LayerProbe
from onepass.optim._step.partly_fused import PartlyFused
from onepass.optim._step.tailed import TailedOptimizer

__all__ = ["Measured", "OptimizerWatch", "norm_of"]

Failed = Callable[[str, Exception], None]


class Measured(NamedTuple):
    """What one step did, as tensors."""

    lrs: list[float | Tensor]
    statistics: Tensor | None
    """Of our optimizers: a row of `GroupStatistics` for each param group."""
    grad_norms: Tensor | None
    """Of torch's optimizers: the gradients' norm of each param group."""
    control: Tensor | None
    """Of our optimizers that may skip a step: the control tensor, which counts skipped steps."""
    dropped: Tensor | None
    """Of torch's fused optimizers under a GradScaler: not 0 if the step was dropped."""


class OptimizerWatch:
    """Measures the steps of an optimizer by its hooks.

    Our optimizers measure in the step's own pass (`telemetry`), which is on while the watch runs. For others the
    norm of the gradients is taken by torch's foreach function.

    Args:
        optimizer: The optimizer whose step calls hooks.
        model: Its model: a sparse embedding's gradients rule out telemetry.
        probe: The layers to look at in some steps.
        failed: Told the name of a part and its error; the training goes on.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module, probe: LayerProbe, failed: Failed) -> None:
        self.optimizer = optimizer
        self._probe = probe
        self._failed = failed
        self._records = True
        self._samples = False
        self._handles: list[Any] = []
        self._before_handle: Any = None
        self._found: Measured | None = None
        self._scaled: Tensor | None = None
        self._had_telemetry = False
        self.skipped_before = optimizer.skipped_steps if isinstance(optimizer, TailedOptimizer) else 0
        self.has_telemetry = _can_measure(optimizer, model)
        self.is_scaled_inside = bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        """Whether a GradScaler leaves unscaling, and dropping a step, to the optimizer."""

    def start(self) -> None:
        """Registers the hooks, and switches telemetry on."""
        if self.has_telemetry:
            self._had_telemetry = self.optimizer.telemetry  # type: ignore[attr-defined]
        if isinstance(self.optimizer, TailedOptimizer):
            self.optimizer._observer = self._observed
        else:
            self._handles = [self.optimizer.register_step_post_hook(self._after)]
        self.expect(True, False)

    def expect(self, records: bool, samples: bool) -> None:
        """Says what the next step is to measure: norms, and the layers."""
        self._records, self._samples = records, samples
        wants_before = samples or (records and self.is_scaled_inside and not self.has_telemetry)
        if wants_before and self._before_handle is None:
            self._before_handle = self.optimizer.register_step_pre_hook(self._before)
        elif not wants_before and self._before_handle is not None:
            self._before_handle.remove()
            self._before_handle = None
        if self.has_telemetry:
            self.optimizer.telemetry = records or self._had_telemetry  # type: ignore[attr-defined]

    def take(self) -> Measured | None:
        """Returns what the last step measured, once; None if there was no step since."""
        found, self._found = self._found, None
        return found

    def lrs(self) -> list[float | Tensor]:
        """Returns each group's rate."""
        return [_kept(group["lr"]) for group in self.optimizer.param_groups if "lr" in group]

    def stop(self) -> None:
        """Removes the hooks, and sets telemetry to what it was."""
        for handle in self._handles:
            handle.remove()
        self.expect(False, False)
        if isinstance(self.optimizer, TailedOptimizer) and self.optimizer._observer == self._observed:
            self.optimizer._observer = None
        if self.has_telemetry:
            self.optimizer.telemetry = self._had_telemetry  # type: ignore[attr-defined]

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        try:
            if self._samples:
                # Gradients that a closure makes are there after the step, if it does not zero them.
                later = _closure_of(args, kwargs) is not None
                self._probe.before_step(later, _scale_of(optimizer), has_grads_later=not kwargs.get("zero_grad"))
            self._scaled = None
            # A GradScaler's factor is there: torch's kernels may write unscaled gradients back in the step.
            if self._records and not self.has_telemetry and _scale_of(optimizer) is not None:
                self._scaled = self._grad_norms()
        except Exception as error:  # whatever goes wrong here, the training goes on
            self._failed("the optimizer's step", error)

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._observed()

    def _observed(self) -> None:
        try:
            if self._samples:
                self._probe.after_step()
            if self._records:
                self._found = self._measured()
        except Exception as error:  # as above
            self._failed("the optimizer's step", error)

    def _measured(self) -> Measured:
        optimizer = self.optimizer
        statistics = grad_norms = control = dropped = None
        if isinstance(optimizer, TailedOptimizer):
            memory = optimizer._tail
            if memory is not None:
                if memory.statistics is not None:
                    statistics = memory.statistics.clone()
                if optimizer.skip_nonfinite or getattr(optimizer, "found_inf", None) is not None:
                    control = memory.control.clone()
        else:
            found = getattr(optimizer, "found_inf", None)
            dropped = found.clone() if isinstance(found, Tensor) else None
        if statistics is None and not self.has_telemetry:
            grad_norms = self._grad_norms() if self._scaled is None else self._scaled
        return Measured(self.lrs(), statistics, grad_norms, control, dropped)

    def _grad_norms(self) -> Tensor:
        """The norm of each group's gradients, without a GradScaler's factor."""
        groups = [[p.grad for p in group["params"] if p.grad is not None] for group in self.optimizer.param_groups]
        with torch.no_grad():
            norms = torch.stack([norm_of(grads) for grads in groups])
            scale = _scale_of(self.optimizer)
            return norms if scale is None else norms / scale


def norm_of(tensors: list[Tensor]) -> Tensor:
    """Returns the 2-norm of all elements of tensors, float32 or wider, on the first tensor's device."""
    if not tensors:
        return torch.zeros(())
    dense = [t.coalesce().values() if t.is_sparse else t for t in tensors]
    norms = torch._foreach_norm([t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in dense])
    device = norms[0].device
    norm: Tensor = torch.linalg.vector_norm(torch.stack([one.to(device) for one in norms]).float())
    return norm


def _kept(lr: Any) -> float | Tensor:
    return lr.detach().clone() if isinstance(lr, Tensor) else float(lr)


def _closure_of(args: Any, kwargs: Any) -> Any:
    """The closure that a step was called with, in which the gradients are made."""
    given = kwargs.get("closure")
    return next((one for one in args if callable(one)), None) if given is None else given


def _scale_of(optimizer: Any) -> Any:
    """What torch.amp.GradScaler leaves to the step to divide gradients by, or None."""
    return getattr(optimizer, "grad_scale", None)


def _can_measure(optimizer: Optimizer, model: nn.Module) -> bool:
    """Whether the optimizer can measure in its own pass: all of its parameters are stepped by our kernels."""
    if not isinstance(optimizer, PartlyFused) or optimizer.unfused_parameters():
        return False
    return not any(getattr(module, "sparse", False) is True for module in model.modules())
