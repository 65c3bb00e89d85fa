"""Holds the epoch that `Compose.collate` draws for, where workers of a DataLoader see it, too."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

__all__ = ["Epoch"]


class Epoch:
    """A number in shared memory: workers that live for several epochs (persistent_workers) see each new value."""

    def __init__(self) -> None:
        self._shared = torch.zeros((), dtype=torch.int64, device="cpu")
        self._share()

    @property
    def value(self) -> int:
        return int(self._shared.numpy())

    @value.setter
    def value(self, epoch: int) -> None:
        self._shared.numpy()[()] = epoch

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy, or an unpickled object. Where a worker is spawned, the memory is that of the parent already.
        self.__dict__.update(state)
        self._share()

    def _share(self) -> None:
        # Without shared memory, workers cannot send tensors either.
        with contextlib.suppress(OSError, RuntimeError):
            self._shared.share_memory_()  # type: ignore[no-untyped-call]
