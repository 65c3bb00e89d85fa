"""What is judged: an optimizer class with its arguments and the rule that it stands for, next to torch's loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from onepass.optim._step.plain import fused_classes, plain_class

__all__ = ["Subject", "accepts", "has_option", "reference_class"]

# Arguments that say how to compute, not what.
_HOW = ("foreach", "fused", "capturable", "differentiable")


def reference_class(rule: str) -> type[Optimizer]:
    """Returns the class whose plain loop defines a rule.

    Args:
        rule: A rule of onepass.optim: the name of a class in small letters.
    """
    return plain_class({kind.__name__.lower(): kind for kind in fused_classes()}[rule])


def has_option(rule: str, name: str) -> bool:
    """Says whether a rule has an option.

    Args:
        rule: The rule.
        name: Name of the option.
    """
    return name in inspect.signature(reference_class(rule)).parameters


def _base(rule: str) -> dict[str, Any]:
    """Returns what is given by name where a class takes it: defaults of other packages differ.

    There is no weight decay, whose faults have cases of their own.
    """
    known = inspect.signature(reference_class(rule)).parameters
    chosen = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    torchs = {name: known[name].default for name in ("betas", "eps") if name in known}
    return {**{name: value for name, value in chosen.items() if name in known}, **torchs}


def accepts(implementation: Callable[..., Any], name: str) -> bool:
    """Says whether a call may have an argument, by the signature; True where there is none.

    Args:
        implementation: A class or function.
        name: Name of the argument.
    """
    try:
        parameters = inspect.signature(implementation).parameters
    except (TypeError, ValueError):
        return True
    return name in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values())


@dataclass(frozen=True)
class Subject:
    """Makes optimizers of the implementation and of torch's plain loop with the same options."""

    implementation: Callable[..., Any]
    rule: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def torchs(self) -> Subject:
        """Returns torch's plain loop as a subject, with those of the arguments that the rule has.

        Where torch lacks the rule it is AdamW's: what is wrong there comes with torch's Optimizer.
        """
        plain = {"foreach": False, "fused": False}
        kind = reference_class(self.rule)
        if not hasattr(torch.optim, kind.__name__):
            return replace(self, implementation=torch.optim.AdamW, rule="adamw", kwargs=plain)
        known = inspect.signature(kind).parameters
        kept = {name: value for name, value in self.kwargs.items() if name in known and name not in _HOW}
        return replace(self, implementation=kind, kwargs={**kept, **plain})

    def options(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Returns all options of a case.

        Args:
            own: Those that the case sets; they go before those of the caller.
        """
        base = {name: value for name, value in _base(self.rule).items() if accepts(self.implementation, name)}
        return {**base, **self.kwargs, **own}

    def make(self, params: Any, own: Mapping[str, Any]) -> Optimizer:
        """Makes an optimizer of the implementation.

        Args:
            params: Parameters or groups.
            own: Options of the case.
        """
        made: Optimizer = self.implementation(params, **self.options(own))
        return made

    def reference(self, params: Any, own: Mapping[str, Any]) -> Optimizer:
        """Makes torch's plain loop with those of the options that the rule has.

        Args:
            params: Parameters or groups.
            own: Options of the case.
        """
        kind = reference_class(self.rule)
        known = inspect.signature(kind).parameters
        options: dict[str, Any] = {
            name: float(value) if isinstance(value, Tensor) else value
            for name, value in self.options(own).items()
            if name in known and name not in _HOW
        }
        return kind(params, foreach=False, fused=False, **options)  # type: ignore[call-arg]  # not Optimizer's own

    def param(self, values: Tensor) -> torch.nn.Parameter:
        """Makes a parameter on the device, in memory of its own with the layout of the values.

        Args:
            values: Its values.
        """
        return torch.nn.Parameter(values.detach().to(self.device, copy=True))
