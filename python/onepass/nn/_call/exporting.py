"""Finds out who exports a layer: torch.export, ONNX and TorchScript get torch's own operators.

A tool that moves an exported graph between training and evaluation rewrites torch's batch norm and dropout, and
an exporter has a table of torch's operators. So the graphs hold torch's, with its rounding and its masks. The
functions of tensors here are TorchScript, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "asked",
    "check_residual",
    "is_asked",
    "is_onnx",
    "is_scripting",
    "refuse",
    "refuse_sampled",
    "refuse_seed",
]

# By itself: two attributes of modules take longer than the call. TorchScript knows it by identity.
is_scripting: Callable[[], bool] = torch.jit.is_scripting  # type: ignore[attr-defined]


def _exports() -> bool:
    """Returns True inside torch.export, where torch has no flag for that."""
    from torch._dynamo.symbolic_convert import InstructionTranslator

    try:
        # What dynamo is tracing now: a graph to export, or one to compile.
        return bool(InstructionTranslator.current_tx().export)
    except (AttributeError, LookupError):
        # Without dynamo, only export sets this one.
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
    """Returns True inside torch.export, and inside torch.onnx.export's older exporter, which traces."""
    if asked._is_exporting_flag:
        return True
    if torch.compiler.is_compiling():
        return False
    return torch._C._get_tracing_state() is not None and is_onnx()


def is_onnx() -> bool:
    """Returns True inside torch.onnx.export."""
    return torch.onnx.is_in_onnx_export()


is_onnx._dynamo_marked_constant = True  # type: ignore[attr-defined]


_LOSSES = ("cross_entropy", "CrossEntropyLoss")


def refuse(name: str, option: str, wanted: str, got: object) -> None:
    """Raises for an option that none of torch's operators has."""
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
    """Raises for what torch's dropout ignores: it draws from the default generator where the graph runs."""
    if generator is not None:
        refuse(function, "generator", "None", generator)
    if seed is not None:
        refuse(function, "seed", "None", seed)


def refuse_sampled(module: torch.nn.Module) -> None:
    """Raises for a module within `mc_dropout`, whose masks are a function of the network's number."""
    if getattr(module, "_thinned", None) is not None:
        refuse(type(module).__name__, "the module", "outside of mc_dropout", "one within")


def check_residual(function: str, input: Tensor, residual: Tensor) -> None:
    """Raises, as the kernels do, for a residual that torch's sum would broadcast or promote."""
    if residual.dtype != input.dtype or residual.shape != input.shape:
        raise ValueError(
            f"{function}: residual must have input's dtype and shape {input.dtype} {list(input.shape)}, "
            f"got {residual.dtype} {list(residual.shape)}"
        )
