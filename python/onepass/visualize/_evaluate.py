"""The loss of a model at a point of a plane; everything is as it was afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onepass._arguments import told
from onepass.monitor import Snapshot
from onepass.visualize._directions import Plane

__all__ = ["BATCH_NORM", "Evaluation"]

_NAME = "landscape"

BATCH_NORM = {
    "running": "the running statistics of the model as it is, at every point",
    "recomputed": "running statistics that are computed again at every point, from a pass over the loader",
    "batch": "the statistics of each batch, as in training",
}


class Evaluation:
    """Evaluates a model on the same batches with the same random numbers at each point."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        loader: Iterable[Any],
        plane: Plane,
        *,
        batch_norm: str,
        batches: int | None,
        generators: Iterable[torch.Generator],
    ) -> None:
        """Keeps the state of the model and of all random numbers; changes nothing."""
        self.model, self.loss_fn, self.loader, self.plane = model, loss_fn, loader, plane
        self.batch_norm, self.batches = batch_norm, batches
        self.params = list(model.parameters())
        self.norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        self.device = self.params[0].device
        self.generators = list(generators)

    @contextmanager
    def running(self) -> Iterator[Evaluation]:
        """Puts everything back at the end, also after an error or an interrupt."""
        momenta = [module.momentum for module in self.norms]
        # The snapshot wants an optimizer; this one never steps.
        self.snapshot = Snapshot(self.model, torch.optim.SGD(self.params, lr=0.0), generators=self.generators)
        try:
            yield self
        finally:
            for module, momentum in zip(self.norms, momenta, strict=True):
                module.momentum = momentum
            self._restore()

    def at(self, a: float, b: float) -> float:
        """Computes the mean loss at a point of the plane, weighted by the sizes of the batches.

        Args:
            a: How far along the first direction.
            b: How far along the second direction.
        """
        self._restore()
        with torch.no_grad():
            self.plane.shift(self.params, a, b)
            self.model.eval()
            if self.batch_norm != "running":
                self._recompute()
            total, count = 0.0, 0
            for inputs, targets in self._batches():
                loss = self.loss_fn(self.model(inputs), targets)
                if not isinstance(loss, Tensor) or loss.numel() != 1:
                    raise TypeError(f"{_NAME}: loss_fn must return a tensor of one element, got {told(loss)}")
                size = len(targets) if isinstance(targets, Tensor) and targets.dim() else 1
                total, count = total + float(loss) * size, count + size
        if not count:
            raise ValueError(f"{_NAME}: loader must have at least one batch, got none")
        return total / count

    def _recompute(self) -> None:
        """Lets batch norms use batches' statistics; computes running ones from them where those are wanted."""
        for module in self.norms:
            module.train()
            if self.batch_norm == "recomputed" and module.track_running_stats:
                module.reset_running_stats()
                module.momentum = None  # a mean over all batches
        if self.batch_norm == "recomputed" and self.norms:
            for inputs, _ in self._batches():
                self.model(inputs)
            for module in self.norms:
                module.eval()

    def _batches(self) -> Iterator[tuple[Any, Any]]:
        for i, batch in enumerate(self.loader):
            if self.batches is not None and i >= self.batches:
                return
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise TypeError(f"{_NAME}: loader must give pairs (input, target), got {type(batch).__name__}")
            inputs, targets = (part.to(self.device) if isinstance(part, Tensor) else part for part in batch)
            yield inputs, targets

    def _restore(self) -> None:
        try:
            self.snapshot.restore()
        except RuntimeError as error:
            raise RuntimeError(str(error).replace("lr_range_test", _NAME)) from None
