"""The bandwidth of the machine while competitors are timed: plain loops over the same number of bytes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from onepass import _native

__all__ = ["Step", "copy_probe", "probe", "taps_probe", "widen_probe"]

# A call that is timed.
Step = Callable[[], object]

# Elements by which each array of the bandwidth probe begins later than the one before: 16 KiB and five lines.
# malloc's large blocks all begin at the same offset in a page. Walked side by side, they compete for the same
# lines of the cache, which made the probe a third slower than the steps that it judges.
_STAGGER = 4096 + 80


def probe(total: int, writes: int, device: torch.device) -> Step:
    """Makes the bandwidth probe, a loop that reads one array and updates others.

    On CUDA it is a copy that moves as many bytes: the core's probe runs only on the CPU.

    Args:
        total: Bytes read and written by a call.
        writes: How many arrays are updated.
        device: Where the arrays are.
    """
    if device.type == "cuda":
        source = torch.zeros(total // 2, dtype=torch.int8, device=device)
        target = torch.zeros_like(source)
        return lambda: target.copy_(source)
    numel = total // (1 + 2 * writes) // 4
    arrays = [torch.randn(numel + i * _STAGGER)[i * _STAGGER :] for i in range(1 + writes)]
    return lambda: _native.core.probe(arrays[:1], arrays[1:], torch.get_num_threads())


def copy_probe(total: int, device: torch.device) -> Step:
    """Makes the probe of a copy, a loop that reads one array and writes another.

    An operation that does not work in place cannot be faster than this; `probe`, which does, can.

    Args:
        total: Bytes read and written by a call.
        device: Where the arrays are.
    """
    if device.type == "cuda":
        return probe(total, 1, device)
    numel = total // 2 // 4
    source, target = torch.randn(numel), torch.zeros(numel)
    return lambda: _native.core.probe_copy(source, target, torch.get_num_threads())


def widen_probe(numel: int) -> Step:
    """Makes the probe of a loop that reads uint8 and writes float32 on the CPU: 5 bytes an element.

    Args:
        numel: Elements of both arrays.
    """
    source, target = torch.zeros(numel, dtype=torch.uint8), torch.zeros(numel)
    return lambda: _native.core.probe_widen(source, target, torch.get_num_threads())


def taps_probe(count: int, side: int) -> Step:
    """Makes the probe of a loop that reads the taps of turned images and writes 12 bytes a pixel on the CPU.

    It does what every bilinear rotation of uint8 images to float32 has to do, and no arithmetic but that of the
    places: eight bytes of the upper and of the lower row a pixel, at slanted places.

    Args:
        count: Number of images.
        side: Their height and width.
    """
    numel = count * side * side * 3
    source, target = torch.zeros(numel, dtype=torch.uint8), torch.zeros(numel)
    return lambda: _native.core.probe_taps(source, target, side, torch.get_num_threads())
