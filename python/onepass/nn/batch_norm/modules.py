"""BatchNorm1d, 2d and 3d: torch.nn's modules with activation, residual and dropout in the same pass."""

from __future__ import annotations

import math
import sys
from _thread import _count as _other_threads
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from onepass._arguments import told
from onepass._turns import new_turn
from onepass.nn._call.checks import check_integer, check_number, check_probability, check_tensor
from onepass.nn._call.dispatch import has_functorch
from onepass.nn._call.exporting import asked, is_scripting, refuse, refuse_sampled
from onepass.nn._call.recomputation import count_of_pass, is_recomputed, throwaway
from onepass.nn._call.tracing import node_for
from onepass.nn.batch_norm import _exported
from onepass.nn.batch_norm._call import normalise
from onepass.nn.batch_norm._kernels import Running
from onepass.nn.dropout._call import dropout

__all__ = ["OURS", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "FusedBatchNorm"]


# Held where a batch is counted while other threads run: torch adds without the GIL, and two threads that share a
# module must both count. A call on a small tensor would notice a lock.
_COUNTING = new_turn()
# Functions of torch, timm and apex that make something else of a batch norm's weights and statistics.
_REBUILDERS = ("convert_sync_batchnorm", "convert_syncbn_model", "fuse_conv_bn_eval", "fuse_linear_bn_eval")


