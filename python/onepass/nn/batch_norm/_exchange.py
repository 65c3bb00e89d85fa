"""What the ranks of a SyncBatchNorm send each other: float64 numbers of fixed size, gathered once each way.

The numbers are gathered and not added up on the way: each rank merges them in the order of the ranks, so all have
the same bits, whatever the backend and the ranks' batches are.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["Peers", "gather", "group_named", "new_own"]

# Doubles in front of the two of each channel (RankNumbers in csrc/kernels/norm/batch_norm.h).
_FIRST = 4
# Room for a multiple of so many channels is sent: ranks that are in different layers mostly send the same size,
# and hear from each other where they are. Backends end the process, or hang, where sizes differ.
_WIDTH = 256

# Older versions of torch have only the second name, newer ones warn of it.
_all_gather: Callable[..., Any] | None = getattr(dist, "all_gather_single", None) or getattr(
    dist, "all_gather_into_tensor", None
)
# The sizes in which the ranks of a group have found that they agree.
_agreed: weakref.WeakKeyDictionary[Any, set[int]] = weakref.WeakKeyDictionary()


class Peers(NamedTuple):
    """With whom a layer shares its statistics, and what errors call it."""

    group: Any
    """The process group."""
    layer: str
    """The layer's name in its model, or its class and channels."""
    tag: int
    """The same number in this layer on all ranks, another one in most others; 0: not known."""


def group_named(name: str) -> Any:
    """Returns the process group of a name, which compiled code holds in its place."""
    from torch.distributed import distributed_c10d

    return cast(Any, distributed_c10d)._resolve_process_group(name)


def new_own(input: Tensor, empty: bool) -> Tensor:
    """Allocates memory for what this rank sends; filled in for a rank whose batch is empty.

    Args:
        input: Of shape (N, C, ...), on the device in question.
        empty: Whether there is nothing that a kernel could fill it with.
    """
    channels = input.shape[1]
    size = _FIRST + 2 * (-(-channels // _WIDTH) * _WIDTH)
    if not empty:
        return torch.empty(size, dtype=torch.float64, device=input.device)
    own = torch.zeros(size, dtype=torch.float64, device=input.device)
    own[:1].fill_(channels)
    return own


def gather(own: Tensor, peers: Peers, channels: int) -> Tensor:
    """Returns what all ranks send, a row each; the host does not wait for a GPU.

    The first time that a size is sent in a group its ranks compare their channels, for which the host waits.

    Raises:
        ValueError: Another rank has another number of channels in this layer.
        RuntimeError: The numbers did not arrive.
    """
    rank = dist.get_rank(peers.group)
    try:
        met = _agreed.setdefault(peers.group, set())
        if own.numel() not in met and not (own.is_cuda and torch.cuda.is_current_stream_capturing()):
            _compare(own, peers, channels, rank)
            met.add(own.numel())
        return _gathered(own, peers.group)
    except RuntimeError as error:
        raise RuntimeError(
            f"{peers.layer} on rank {rank}: the statistics of all ranks must arrive, got an error: {error}"
        ) from error


def _gathered(own: Tensor, group: Any) -> Tensor:
    assert _all_gather is not None
    ranks = dist.get_world_size(group)
    found = own.new_empty(ranks * own.numel())
    _all_gather(found, own, group=group)
    return found.view(ranks, -1)


def _compare(own: Tensor, peers: Peers, channels: int, rank: int) -> None:
    mine = torch.full((1,), channels, dtype=torch.int64, device=own.device)
    for other, theirs in enumerate(_gathered(mine, peers.group).flatten().tolist()):
        if theirs != channels:
            raise ValueError(
                f"{peers.layer} on rank {rank}: rank {other} must have {channels} channels there, too, "
                f"got {theirs}"
            )
