"""Watches an optimizer's steps: norms, lost updates and skipped steps, kept as tensors for which nobody waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from onepass.monitor._layers import LayerProbe
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
    """Measures the steps of an optimizer.

    Our optimizers measure in the step's own pass, and call the watch after a step. For others the norm of the
    gradients is taken by torch's foreach function, in a hook.

    Args:
        optimizer: The optimizer whose step calls hooks.
        probe: The layers to look at in some steps.
        failed: Called with the name of a part and its error; the training goes on.
    """

    def __init__(self, optimizer: Optimizer, probe: LayerProbe, failed: Failed) -> None:
        self.optimizer = optimizer
        self.is_scaled_inside = bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        """Whether a GradScaler leaves unscaling, and dropping a step, to the optimizer."""
        self.skipped_before = optimizer.skipped_steps if isinstance(optimizer, TailedOptimizer) else 0
        self._probe = probe
        self._failed = failed
        self._records = self._samples = False
        # Off where torch's loop steps some of the parameters: nothing is measured there.
        self._asks = isinstance(optimizer, TailedOptimizer)
        self._handle: Any = None
        self._before_handle: Any = None
        self._found: Measured | None = None
        self._scaled: Tensor | None = None
        devices = (param.device.type for group in optimizer.param_groups for param in group["params"])
        self._is_on_gpu = next(devices, "cpu") == "cuda"

    def start(self) -> None:
        """Begins to see the steps."""
        if isinstance(self.optimizer, TailedOptimizer):
            self.optimizer._observer = self._observe
        else:
            self._handle = self.optimizer.register_step_post_hook(self._after)

    def expect(self, records: bool, samples: bool) -> None:
        """Says what the next step is to measure: norms, and the layers."""
        self._records, self._samples = records, samples
        wants_before = samples or (records and self.is_scaled_inside and not self._asks)
        if wants_before and self._before_handle is None:
            self._before_handle = self.optimizer.register_step_pre_hook(self._before)
        elif not wants_before and self._before_handle is not None:
            self._before_handle.remove()
            self._before_handle = None
        if isinstance(self.optimizer, TailedOptimizer):
            self.optimizer._asked_to_measure = records and self._asks

    def take(self) -> Measured | None:
        """Returns what the last step measured, once; None if there was no step since."""
        found, self._found = self._found, None
        return found

    def lrs(self) -> list[float | Tensor]:
        """Returns each group's rate."""
        return [_kept(group["lr"]) for group in self.optimizer.param_groups if "lr" in group]

    def stop(self) -> None:
        """Leaves the optimizer as it was."""
        self.expect(False, False)
        if self._handle is not None:
            self._handle.remove()
        if isinstance(self.optimizer, TailedOptimizer):
            self.optimizer._observer = None

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        try:
            scale = _scale_of(optimizer)
            if self._samples:
                self._probe.before_step(_has_closure(args, kwargs), scale)
            # With a GradScaler's factor torch's kernels may write unscaled gradients back in the step.
            self._scaled = self._grad_norms() if self._records and not self._asks and scale is not None else None
        except Exception as error:  # whatever goes wrong here, the training goes on
            self._failed("the optimizer's step", error)

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._observe(False)

    def _observe(self, zeroed: bool) -> None:
        """Measures a step that has been taken; `zeroed`: it has zeroed the gradients."""
        try:
            if self._is_on_gpu and torch.cuda.is_current_stream_capturing():
                return  # nobody sees the replays
            if self._samples:
                self._probe.after_step(not zeroed)
            if self._records:
                self._found = self._measured(zeroed)
        except Exception as error:  # as above
            self._failed("the optimizer's step", error)

    def _measured(self, zeroed: bool) -> Measured:
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
        if statistics is None:
            self._asks = False
            if self._scaled is not None:
                grad_norms, self._scaled = self._scaled, None
            elif not zeroed:
                grad_norms = self._grad_norms()
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


def _has_closure(args: Any, kwargs: Any) -> bool:
    """Whether a step was called with a closure, in which the gradients are made."""
    return kwargs.get("closure") is not None or any(callable(one) for one in args)


def _scale_of(optimizer: Any) -> Any:
    """What torch.amp.GradScaler leaves to the step to divide gradients by, or None."""
    return getattr(optimizer, "grad_scale", None)
