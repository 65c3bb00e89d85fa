"""CrossEntropyLoss: torch.nn's module with second labels, z-loss and statistics in the same pass."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from onepass.nn._call.checks import check_optional
from onepass.nn._call.exporting import is_scripting, refuse
from onepass.nn._call.tracing import node_for
from onepass.nn.cross_entropy import _exported, functions
from onepass.nn.cross_entropy._statistics import LossStatistics

__all__ = ["CrossEntropyLoss", "LossStatistics"]


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """Computes the cross-entropy of logits and targets; reads the logits once, and once more for the gradient.

    Formula, shapes and dtypes are those of `onepass.nn.functional.cross_entropy`; ``forward(input, target,
    target2=None, lam=None)`` takes the tensors.

    Args:
        weight: Of shape (C): rescales each class.
        size_average: Deprecated, as in torch.
        ignore_index: The label that does not count.
        reduce: Deprecated, as in torch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        label_smoothing: 0 to 1: how much of the target is spread over all classes.
        z_loss: Factor, at least 0, of the squared log-sum-exp.
        inplace_backward: Whether the gradient is written over the logits.
        return_stats: Whether `forward` returns ``(loss, LossStatistics)``.

    Raises:
        ValueError: In ``forward`` whatever functional.cross_entropy refuses: the arguments are checked when they
            are used, as torch does.

    Differs from torch: the loss of half precision logits is float32 and reads them without a copy, ignored rows
    have the gradient 0 whatever their logits are, and second labels, z-loss and statistics are part of the pass.
    What else differs is listed at `onepass.nn.functional.cross_entropy`.

    Source: torch.nn.CrossEntropyLoss.

    Example:
        >>> import torch
        >>> from onepass.nn import CrossEntropyLoss
        >>> loss = CrossEntropyLoss(label_smoothing=0.1)
        >>> logits = torch.zeros(3, 4, requires_grad=True)
        >>> round(loss(logits, torch.tensor([0, 1, -100])).item(), 4)  # the last row does not count
        1.3863
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        z_loss: float = 0.0,
        inplace_backward: bool = False,
        return_stats: bool = False,
    ) -> None:
        check_optional(type(self).__name__, weight=weight)
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.z_loss = z_loss
        self.inplace_backward = inplace_backward
        self.return_stats = return_stats

    def __prepare_scriptable__(self) -> CrossEntropyLoss:
        """Refuses, before TorchScript compiles anything, what it cannot express."""
        for option in ("z_loss", "inplace_backward", "return_stats"):
            if value := getattr(self, option):
                refuse("CrossEntropyLoss", option, f"{type(value)()}", value)
        return self

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        target2: Tensor | None = None,
        lam: float | Tensor | None = None,
    ) -> Tensor:
        """Computes the loss.

        Args:
            input: Logits, of shape (C), (N, C) or (N, C, d1, ...).
            target: Labels of the shape without C, or probabilities of the input's shape.
            target2: Second labels, of the shape of the first.
            lam: Weight of the first label, a number or of shape (N,).

        Returns:
            The loss; with return_stats the pair of the loss and `LossStatistics`, which the annotation leaves out:
            TorchScript, which has none, takes it for the type.
        """
        if not is_scripting():
            # Not for the regular call, whose tensors are plain.
            if type(input) is not Tensor or type(target) is not Tensor or target2 is not None:
                node = node_for(self, input, target, target2=target2, lam=lam)
                if node is not None:
                    return cast(Tensor, node)
            return functions.cross_entropy(  # type: ignore[return-value]
                input,
                target,
                self.weight,
                ignore_index=self.ignore_index,
                reduction=self.reduction,
                label_smoothing=self.label_smoothing,
                target2=target2,
                lam=lam,
                z_loss=self.z_loss,
                inplace_backward=self.inplace_backward,
                return_stats=self.return_stats,
            )
        if target2 is not None or lam is not None:
            raise ValueError("cross_entropy: target2 and lam must be None in TorchScript, got one")
        return _exported.cross_entropy(
            input, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )
