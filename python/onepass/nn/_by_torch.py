"""Layers by torch's own operators: what torch.export, ONNX and TorchScript get, so that their tools know them.

A tool that moves an exported graph between training and evaluation rewrites torch's batch norm and dropout, and
an exporter has a table of torch's operators. So the graphs hold torch's, with its rounding and its masks. The
functions of tensors here are TorchScript, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from onepass.nn import _loss_composed

__all__ = [
    "asked",
    "batch_norm",
    "cross_entropy",
    "dropout",
    "exported_cross_entropy",
    "is_asked",
    "is_scripting",
    "refuse",
    "refuse_sampled",
    "refuse_seed",
]

# By itself: two attributes of modules take longer than the call. TorchScript knows it by identity.
is_scripting: Callable[[], bool] = torch.jit.is_scripting  # type: ignore[attr-defined]

# torch's own, also where a program has put functions of ours in their place.
_batch_norm, _relu, _cross_entropy = F.batch_norm, F.relu, F.cross_entropy
_dropout, _alpha_dropout, _feature_alpha_dropout = F.dropout, F.alpha_dropout, F.feature_alpha_dropout


def _exports() -> bool:
    """True inside torch.export of torch before 2.7, which has no flag for it."""
    from torch._dynamo.symbolic_convert import InstructionTranslator

    try:
        # What dynamo is tracing now: a graph to export, or one to compile.
        return bool(InstructionTranslator.current_tx().export)
    except (AttributeError, LookupError):
        # Without dynamo, export alone sets this one.
        return torch.compiler.is_compiling()


# Dynamo calls it while tracing, and takes its result as a constant.
_exports._dynamo_marked_constant = True  # type: ignore[attr-defined]


class _Asked:
    """torch.compiler's flag where torch has none."""

    @property
    def _is_exporting_flag(self) -> bool:
        return torch.compiler.is_compiling() and _exports()


# `asked._is_exporting_flag` is True inside torch.export, strict or not, and False inside torch.compile. Dynamo
# reads the flag when it traces; `is_exporting`, which returns it, is True for dynamo of some versions in both.
asked: Any = torch.compiler if hasattr(torch.compiler, "_is_exporting_flag") else _Asked()


def is_asked() -> bool:
    """True inside torch.export, and inside torch.onnx.export's older exporter, which traces."""
    if asked._is_exporting_flag:
        return True
    if torch.compiler.is_compiling():
        return False
    return torch._C._get_tracing_state() is not None and _is_onnx()


def _is_onnx() -> bool:
    """True inside torch.onnx.export."""
    return torch.onnx.is_in_onnx_export()


_is_onnx._dynamo_marked_constant = True  # type: ignore[attr-defined]


_LOSSES = ("cross_entropy", "CrossEntropyLoss")


def refuse(name: str, option: str, wanted: str, got: object) -> None:
    """Raises for what no operator of torch's does."""
    way = (
        "torch.nn.CrossEntropyLoss has none"
        if name in _LOSSES
        else "onepass.nn.revert(model) gives torch's layers"
    )
    raise RuntimeError(
        f"{name}: {option} must be {wanted} under torch.export, torch.onnx.export and torch.jit.script, for which "
        f"torch has no operator, got {got}; {way}"
    )


def refuse_seed(function: str, generator: torch.Generator | None, seed: int | Tensor | None) -> None:
    """Raises for what tells torch's dropout nothing: it draws from the default generator where the graph runs."""
    if generator is not None:
        refuse(function, "generator", "None", generator)
    if seed is not None:
        refuse(function, "seed", "None", seed)


def refuse_sampled(module: torch.nn.Module) -> None:
    """Raises for a module within `mc_dropout`, whose masks are a function of the network's number."""
    if getattr(module, "_thinned", None) is not None:
        refuse(type(module).__name__, "the module", "outside of mc_dropout", "one within")


