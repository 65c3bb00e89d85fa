"""Watches an optimizer's steps: norms, lost updates and skipped steps, for which nobody waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from onepass.monitor._layers import LayerProbe
from onepass.monitor._packed import Value
from onepass.optim._step.tailed import TailedOptimizer

__all__ = ["Measured", "OptimizerWatch", "norm_of", "rates_of"]

Failed = Callable[[str, Exception], None]


# What one step did, by these names; the next step may change the tensors:
# "lr": the rate of each param group;
# "statistics": of our optimizers a row of `GroupStatistics` for each param group;
# "grad_norm": of torch's optimizers the norm of the gradients of each param group;
# "control": of our optimizers that may skip a step the tensor that counts skipped steps;
# "dropped": of torch's fused optimizers under a GradScaler a number that is not 0 if the step was dropped.
Measured = dict[str, Value]


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

    def lrs(self) -> Value:
        """Returns each group's rate."""
        return rates_of(self.optimizer)

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
        found: Measured = {"lr": self.lrs()}
        if isinstance(optimizer, TailedOptimizer):
            memory = optimizer._tail
            if memory is not None:
                if memory.statistics is not None:
                    found["statistics"] = memory.statistics
                if optimizer.skip_nonfinite or getattr(optimizer, "found_inf", None) is not None:
                    found["control"] = memory.control
        elif isinstance(dropped := getattr(optimizer, "found_inf", None), Tensor):
            found["dropped"] = dropped
        if "statistics" not in found:
            self._asks = False
            if self._scaled is not None:
                found["grad_norm"], self._scaled = self._scaled, None
            elif not zeroed:
                found["grad_norm"] = self._grad_norms()
        return found

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


def rates_of(optimizer: Any) -> Value:
    """Returns the rate of each param group."""
    rates = [group["lr"] for group in optimizer.param_groups if "lr" in group]
    device = next((rate.device for rate in rates if isinstance(rate, Tensor) and not rate.is_cpu), None)
    if device is None:
        return [float(rate) for rate in rates]
    return torch.stack([torch.as_tensor(rate, dtype=torch.float64, device=device).reshape(()) for rate in rates])


def _has_closure(args: Any, kwargs: Any) -> bool:
    """Whether a step was called with a closure, in which the gradients are made."""
    return kwargs.get("closure") is not None or any(callable(one) for one in args)


def _scale_of(optimizer: Any) -> Any:
    """What torch.amp.GradScaler leaves to the step to divide gradients by, or None."""
    return getattr(optimizer, "grad_scale", None)
