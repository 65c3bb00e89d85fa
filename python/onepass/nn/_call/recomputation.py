"""Whether a forward pass repeats an earlier one: activation checkpointing computes a part of the network twice.

torch's batch norm moves its running statistics both times. Ours counts the first pass alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import graph
from torch.autograd.function import BackwardCFunction
from torch.utils._python_dispatch import _disable_current_modes

__all__ = ["count_of_pass", "is_recomputed", "throwaway"]

_graph_task = torch._C._current_graph_task_id
_is_compiling = torch.compiler.is_compiling
# Older versions of torch cannot tell.
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)
# Runs the backward method of each autograd.Function that is written in Python.
_NODE = cast(Any, BackwardCFunction.apply).__code__
# Starts a backward pass.
_ENGINE = graph._engine_run_backward.__code__
_CHECKPOINT = "torch.utils.checkpoint"

# torch gives these methods no types.
_library = cast(Any, torch.library).Library("onepass", "FRAGMENT")


def is_recomputed(module: torch.nn.Module | None = None) -> bool:
    """True in a forward pass that a backward pass runs to have again what was not kept.

    That is one run by the backward method of an autograd.Function (torch's reentrant checkpoint, fairscale's,
    DeepSpeed's, reversible networks) or by the unpacking of a tensor that torch's checkpoint did not save. A
    hook of a backward pass may run a network for the first time: that is no recomputation.

    Args:
        module: Asked for fairscale's mark: its checkpoint lets a batch norm count in the recomputation alone.
    """
    # Compiled code asks when it runs, in the operator.
    if _is_compiling() or _graph_task() == -1:
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not _ENGINE:
        code = frame.f_code
        if code is _NODE or (code.co_name == "unpack_hook" and frame.f_globals.get("__name__") == _CHECKPOINT):
            return module is None or "_track_running_stats_backup" not in module.__dict__
        frame = frame.f_back
    return False


def throwaway(*buffers: Tensor | None) -> tuple[Tensor | None, ...]:
    """Copies for a recomputation to change.

    Copies, not None: the same operations in the same order, and as many saved tensors, are what checkpoints
    compare. No mode sees them made, for selective checkpointing counts the operations.
    """
    with _disable_current_modes():
        return tuple(None if buffer is None else buffer.detach().clone() for buffer in buffers)


def count_of_pass(like: Tensor) -> int | Tensor:
    """By how much compiled code moves a count of batches that the running statistics depend on: 0 or 1.

    An operator, since the recomputation of a compiled layer runs the code of its first pass. It takes 5 us, which
    is why a count that is read by nobody is moved by 1 without asking. An exported program has torch's addition.
    """
    if _is_compiling() and not _is_exporting():
        return cast(Tensor, torch.ops.onepass.count_of_pass(like))
    return 1


def _count_of_pass(like: Tensor) -> Tensor:
    return torch.zeros_like(like) if is_recomputed() else torch.ones_like(like)


_library.define("count_of_pass(Tensor like) -> Tensor")
for _device in ("CPU", "CUDA"):
    _library.impl("count_of_pass", _count_of_pass, _device)
_library._register_fake("count_of_pass", torch.empty_like)
