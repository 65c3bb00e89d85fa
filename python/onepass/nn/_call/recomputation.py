"""Whether a forward pass repeats an earlier one: activation checkpointing computes a part of the network twice.

torch's batch norm moves its running statistics both times. Ours counts only the first pass.
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
# Older versions of torch have no such function.
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)
# Runs the backward method of each autograd.Function that is written in Python.
_NODE = cast(Any, BackwardCFunction.apply).__code__
# Starts a backward pass.
_ENGINE = graph._engine_run_backward.__code__
_CHECKPOINT = "torch.utils.checkpoint"

# torch gives these methods no types.
_library = cast(Any, torch.library).Library("onepass", "FRAGMENT")


def is_recomputed(module: torch.nn.Module | None = None) -> bool:
    """Returns True in a forward pass that a backward pass runs because something was not kept.

    Such a pass is run by the backward method of an autograd.Function (torch's reentrant checkpoint, fairscale's,
    DeepSpeed's, reversible networks) or by the unpacking of a tensor that torch's checkpoint did not save. A
    hook of a backward pass may run a network for the first time, which is no recomputation.

    Args:
        module: May carry fairscale's mark: its checkpoint lets a batch norm count only in the recomputation.
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
    """Returns copies that a recomputation may change.

    They are copies and not None because checkpoints compare operations, their order and the number of saved
    tensors. No mode sees them made, since selective checkpointing counts the operations.
    """
    with _disable_current_modes():
        return tuple(None if buffer is None else buffer.detach().clone() for buffer in buffers)


def count_of_pass(like: Tensor) -> int | Tensor:
    """Returns by how much compiled code moves a count of batches that the running statistics depend on: 0 or 1.

    It is an operator, since the recomputation of a compiled layer runs the code of its first pass. It takes 5 us,
    so a count that nobody reads is moved by 1 without it. An exported program has torch's addition.
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
