"""What a step does besides the update: unscale, clip, skip, average, zero the gradients."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from onepass._arguments import listed, told
from onepass.optim._lists.arguments import check_range, limit_number, number, number_or_tensor
from onepass.optim._lists.kinds import is_fake
from onepass.optim._lists.layout import is_dense
from onepass.optim._lists.tail import NORM, NOTHING, SKIPPED_STEPS, Tail, TailMemory
from onepass.optim._step.statistics import GroupStatistics
from onepass.optim._step.turns import Turn, turn_of


class TailedOptimizer(Optimizer):
    """The options of the tail, the tensors it keeps, and what a user reads from them."""

    max_grad_norm: float | None
    """Largest norm of all gradients together that a step takes as it is, or None."""
    skip_nonfinite: bool
    """Whether a step is skipped if an element of a gradient is infinite or nan."""
    ema_decay: float | None
    """Decay of the moving average of the parameters, or None."""
    # Annotated and not set: GradScaler asks whether there is such an attribute.
    grad_scale: float | Tensor | None
    """What the loss was multiplied by; gradients are divided by it. torch.amp.GradScaler sets and deletes it."""
    found_inf: float | Tensor | None
    """Not 0 if the step is to be skipped. torch.amp.GradScaler sets and deletes it."""
    telemetry: bool
    """Whether a step measures what `statistics` returns."""
    # Made by the first step that has a tail.
    _tail: TailMemory | None = None
    # The options when they were last checked, and what `_checked_numbers` gives.
    _checked: tuple[tuple[Any, ...], tuple[float | None, float | None]] | None = None
    # What the last step was asked for, and its tail.
    _last_tail: tuple[tuple[Any, ...], Tail] | None = None
    _averages_are_in = False
    # The lock of a step; None until the first one.
    _turn: Turn | None = None
    # What `onepass.monitor.Monitor` sets. The first is called after each step, with whether that zeroed gradients:
    # a hook would make each step enter torch's wrapper. The second is telemetry where a step can measure, and no
    # reason for any step to be refused, or not to be compiled.
    _observer: Callable[[bool], object] | None = None
    _asked_to_measure = False

    def _set_tail(
        self, max_grad_norm: float | None, skip_nonfinite: bool, ema_decay: float | None, telemetry: bool
    ) -> None:
        self.max_grad_norm = max_grad_norm
        self.skip_nonfinite = skip_nonfinite
        self.ema_decay = ema_decay
        self.telemetry = telemetry
        self._check_tail()

    def _check_tail(self) -> None:
        name = type(self).__name__
        if self.max_grad_norm is not None:
            limit_number(name, "max_grad_norm", self.max_grad_norm)
        if self.ema_decay is not None:
            check_range(name, "ema_decay", self.ema_decay, 0, 1)
        for option in ("skip_nonfinite", "telemetry"):
            if not isinstance(getattr(self, option), bool):
                raise TypeError(f"{name}: {option} must be True or False, got {told(getattr(self, option))}")

    def __getstate__(self) -> dict[str, Any]:
        """Adds the options of the tail, which torch's method leaves out, so that pickle and copy keep them.

        Raises:
            RuntimeError: The moving averages are in the parameters (`ema_parameters`).
        """
        self._check_no_averages_in("it can be neither pickled nor copied", "the parameters hold the averages")
        options = ("max_grad_norm", "skip_nonfinite", "ema_decay", "telemetry")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in options}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fills in what pickles of older versions lack."""
        # Skips torch's class of the same name, which would take some of our states for its own.
        Optimizer.__setstate__(self, state)
        self.__dict__.setdefault("telemetry", False)

    def _check_no_averages_in(self, refused: str, advice: str) -> None:
        if self._averages_are_in:
            raise RuntimeError(f"{type(self).__name__}: {refused} inside ema_parameters(); {advice}")

    def _has_tail(self, zero_grad: bool) -> bool:
        if zero_grad or self.skip_nonfinite or self.telemetry:
            return True
        if self.max_grad_norm is not None or self.ema_decay is not None:
            return True
        grad_scale, found_inf = self._scaling()
        return grad_scale is not None or found_inf is not None

    def _scaling(self) -> tuple[float | Tensor | None, float | Tensor | None]:
        return getattr(self, "grad_scale", None), getattr(self, "found_inf", None)

    def _prepare_tail(self, zero_grad: bool) -> Tail:
        if self._averages_are_in:
            self._check_no_averages_in("no step can be taken", "the parameters hold the averages")
        if not (self._asked_to_measure or self._has_tail(zero_grad)):
            if self._tail is not None:
                self._tail.statistics = None  # of a step before this one
            return NOTHING
        tail = self._asked_tail(zero_grad)
        memory = self._tail_memory()
        if tail.memory is not memory:
            tail = tail._replace(memory=memory)
            if self._last_tail is not None:
                self._last_tail = self._last_tail[0], tail
        return tail

    def _asked_tail(self, zero_grad: bool) -> Tail:
        """The tail as the options ask for it; that of the last step, if none of them has changed."""
        grad_scale, found_inf = self._scaling()
        flags = self.skip_nonfinite, self.telemetry, zero_grad
        asked = (self.max_grad_norm, self.ema_decay, grad_scale, found_inf, *flags)
        last = self._last_tail
        if last is not None and all(map(operator.is_, asked, last[0])):
            return last[1]
        name = type(self).__name__.lower()
        max_grad_norm, ema_decay = self._checked_numbers(name)
        tail = Tail(
            max_grad_norm,
            self.skip_nonfinite,
            bool(zero_grad),
            ema_decay,
            None if grad_scale is None else number_or_tensor(name, "grad_scale", grad_scale),
            None if found_inf is None else number_or_tensor(name, "found_inf", found_inf),
        )
        # A tensor may hold another number next time.
        self._last_tail = None if any(isinstance(option, Tensor) for option in asked) else (asked, tail)
        return tail

    def _device(self) -> torch.device:
        """The first parameter's device, the CPU where all groups are empty."""
        for group in self.param_groups:
            for param in group["params"]:
                found: torch.device = param.device
                return found
        return torch.device("cpu")

    def _tail_memory(self) -> TailMemory:
        """The tensors of the next step's tail."""
        # Loops and no generators: after a backward pass the caches are cold, and a frame costs microseconds.
        device = self._device()
        memory = self._tail
        if memory is None or memory.device != device:
            memory = self._tail = TailMemory(device)
        memory.measure(len(self.param_groups) if self.telemetry or self._asked_to_measure else 0)
        if memory.statistics is not None and not self._has_grads():
            memory.statistics.zero_()  # no kernel will
        return memory

    def _has_grads(self) -> bool:
        """Whether there is an element to update."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None and param.numel():
                    return True
        return False

    def _checked_numbers(self, name: str) -> tuple[float | None, float | None]:
        """max_grad_norm and ema_decay as the core takes them; checks all options if one of them has changed."""
        options = (self.max_grad_norm, self.ema_decay, self.skip_nonfinite, self.telemetry)
        checked = self._checked
        if checked is None or any(map(operator.is_not, options, checked[0])):
            self._check_tail()
            norm, decay = self.max_grad_norm, self.ema_decay
            numbers = (
                None if norm is None else number(name, "max_grad_norm", norm),
                None if decay is None else number(name, "ema_decay", decay),
            )
            checked = (options, numbers)
            # A tensor may hold another number next time.
            self._checked = None if isinstance(norm, Tensor) or isinstance(decay, Tensor) else checked
        return checked[1]

    def _reads_grads(self) -> bool:
        return self.max_grad_norm is not None or self.skip_nonfinite

    @property
    def skipped_steps(self) -> int:
        """The number of steps that were skipped since this object was made. Waits for the GPU."""
        control = None if self._tail is None else self._tail.control
        return 0 if control is None or is_fake(control) else int(control[SKIPPED_STEPS])

    @property
    def grad_norm(self) -> Tensor:
        """The 2-norm of all unscaled gradients of the last step, before clipping: float64, of shape ().

        It is on the parameters' device and not waited for; the next step overwrites it. It is nan before the first
        step with max_grad_norm or skip_nonfinite.
        """
        if self._tail is None or not self._reads_grads():
            return torch.tensor(float("nan"), dtype=torch.float64)
        return self._tail.control[NORM]

    def statistics(self) -> list[GroupStatistics]:
        """Returns what the last step did to each param group, measured in the step's own pass over memory.

        A skipped step has norms of gradients and parameters, and no update. The next step does not change what
        was returned.

        Raises:
            RuntimeError: Nothing was measured: telemetry is False, or no step was taken yet.
        """
        measured = None if self._tail is None else self._tail.statistics
        if measured is None:
            raise RuntimeError(
                f"{type(self).__name__}: statistics needs a step taken with telemetry=True, got telemetry "
                f"{self.telemetry}"
            )
        return [GroupStatistics(*row) for row in measured.clone().unbind(0)]

    @contextmanager
    def ema_parameters(self) -> Iterator[None]:
        """Puts the moving averages into the parameters, for evaluation, and back on leaving.

        Parameters that have no average yet stay as they are. The parameters' bits are the same afterwards.

        Save only the model inside it: `step`, `state_dict`, `load_state_dict`, `import_ema`, copies and pickles of
        the optimizer need the weights, and raise.

        Raises:
            RuntimeError: No averages are kept (`ema_decay` is None and none were loaded), or they are in already.
                On leaving: parameters were written inside, for instance by loading a checkpoint; they are restored
                all the same. It is not raised on top of another error.
        """
        name = type(self).__name__
        averaged = [
            (p, self.state[p]["ema"])
            for group in self.param_groups
            for p in group["params"]
            if "ema" in self.state.get(p, {})
        ]
        if not averaged and self.ema_decay is None:
            raise RuntimeError(f"{name}: ema_parameters needs an optimizer with ema_decay, got ema_decay None")
        turn = self._turn or turn_of(self)
        with turn, torch.no_grad():
            if self._averages_are_in:
                raise RuntimeError(f"{name}: the moving averages are already in the parameters")
            kept = [param.clone() for param, _ in averaged]
            for param, average in averaged:
                param.copy_(average)
            shown = [_version_of(param) for param, _ in averaged]
            self._averages_are_in = True
        try:
            yield
        finally:
            with turn, torch.no_grad():
                self._averages_are_in = False
                written = 0
                for (param, average), value, version in zip(averaged, kept, shown, strict=True):
                    converted = param.dtype != value.dtype
                    written += converted or (_version_of(param) != version and not _is_copy(param, average))
                    if converted:
                        param.data = value
                    else:
                        param.copy_(value)
        if written:
            raise RuntimeError(
                f"{name}: parameters must not be written or converted inside ema_parameters(), got {written} that "
                "were (was a checkpoint loaded there?); all are what they were before it"
            )

    def import_ema(self, averages: AveragedModel | Iterable[Tensor], params: Iterable[Tensor]) -> None:
        """Takes over moving averages that were kept elsewhere.

        Args:
            averages: A torch.optim.swa_utils.AveragedModel, or one tensor for each of `params`.
            params: The parameters that they belong to, in the same order: ``model.parameters()``.

        Raises:
            ValueError: A parameter is not one of this optimizer's, or number or shapes differ; nothing has been
                changed.
            RuntimeError: The moving averages are in the parameters (`ema_parameters`).
        """
        name = type(self).__name__
        self._check_no_averages_in("import_ema cannot be called", "other averages are in the parameters")
        if isinstance(averages, AveragedModel):
            averages = averages.module.parameters()
        theirs = listed(name, "averages", averages, "tensors")
        ours = listed(name, "params", params, "tensors")
        if len(theirs) != len(ours):
            raise ValueError(f"{name}: averages must be as many as params, got {len(theirs)} for {len(ours)}")
        known = {id(p) for group in self.param_groups for p in group["params"]}
        for i, (average, param) in enumerate(zip(theirs, ours, strict=True)):
            if id(param) not in known:
                raise ValueError(f"{name}: params[{i}] must be a parameter of this optimizer, got another tensor")
            if not isinstance(average, Tensor):
                raise TypeError(f"{name}: averages[{i}] must be a tensor, got {told(average)}")
            if average.shape != param.shape:
                raise ValueError(
                    f"{name}: averages[{i}] must have shape {tuple(param.shape)} like its parameter, got "
                    f"{tuple(average.shape)}"
                )
        for average, param in zip(theirs, ours, strict=True):
            self.state[param]["ema"] = wide_copy(average.detach(), param)


def _version_of(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else int(tensor._version)


def _is_copy(param: Tensor, average: Tensor) -> bool:
    """Whether the parameter holds the average, whoever wrote it; nan equals nan."""
    return torch.allclose(param, average.to(param.device, param.dtype), rtol=0, atol=0, equal_nan=True)


def wide_copy(value: Tensor, param: Tensor) -> Tensor:
    """The value in the dtype of a moving average and its parameter's layout."""
    layout = param.detach() if is_dense(param) else param.detach().contiguous()
    return torch.empty_like(layout, dtype=average_dtype(param)).copy_(value)


def average_dtype(param: Tensor) -> torch.dtype:
    """The dtype of a parameter's moving average: float32; float64 for float64; complex as wide as these."""
    if param.is_complex():
        return torch.complex128 if param.dtype == torch.complex128 else torch.complex64
    return torch.float64 if param.dtype == torch.float64 else torch.float32
