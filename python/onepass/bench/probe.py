"""The bandwidth that a machine has while competitors are timed: plain loops over as many bytes."""

from __future__ import annotations

import torch

from onepass import _native
from onepass.bench.harness import Step

__all__ = ["copy_probe", "probe"]

# Elements by which each array of the bandwidth probe begins later than the one before: 16 KiB and five lines.
# malloc's large blocks all begin at the same place of a page; walked side by side they fight for the same lines
# of the cache, and the probe was a third slower than the steps it is there to judge.
_STAGGER = 4096 + 80


def probe(total: int, writes: int, device: torch.device) -> Step:
    """The bandwidth probe: one array read and `writes` arrays updated, that make `total` bytes together.

    On CUDA it is a copy that moves as many bytes in total: the core's probe runs on the CPU alone.
    """
    if device.type == "cuda":
        source = torch.zeros(total // 2, dtype=torch.int8, device=device)
        target = torch.zeros_like(source)
        return lambda: target.copy_(source)
    numel = total // (1 + 2 * writes) // 4
    arrays = [torch.randn(numel + i * _STAGGER)[i * _STAGGER :] for i in range(1 + writes)]
    return lambda: _native.core.probe(arrays[:1], arrays[1:], torch.get_num_threads())


def copy_probe(total: int, device: torch.device) -> Step:
    """The bandwidth of a copy: one array read and another written, `total` bytes together.

    What leaves its input as it is cannot be faster; `probe` can, which updates in place.
    """
    if device.type == "cuda":
        return probe(total, 1, device)
    numel = total // 2 // 4
    source, target = torch.randn(numel), torch.zeros(numel)
    return lambda: _native.core.probe_copy(source, target, torch.get_num_threads())
