"""Makes param groups in which biases and the parameters of normalisations are not decayed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn

from onepass._arguments import check_module, listed, told
from onepass.optim._lists.arguments import check_range

__all__ = ["NoDecay", "no_decay_groups"]

# Chosen by type, not by name or shape: a user's own one-dimensional weight may be meant to decay.
_NORMALISATIONS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)


class NoDecay(NamedTuple):
    """Names a parameter that is not decayed, and why."""

    name: str
    """Its name in ``model.named_parameters()``."""
    reason: str
    """``bias``, the class of its module, or ``named``."""


def no_decay_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    no_decay_modules: Iterable[type[nn.Module]] = (),
    no_decay_names: Iterable[str] = (),
) -> tuple[list[dict[str, Any]], list[NoDecay]]:
    """Splits a model's parameters into those that are decayed and those that are not.

    Not decayed are biases (parameters called ``bias``, and any whose name ends in ``_bias`` or begins with
    ``bias_``, as in nn.MultiheadAttention and nn.LSTM) and all parameters of normalisation modules. Embeddings
    are decayed unless asked otherwise.

    Args:
        model: The model; frozen parameters (requires_grad False) are left out.
        weight_decay: The weight decay of the first group, at least 0.
        no_decay_modules: Further types of modules whose own parameters are not decayed, e.g. nn.Embedding.
        no_decay_names: Full names of further parameters, as in ``model.named_parameters()``.

    Returns:
        The groups for an optimizer, the decayed one first, each in the model's order (a group without parameters
        is left out); and a list of the parameters that are not decayed, for inspection.

    Raises:
        ValueError: A name is not that of a parameter of the model, or weight_decay is negative or not finite.
        TypeError: An argument is of another kind.

    Differs from torch: torch has no such function. A parameter that several modules share is not decayed if it is
    exempt in one of them.

    Example:
        >>> import torch, onepass
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
        >>> groups, exempt = onepass.optim.no_decay_groups(model, 0.01)
        >>> [(p.name, p.reason) for p in exempt]
        [('0.bias', 'bias'), ('1.weight', 'LayerNorm'), ('1.bias', 'bias')]
        >>> optimizer = onepass.optim.AdamW(groups)

    Source: Goodfellow et al. 2016, section 7.1 (biases); He et al. 2019, section 3.1 (normalisations).
    """
    check_module("no_decay_groups", "model", model)
    check_range("no_decay_groups", "weight_decay", weight_decay, 0)
    named = set(_all_of("no_decay_names", no_decay_names, str))
    kinds = (*_NORMALISATIONS, *_all_of("no_decay_modules", no_decay_modules, type))
    reasons: dict[int, str] = {}
    for module_name, module in model.named_modules(remove_duplicate=False):
        for own_name, param in module.named_parameters(recurse=False, remove_duplicate=False):
            name = f"{module_name}.{own_name}" if module_name else own_name
            if name in named:
                reasons[id(param)] = "named"
                named.discard(name)
            elif _is_bias(own_name):
                reasons.setdefault(id(param), "bias")
            elif isinstance(module, kinds):
                reasons.setdefault(id(param), type(module).__name__)
    if named:
        raise ValueError(
            f"no_decay_groups: no_decay_names must be parameters of the model, got {told(min(named))}"
        )
    decayed: list[Tensor] = []
    exempt: list[Tensor] = []
    listed: list[NoDecay] = []
    for name, param in model.named_parameters():
        if not param.requires_grad:
            continue
        if id(param) in reasons:
            exempt.append(param)
            listed.append(NoDecay(name, reasons[id(param)]))
        else:
            decayed.append(param)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": exempt, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]], listed


def _all_of(argument: str, values: Iterable[Any], kind: type) -> list[Any]:
    found = listed("no_decay_groups", argument, values, f"{kind.__name__} objects")
    for i, value in enumerate(found):
        if not isinstance(value, kind):
            raise TypeError(f"no_decay_groups: {argument}[{i}] must be a {kind.__name__}, got {told(value)}")
    return found


def _is_bias(name: str) -> bool:
    return name == "bias" or name.endswith("_bias") or name.startswith("bias_")
