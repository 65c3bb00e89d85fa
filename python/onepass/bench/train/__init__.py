"""Whole steps of training, next to torch's: forward, loss, backward, optimizer.

The models are a small GPT (vocabulary 32,000, 4 layers of 256, 1,024 tokens; AdamW), ResNet-18 (32 images of
3x32x32, three layouts and dtypes; SGD with momentum), an MLP with residuals (width 512, batch 4096, batch norm,
ReLU, dropout; AdamW), and a chain of 1x1 convolution, batch norm, ReLU, 1x1 convolution without an optimizer.

Competitors: ``ours``, our layers, loss and optimizer; ``torch``; ``torch-fused``, with torch's fused optimizer.
With ``--compile`` also model and loss under torch.compile: ``compile``, ``compile-fused``, ``ours-compile``. Each
is there twice: with malloc as users have it, and as ``NAME (freed memory kept)`` after `keep_freed_memory`. Each
lives in a process of its own and they take turns.

Besides the times: page faults of a step, the time to the first step (model and optimizer made, imports not
counted), bytes kept for backward, the peak of resident memory, and from torch's profiler the seconds of a step by
family of operations and by operation. ``outside`` is what is outside matrix products, convolutions and attention:
what a layer, a loss or an optimizer can change. It is measured in steps of its own, since the profiler takes time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch

from onepass.bench.case import Case
from onepass.bench.harness import quantile
from onepass.bench.probe import Step
from onepass.bench.train import shown
from onepass.bench.train.profile import FAMILIES, outside
from onepass.bench.train.shown import KEPT
from onepass.bench.train.training import VARIANTS, WORKS, Work
from onepass.bench.train.worker import Worker

__all__ = ["KEPT", "PROFILED", "cases"]

# Steps of each competitor under the profiler; medians are taken.
PROFILED = 5


def cases(device: torch.device) -> list[Case]:
    """Lists all cases.

    Args:
        device: The CPU: on a GPU torch's own allocator keeps freed memory, and the profiler would have to ask it.

    Raises:
        ValueError: The device is another one.
    """
    if device.type != "cpu":
        raise ValueError(f"train: device must be cpu, got {device}")
    return [_case(work) for work in WORKS]


def _case(work: Work) -> Case:
    def setup(compiled: bool = False) -> dict[str, Step]:
        found: dict[str, Step] = {}
        for is_kept in (False, True):
            for name, variant in VARIANTS.items():
                # A chain has no optimizer.
                if variant.compiled == compiled and (work.classes or not variant.fused):
                    found[f"{name} ({KEPT})" if is_kept else name] = Worker(work.name, name, is_kept)
        return found

    return Case(
        name=work.name,
        bytes_moved=None,
        rounds=work.rounds,
        setup=setup,
        more_compiled=lambda: setup(True),
        figures=_figures,
        table=shown.table,
        plot=shown.plot,
        in_processes=True,
        states=(KEPT,),
    )


def _figures(competitors: Mapping[str, Step], rounds: int) -> dict[str, dict[str, Any]]:
    """Profiles the competitors by turns, and collects what each process knows."""
    workers = cast("Mapping[str, Worker]", competitors)
    profiles: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for _ in range(min(PROFILED, rounds)):
        for name, worker in workers.items():
            profiles[name].append(worker.profile())
    found = {}
    for name, worker in workers.items():
        median = sorted(profiles[name], key=lambda one: one["seconds"])[len(profiles[name]) // 2]
        found[name] = {
            "page_faults": quantile([float(faults) for faults in worker.faults[-rounds:]], 0.5),
            "outside_seconds": quantile([outside(one["families"]) for one in profiles[name]], 0.5),
            "families": {
                family: quantile([one["families"][family] for one in profiles[name]], 0.5) for family in FAMILIES
            },
            "operations": median["operations"],
            **worker.facts(),
        }
    return found
