"""`fuse`: runs batch norms and what stands behind them in forward code in one pass each."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from onepass._arguments import check_module
from onepass.nn.fusion.check import as_call, difference, outputs_of
from onepass.nn.fusion.report import Fusion
from onepass.nn.fusion.survey import Survey
from onepass.nn.surgery.convert import OURS

__all__ = ["fuse"]


def fuse(model: nn.Module, example_inputs: Any = None) -> Fusion:
    """Runs batch norms and the additions, ReLUs and dropouts behind them in one pass each, in place.

    It records the forward of every module that has batch norms, by torch.fx, without the forwards of its parts.
    Where an addition, a ReLU or a dropout follows a batch norm, as a module or as a function, the module gets a
    forward in which one call computes all of them. A recording is used only if it is all that the forward does.
    Code with context managers, side effects, random numbers, or control flow that depends on data stays as it is,
    and is listed.

    What is fused becomes ours: batch norms and dropouts change their class as with `convert`. The modules around
    them get a class of their own name with the rewritten forward. Each call checks that what was recorded still
    holds, attributes and parts of the module, and runs the module's own forward otherwise. Modules with hooks are
    called by themselves. Parameters, buffers, ``state_dict``, hooks, ``train()``, copies, pickles,
    DistributedDataParallel and FSDP work as before.

    Args:
        model: Any module.
        example_inputs: A tensor, a tuple of arguments or a dict of them by name. The model is run with them before
            and after, without gradients, in evaluation and in training, to check that it computes the same.
            Its buffers and torch's generators are as before afterwards. None for no such check.

    Returns:
        A table of all batch norms, with ``revert()``; ``print`` shows it. `revert` does without it.

    Raises:
        TypeError: model is no module, or example_inputs is of another kind.
        RuntimeError: The model computes something else with example_inputs. It is as before then.

    Differs from torch: torch has no such function. Dropouts that are fused draw other masks for the same seed.

    Source: none; torch.ao.quantization.fuse_modules takes names, and folds batch norms for evaluation.

    Example:
        >>> import torch
        >>> from onepass.nn import fuse
        >>> class Block(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv, self.norm = torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.BatchNorm2d(8)
        ...
        ...     def forward(self, x):
        ...         return torch.relu(self.norm(self.conv(x)) + x)
        >>> print(fuse(Block(), torch.randn(2, 8, 6, 6)))
        norm  BatchNorm2d  fused with add, ReLU  in the model itself (Block)
    """
    check_module("fuse", "model", model)
    call = None if example_inputs is None else as_call("fuse", example_inputs)
    survey = Survey(model)
    result = Fusion(survey.table)
    fault = ""
    try:
        for name, module in survey.layers:
            result._modules.append((name, module))
            module.__class__ = cast(Any, OURS[type(module)])
        expected = None if call is None else outputs_of(model, call)
        for name, module, kind, chains in survey.plans:
            if type(module) is not kind:
                result._modules.append((name, module))
                module.__class__ = cast(Any, kind)
            if chains:
                module._chains = True  # type: ignore[assignment]
        if call is not None and expected is not None:
            fault = difference(expected, outputs_of(model, call))
    except BaseException:
        result.revert()
        raise
    if fault:
        result.revert()
        raise RuntimeError(f"fuse: model must compute the same with example_inputs, got {fault}")
    return result