def check_residual(function: str, input: Tensor, residual: Tensor) -> None:
    """Raises for what torch's sum would broadcast or promote, as the kernels do."""
    if residual.dtype != input.dtype or residual.shape != input.shape:
        raise ValueError(
            f"{function}: residual must have input's dtype and shape {input.dtype} {list(input.shape)}, "
            f"got {residual.dtype} {list(residual.shape)}"
        )


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    batch_statistics: bool,
    momentum: float,
    eps: float,
    activation: str | None,
    dropout: float,
    training: bool,
) -> Tensor:
    """`functional.batch_norm`, where dropout may be idle: tools that move a graph to training look for it."""
    output = _batch_norm(input, running_mean, running_var, weight, bias, batch_statistics, momentum, eps)
    if residual is not None:
        check_residual("batch_norm", input, residual)
        output = output + residual
    if activation is not None:
        output = _relu(output)
    if dropout > 0:
        output = _dropout(output, dropout, training)
    return output


def dropout(
    input: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    scaling: str,
    residual: Tensor | None,
    planes: bool,
) -> Tensor:
    """`functional.dropout` and its kin."""
    direct = inplace and residual is None and scaling != "test_time"
    if scaling == "alpha" and planes:
        output = _feature_alpha_dropout(input, p, training, direct)
    elif scaling == "alpha":
        output = _alpha_dropout(input, p, training, direct)
    elif not planes:
        output = _dropout(input, p, training, direct)
    elif direct:
        # Not F.dropout2d, which warns of (N, C, L).
        output = torch.feature_dropout_(input, p, training)
    else:
        output = torch.feature_dropout(input, p, training)
    if scaling == "test_time":
        # Right in both modes: torch's operator divides by 1 - p in training.
        output = output * (1 - p)
    if residual is not None:
        check_residual("dropout", input, residual)
        output = output + residual
    if inplace and not direct:
        return input.copy_(output)
    return output


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    """`functional.cross_entropy` of one label or of probabilities, without what is ours."""
    x = input
    if x.dtype == torch.float16 or x.dtype == torch.bfloat16:
        x = x.float()
    if weight is not None and weight.dtype != x.dtype:
        weight = weight.to(x.dtype)
    wanted = x.dtype if target.is_floating_point() else torch.int64
    if target.dtype != wanted:
        target = target.to(wanted)
    return _cross_entropy(
        x,
        target,
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def exported_cross_entropy(
    input: Tensor,
    target: Tensor,
    target2: Tensor | None,
    lams: Tensor | None,
    lam: float,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
    return_stats: bool,
) -> Tensor:
    """`_loss_kernels.forward`'s arguments: torch's operator where it is enough, else composed of several."""
    if return_stats:
        refuse("cross_entropy", "return_stats", "False", return_stats)
    mixed = target2 is not None or z_loss != 0
    if (label_smoothing or target.is_floating_point()) and _is_onnx():
        # ONNX's loss has labels alone, and torch's newer exporter drops the smoothing without a word.
        if mixed:
            refuse("cross_entropy", "label_smoothing", "0 with target2 or z_loss", label_smoothing)
        return _smoothed(input, target, weight, ignore_index, reduction, label_smoothing)
    if not mixed:
        return cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing)
    rest = (weight, ignore_index, label_smoothing, z_loss, reduction)
    return _loss_composed.forward(input, target, target2, lams, lam, *rest)


def _smoothed(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: str, smoothing: float
) -> Tensor:
    """`cross_entropy` composed of the log-softmax: what is smoothed, or has probabilities."""
    x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    dim = min(1, x.dim() - 1)
    logs = torch.log_softmax(x, dim)
    if weight is not None:
        logs = logs * weight.to(x.dtype).view([-1] + [1] * (x.dim() - 1 - dim))
    spread = -smoothing / x.shape[dim] * logs.sum(dim)
    if target.is_floating_point():
        rows = (smoothing - 1) * (logs * target.to(x.dtype)).sum(dim) + spread
        return rows if reduction == "none" else rows.mean() if reduction == "mean" else rows.sum()
    spread = torch.where(target == ignore_index, 0, spread.view(target.shape))
    label = cross_entropy(input, target, weight, ignore_index, reduction, 0.0)
    if reduction == "none":
        return (1 - smoothing) * label + spread
    total = spread.sum()
    if reduction == "mean":
        ones = torch.ones_like(spread)
        counts = ones if weight is None else weight.to(x.dtype)[torch.where(target == ignore_index, 0, target)]
        total = total / torch.where(target == ignore_index, 0, counts).sum()
    return (1 - smoothing) * label + total