class FusedBatchNorm(_BatchNorm):
    """The common base of the three modules; each is also torch's class of its name."""

    # Attributes that TorchScript takes as constants, also those of the class.
    __constants__ = [*_BatchNorm.__constants__, "activation", "dropout"]  # noqa: RUF012 (no ClassVar in torch)
    activation: str | None = None
    dropout: float = 0.0
    # `mc_dropout` sets it: the next seed of the network that is being sampled.
    _thinned: Callable[[torch.nn.Module], int] | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        dropout: float = 0.0,
    ) -> None:
        check_integer(type(self).__name__, "num_features", num_features)
        if isinstance(num_features, bool) or num_features < 0:
            raise ValueError(f"{type(self).__name__}: num_features must be at least 0, got {told(num_features)}")
        for option, value in (("eps", eps), ("momentum", momentum)):
            if value is not None or option == "eps":
                check_number(type(self).__name__, option, value)
        if isinstance(momentum, Real) and not math.isfinite(momentum):
            raise ValueError(f"{type(self).__name__}: momentum must be finite or None, got {momentum}")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        if not bias:
            # By hand: older versions of torch do not know the argument.
            self.register_parameter("bias", None)
        if activation is not None and activation != "relu":
            raise ValueError(f"{type(self).__name__}: activation must be None or 'relu', got {told(activation)}")
        check_probability(type(self).__name__, "dropout", dropout)
        self.activation = activation
        self.dropout = dropout

    def __getstate__(self) -> dict[str, Any]:
        """Returns what copies and pickles get, without the tie to an `mc_dropout` block."""
        return {name: value for name, value in self.__dict__.items() if name != "_thinned"}

    def __prepare_scriptable__(self) -> FusedBatchNorm:
        """Refuses, before TorchScript compiles anything, what it cannot express."""
        refuse_sampled(self)
        return self

    def __getattr__(self, name: str) -> Any:
        """Refuses a function that would lose the activation or dropout; it is known by what it reads.

        Raises:
            RuntimeError: One of those that rebuild a batch norm of its weights reads its statistics.
        """
        fused = name == "running_mean" and (self.activation is not None or self.dropout)
        if fused and not torch.compiler.is_compiling():
            reader = sys._getframe(1).f_code.co_name
            # What is fused into a layer evaluates: dropout does nothing there.
            if reader in _REBUILDERS and (self.activation is not None or reader.startswith("convert")):
                lost = f"dropout={self.dropout}" if self.activation is None else f"activation={self.activation!r}"
                raise RuntimeError(
                    f"{reader}: a {type(self).__name__} must not have {lost} to be rebuilt of its weights, which "
                    "know nothing of it; write onepass.nn.Sequential of a batch norm and torch's module behind it"
                )
        return super().__getattr__(name)

    def forward(self, input: Tensor, residual: Tensor | None = None, activation: str | None = None) -> Tensor:
        """Normalises the input, adds the residual, applies the activation and drops; see functional.batch_norm.

        Args:
            input: x, of the dimensions that torch's class takes.
            residual: r, of x's shape and dtype, or None for 0.
            activation: ``"relu"`` to apply it in this call; None for what the module has been made with.

        Returns:
            y, of x's shape, dtype and layout.
        """
        if not is_scripting():
            # Not for the regular call, whose tensors are plain.
            if type(input) is not Tensor or (residual is not None and type(residual) is not Tensor):
                node = node_for(self, input, residual=residual, activation=activation)
                if node is not None:
                    return cast(Tensor, node)
                check_tensor("batch_norm", "input", input)
            if not asked._is_exporting_flag:
                return self._run(input, residual, activation)
        return self._composed(input, residual, activation)

    def _refuse_export(self) -> None:
        """Raises where torch's operators do not do what the module does; a subclass knows."""

    def _composed(self, input: Tensor, residual: Tensor | None, activation: str | None) -> Tensor:
        """`forward` by torch's operators, in the order of torch's module; TorchScript compiles it."""
        if not is_scripting():
            refuse_sampled(self)
            self._refuse_export()
            if self.training and self.track_running_stats and self.momentum is None:
                refuse("batch_norm", "momentum", "a number in training", None)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        if is_scripting():
            mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
            tensors = self.weight, self.bias
        else:
            # An exported graph names its inputs by the way in which they were found.
            parameters, buffers = self._parameters, self._buffers
            mean, var = _own(self, buffers, "running_mean"), _own(self, buffers, "running_var")
            count = _own(self, buffers, "num_batches_tracked")
            tensors = cast(Any, (_own(self, parameters, "weight"), _own(self, parameters, "bias")))
        training, momentum = self.training, 0.0 if self.momentum is None else self.momentum
        if training and self.track_running_stats and count is not None:
            count.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(count)
        kept = not training or self.track_running_stats
        return _exported.batch_norm(
            input,
            mean if kept else None,
            var if kept else None,
            tensors[0],
            tensors[1],
            residual,
            training or (mean is None and var is None),
            momentum,
            self.eps,
            self.activation if activation is None else activation,
            self.dropout,
            training,
        )

    def _run(
        self,
        input: Tensor,
        residual: Tensor | None,
        activation: str | None,
        normalise: Callable[..., Tensor] = normalise,
    ) -> Tensor:
        """`forward` on the kernels; `normalise` takes the checked call."""
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        training, momentum = self.training, self.momentum
        parameters, buffers = self._parameters, self._buffers
        mean, var = _own(self, buffers, "running_mean"), _own(self, buffers, "running_var")
        count = batches = None
        if training:
            if self.track_running_stats:
                count = _own(self, buffers, "num_batches_tracked")
                if is_recomputed(self):
                    mean, var, count = throwaway(mean, var, count)
            else:
                mean = var = None
        step: int | Tensor = 1
        if momentum is None:
            if count is None:
                momentum = 0.0
            else:
                # torch reads the count back to the host; here the kernel divides by it.
                batches = count + 1
                step = count_of_pass(count)
        arguments = (
            input,
            Running(mean, var, batches),
            _own(self, parameters, "weight"),
            _own(self, parameters, "bias"),
            residual,
            training or (mean is None and var is None),
            momentum,
            self.eps,
            self.activation if activation is None else activation,
            self.dropout if training else 0.0,
        )
        transformed = count is not None and not torch.compiler.is_compiling() and has_functorch()
        output = _counted_first(count, step, normalise, arguments) if transformed else normalise(*arguments)
        if count is not None and not transformed:
            # After all checks: a rejected batch is not counted.
            if torch.compiler.is_compiling() or not _other_threads():
                count.add_(step)
            else:
                with _COUNTING:
                    count.add_(step)
        if self._thinned is not None:
            return dropout(
                "batch_norm", output, self.dropout, True, False, "inverted", seed=self._thinned(self), shared=True
            )
        return output

    def extra_repr(self) -> str:
        """Returns torch's text, and our options where they are set."""
        text: str = super().extra_repr()  # type: ignore[no-untyped-call]
        if self.activation is not None:
            text += f", activation={self.activation}"
        return text + (f", dropout={self.dropout}" if self.dropout else "")


def _counted_first(
    count: Tensor | None, step: int | Tensor, normalise: Callable[..., Tensor], arguments: tuple[Any, ...]
) -> Tensor:
    """Normalises under torch.func, whose gradients refuse to count: so they must before the statistics move."""
    assert count is not None
    count.add_(step)
    try:
        return normalise(*arguments)
    except Exception:
        count.sub_(step)
        raise


def _own(module: torch.nn.Module, where: Mapping[str, Tensor | None], name: str) -> Tensor | None:
    """Returns a parameter or buffer, without the 0.8 us that an attribute of a module takes to be found.

    Parametrised or sharded modules have it only as an attribute.
    """
    return where[name] if name in where else cast(Tensor | None, getattr(module, name))


