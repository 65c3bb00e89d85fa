"""SyncBatchNorm: batch normalisation with the statistics of all ranks' batches, on CPU and GPU."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from onepass.nn._call.exporting import refuse
from onepass.nn.batch_norm._call import normalise
from onepass.nn.batch_norm._exchange import Peers
from onepass.nn.batch_norm._sync import refuse_transforms, synchronised
from onepass.nn.batch_norm.modules import FusedBatchNorm

__all__ = ["SyncBatchNorm", "is_process_group"]


class SyncBatchNorm(FusedBatchNorm):
    r"""Normalises each channel of (N, C, ...) over the batches of all ranks in training.

    .. math::
        y = \operatorname{dropout}\left(\operatorname{act}\left(
            \frac{x - \mathrm{E}[x]}{\sqrt{\mathrm{Var}[x] + \epsilon}} \cdot w + b + r\right)\right)

    E and Var are those of one batch that consists of all ranks' batches. Each rank computes count, mean and sum of
    squared deviations of its own batch. One gather brings these float64 numbers to all ranks: 8 (4 + 2 C) bytes
    from each, with C rounded up to a multiple of 256. All ranks merge them in the order of the ranks, and have the
    same bits. The backward pass makes one gather of that size for the two sums of the gradient. Batches may differ
    in size from rank to rank, and may be empty. Gradients of weight and bias are those of the rank's batch;
    DistributedDataParallel averages them.

    In evaluation, with one rank, and without an initialised torch.distributed, it is a batch norm as the others.
    Shapes and dtypes are those of `onepass.nn.functional.batch_norm`; ``forward(input, residual=None,
    activation=None)`` takes the residual, and an activation for one call.

    Args:
        num_features: C.
        eps: Added to the variance, so that a constant channel is not divided by 0.
        momentum: How far the running statistics move towards those of a batch; None for the mean over all batches.
        affine: Whether there are weight (initially 1) and bias (initially 0).
        track_running_stats: Whether there are running statistics. Without them evaluation uses the rank's batch.
        process_group: The ranks that share statistics; None for all.
        device: Device of parameters and buffers.
        dtype: Dtype of parameters and buffers.
        bias: False for no bias.
        activation: None or ``"relu"``, applied to the output.
        dropout: Probability that an element of the output becomes 0 in training. Each rank draws from its own
            generator.

    Raises:
        ValueError: activation or dropout is out of range; in ``forward`` whatever functional.batch_norm refuses,
            an input of less than 2 dimensions, and on the CPU one value a channel on all ranks together. Ranks
            have another number of channels in this layer: the error names layer and rank.
        TypeError: process_group is no process group.
        RuntimeError: On the CPU the ranks are in different layers; the numbers of a rank do not arrive in the
            time limit of the process group. In training with several ranks: a derivative of the gradient
            (``create_graph``), torch.func or export is asked for.

    Differs from torch: it works on the CPU, by gloo. It has activation, residual and dropout. Statistics are
    merged in float64. Batches of all ranks may be empty: the running statistics then stay as they are. It is no
    subclass of torch.nn.SyncBatchNorm, which DistributedDataParallel refuses on the CPU, but of the same base
    class; state dicts are the same. torch.compile makes one operator of a call, without a graph break. It is not
    yet verified on a GPU.

    Source: torch.nn.SyncBatchNorm; Chan, Golub and LeVeque 1983 for the merge.

    Example:
        >>> import torch
        >>> from onepass.nn import SyncBatchNorm
        >>> norm = SyncBatchNorm(3, activation="relu")
        >>> norm(torch.randn(4, 3, 8, 8)).shape  # one rank
        torch.Size([4, 3, 8, 8])
    """

    # The layer's name in its model, for errors; `convert_sync_batchnorm` knows it.
    _layer: str = ""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
        activation: str | None = None,
        dropout: float = 0.0,
    ) -> None:
        if not is_process_group(process_group):
            raise TypeError(
                "SyncBatchNorm: process_group must be a torch.distributed.ProcessGroup or None, got "
                f"{type(process_group).__name__}"
            )
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            bias=bias,
            activation=activation,
            dropout=dropout,
        )
        self.process_group: Any = process_group

    def __prepare_scriptable__(self) -> SyncBatchNorm:
        """Refuses, before TorchScript compiles anything, the exchange, which it cannot express."""
        self._refuse_export()
        super().__prepare_scriptable__()
        return self

    def _refuse_export(self) -> None:
        if self.training and self._peers() is not None:
            refuse("SyncBatchNorm", "training", "False", True)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"SyncBatchNorm: input must have at least 2 dimensions, got {input.dim()}")

    def _run(
        self,
        input: Tensor,
        residual: Tensor | None,
        activation: str | None,
        normalise: Callable[..., Tensor] = normalise,
    ) -> Tensor:
        peers = self._peers() if self.training else None
        if peers is None:
            return super()._run(input, residual, activation, normalise)
        refuse_transforms(peers)
        return super()._run(input, residual, activation, partial(synchronised, peers))

    def _peers(self) -> Peers | None:
        """With whom the statistics are shared; None if this rank is the only one."""
        if not (dist.is_available() and dist.is_initialized()):
            return None
        group = dist.group.WORLD if self.process_group is None else self.process_group
        if dist.get_world_size(group) == 1:
            return None
        if torch.compiler.is_compiling():
            return Peers(group, "SyncBatchNorm", 0)
        name = f"SyncBatchNorm({self.num_features})"
        if not self._layer:
            return Peers(group, name, 0)
        return Peers(group, f"{self._layer} ({name})", 1 + zlib.crc32(self._layer.encode()))


def is_process_group(value: Any) -> bool:
    """Returns True for a process group, and for None."""
    return value is None or (dist.is_available() and isinstance(value, dist.ProcessGroup))