class BatchNorm2d(FusedBatchNorm, torch.nn.BatchNorm2d):
    r"""Normalises each channel of (N, C, H, W), with a residual, ReLU and dropout in the same pass.

    .. math::
        y = \operatorname{dropout}\left(\operatorname{act}\left(
            \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} \cdot w + b + r\right)\right)

    Shapes and dtypes are those of `onepass.nn.functional.batch_norm`; ``forward(input, residual=None,
    activation=None)`` takes the residual, and an activation for one call.

    Args:
        num_features: C.
        eps: Added to the variance, so that a constant channel is not divided by 0.
        momentum: How far the running statistics move towards those of a batch; None for the mean over all batches.
            The name is torch's: other libraries call 1 minus this number momentum.
        affine: Whether there are weight (initially 1) and bias (initially 0).
        track_running_stats: Whether there are running statistics. Without them evaluation, too, uses the batch's.
        device: Device of parameters and buffers.
        dtype: Dtype of parameters and buffers. Half precision inputs go with float32 ones, the default, as in
            torch.
        bias: False for no bias.
        activation: None or ``"relu"``, applied to the output.
        dropout: Probability that an element of the output becomes 0 in training; the others are divided by
            1 - dropout. The seed is drawn from torch's generator of the device.

    Raises:
        ValueError: activation or dropout is out of range; in ``forward`` whatever functional.batch_norm refuses,
            and an input of another number of dimensions.
        RuntimeError: A function of torch, timm or apex that rebuilds batch norms from their weights meets one with
            activation or dropout.

    Differs from torch: activation, dropout and residual are part of the pass. They are options, not state:
    ``state_dict`` is torch's, both ways. Whatever rebuilds a batch norm from its weights (SyncBatchNorm's
    conversion, fusion into convolutions) would lose them; torch's own functions that do so are refused. In front
    of an nn.ReLU in `Sequential` a batch norm needs no activation. What the numbers differ in is listed at
    `onepass.nn.functional.batch_norm`.

    Source: Ioffe and Szegedy 2015; torch.nn.BatchNorm2d.

    Example:
        >>> import torch
        >>> from onepass.nn import BatchNorm2d
        >>> norm = BatchNorm2d(3, activation="relu")
        >>> x = torch.randn(4, 3, 8, 8)
        >>> norm(x, residual=x).min().item()
        0.0
    """


class BatchNorm1d(FusedBatchNorm, torch.nn.BatchNorm1d):
    """Normalises each channel of (N, C) or (N, C, L), with a residual, ReLU and dropout in the same pass.

    Formula, shapes and dtypes are those of `onepass.nn.functional.batch_norm`; the arguments, errors and
    differences are those of `BatchNorm2d`.

    Args:
        num_features: C.
        eps: Added to the variance.
        momentum: How far the running statistics move towards those of a batch; None for the mean over all batches.
        affine: Whether there are weight and bias.
        track_running_stats: Whether there are running statistics.
        device: Device of parameters and buffers.
        dtype: Dtype of parameters and buffers.
        bias: False for no bias.
        activation: None or ``"relu"``.
        dropout: Probability that an element of the output becomes 0 in training.

    Raises:
        ValueError: activation or dropout is out of range; in ``forward`` the input has another number of
            dimensions.

    Differs from torch: as `BatchNorm2d` does: activation, dropout and residual are part of the pass, and the
    running statistics move once per step under activation checkpointing.

    Source: Ioffe and Szegedy 2015; torch.nn.BatchNorm1d.

    Example:
        >>> import torch
        >>> from onepass.nn import BatchNorm1d
        >>> norm = BatchNorm1d(3, activation="relu")
        >>> norm(torch.randn(4, 3)).shape
        torch.Size([4, 3])
    """


class BatchNorm3d(FusedBatchNorm, torch.nn.BatchNorm3d):
    """Normalises each channel of (N, C, D, H, W), with a residual, ReLU and dropout in the same pass.

    Formula, shapes and dtypes are those of `onepass.nn.functional.batch_norm`; the arguments, errors and
    differences are those of `BatchNorm2d`.

    Args:
        num_features: C.
        eps: Added to the variance.
        momentum: How far the running statistics move towards those of a batch; None for the mean over all batches.
        affine: Whether there are weight and bias.
        track_running_stats: Whether there are running statistics.
        device: Device of parameters and buffers.
        dtype: Dtype of parameters and buffers.
        bias: False for no bias.
        activation: None or ``"relu"``.
        dropout: Probability that an element of the output becomes 0 in training.

    Raises:
        ValueError: activation or dropout is out of range; in ``forward`` the input has another number of
            dimensions.

    Differs from torch: as `BatchNorm2d` does: activation, dropout and residual are part of the pass, and the
    running statistics move once per step under activation checkpointing.

    Source: Ioffe and Szegedy 2015; torch.nn.BatchNorm3d.

    Example:
        >>> import torch
        >>> from onepass.nn import BatchNorm3d
        >>> norm = BatchNorm3d(3, activation="relu")
        >>> norm(torch.randn(2, 3, 4, 5, 6)).shape
        torch.Size([2, 3, 4, 5, 6])
    """


# torch's classes and ours.
OURS: dict[type[torch.nn.Module], type[FusedBatchNorm]] = {
    torch.nn.BatchNorm1d: BatchNorm1d,
    torch.nn.BatchNorm2d: BatchNorm2d,
    torch.nn.BatchNorm3d: BatchNorm3d,
}
