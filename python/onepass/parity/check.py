"""Cases for other people's test suites: every trap and every accuracy row of an implementation as one test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from onepass._implementation import stands_for
from onepass.parity import any_layer, any_optim
from onepass.parity.case import Case, Wrong
from onepass.parity.harness import Row, is_fault
from onepass.parity.layer import Layer
from onepass.parity.subject import Subject
from onepass.parity.traps import LAYER_TRAPS, OPTIMIZER_TRAPS, Trap

__all__ = ["check_batch_norm", "check_cross_entropy", "check_dropout", "check_optimizer", "trap_cases"]

_STEPS, _BATCHES = 20, 3


def check_optimizer(
    cls: Callable[..., Any],
    *,
    as_: str | None = None,
    strict: bool = False,
    device: torch.device | str = "cpu",
    **options: Any,
) -> list[Case]:
    """Makes a test case of each silent fault that an optimizer may have, and of each set of options.

    The reference is torch's plain loop (``foreach=False, fused=False``) in float64. A result may be twice as far
    from it as the same loop in the implementation's dtype is, plus one unit in the last place a step.

    Args:
        cls: The optimizer's class, or a function that makes one of parameters and options.
        as_: The rule that it stands for: the name of a class of `onepass.optim` in small letters, as ``adamw``. By
            default its name says it, or its base class of torch.
        strict: Whether a case fails where torch's plain loop is wrong, too: lost updates of bfloat16 weights.
        device: Where the parameters are.
        **options: Arguments for `cls`, in every case that does not set them itself.

    Returns:
        The cases, traps first. `Case.check` runs one: it raises AssertionError for a silent fault, and
        unittest.SkipTest where the implementation refuses with an error.

    Raises:
        ValueError: `as_` is another word, or neither it nor name nor base class say which rule it is.

    Example:
        >>> import pytest
        >>> import torch
        >>> import onepass.parity
        >>> cases = onepass.parity.check_optimizer(torch.optim.AdamW, foreach=False)
        >>> @pytest.mark.parametrize("case", cases)
        ... def test_case(case):
        ...     case.check()
        >>> [case.name for case in cases][:3]
        ['plain_steps', 'bias_correction', 'betas']
    """
    rule = stands_for(cls, as_, options, option="check_optimizer: as_")
    subject = Subject(cls, rule, options, torch.device(device))
    cases = trap_cases(OPTIMIZER_TRAPS, rule, subject, subject.torchs(), strict)
    for dtype in any_optim.DTYPES:
        for own in any_optim.option_sets(rule):
            measured = partial(any_optim.measure, subject, dtype, own, _STEPS)
            words = (
                f"accuracy {str(dtype).removeprefix('torch.')} {any_optim.options_text(own).replace(', ', ',')}"
            )
            name = words.replace(" ", "-")
            cases.append(_accuracy_case(name, measured, strict))
    return cases


def check_batch_norm(
    implementation: Callable[..., Any],
    *,
    strict: bool = False,
    device: torch.device | str = "cpu",
    **options: Any,
) -> list[Case]:
    """Makes a test case of each silent fault that a batch norm may have, and of each input of its accuracy.

    Args:
        implementation: A module's class with torch's arguments, parameters and buffers, or a function with the
            arguments of `torch.nn.functional.batch_norm` by place. A class named 1d or 3d gets inputs of as many
            dimensions, any other one images.
        strict: Whether a case fails where torch is wrong, too.
        device: Where it runs.
        **options: More arguments for `implementation`.

    Returns:
        The cases, as those of `check_optimizer`.

    Example:
        >>> import torch
        >>> import onepass.parity
        >>> [case.name for case in onepass.parity.check_batch_norm(torch.nn.BatchNorm2d)][:2]
        ['plain_training', 'plain_evaluation']
    """
    return _layer_cases(Layer(implementation, "batch_norm", options, torch.device(device)), strict)


def check_dropout(
    implementation: Callable[..., Any],
    *,
    strict: bool = False,
    device: torch.device | str = "cpu",
    **options: Any,
) -> list[Case]:
    """Makes a test case of each silent fault that a dropout of single elements may have, and of its accuracy.

    Args:
        implementation: A module's class that takes p, or a function that takes input, p and training by place.
        strict: Whether a case fails where torch is wrong, too.
        device: Where it runs.
        **options: More arguments for `implementation`.

    Returns:
        The cases, as those of `check_optimizer`.

    Example:
        >>> import torch
        >>> import onepass.parity
        >>> [case.name for case in onepass.parity.check_dropout(torch.nn.Dropout)][:2]
        ['rate', 'scale']
    """
    return _layer_cases(Layer(implementation, "dropout", options, torch.device(device)), strict)


def check_cross_entropy(
    implementation: Callable[..., Any],
    *,
    strict: bool = False,
    device: torch.device | str = "cpu",
    **options: Any,
) -> list[Case]:
    """Makes a test case of each silent fault that a cross-entropy may have, and of each input of its accuracy.

    Args:
        implementation: A module's class, or a function that takes logits and target by place; either takes torch's
            options by name.
        strict: Whether a case fails where torch is wrong, too.
        device: Where it runs.
        **options: More arguments for `implementation`.

    Returns:
        The cases, as those of `check_optimizer`.

    Example:
        >>> import torch
        >>> import onepass.parity
        >>> cases = onepass.parity.check_cross_entropy(torch.nn.functional.cross_entropy)
        >>> {case.run().verdict for case in cases if case.name in ("ignore_index", "confident_label")} - {"right"}
        {'as torch'}
    """
    return _layer_cases(Layer(implementation, "cross_entropy", options, torch.device(device)), strict)


def _layer_cases(layer: Layer, strict: bool) -> list[Case]:
    cases = trap_cases(LAYER_TRAPS[layer.op], layer.op, layer, layer.torchs(), strict)
    for rule, text, call in any_layer.measurements(layer):
        for dtype in any_layer.DTYPES:
            words = f"accuracy {str(dtype).removeprefix('torch.')} {rule} {text}"
            name = words.replace(",", "").replace(" ", "-")
            measured = partial(any_layer.measure, rule, text, call, dtype, _BATCHES)
            cases.append(_accuracy_case(name, measured, strict))
    return cases


def trap_cases(traps: Sequence[Trap], rule: str, subject: Any, torchs: Any, strict: bool = False) -> list[Case]:
    """Makes cases of those traps that concern a rule.

    Args:
        traps: The traps.
        rule: The rule.
        subject: What is judged.
        torchs: torch's own as a subject.
        strict: As in `check_optimizer`.
    """
    return [
        Case(
            trap.name,
            trap.what,
            trap.source,
            partial(trap.body, subject),
            partial(trap.body, torchs),
            strict,
            trap.required,
        )
        for trap in traps
        if trap.concerns(rule)
    ]


def _accuracy_case(name: str, measured: Callable[[], Sequence[Row]], strict: bool) -> Case:
    def body() -> None:
        broken = [row for row in measured() if is_fault(row, strict)]
        if broken:
            row = max(broken, key=lambda one: one.share_of_limit)
            raise Wrong(
                f"{row.tensor} is off by {row.ours_abs:.2g} (torch: {row.torch_abs:.2g}), "
                f"in step {row.worst_step} {row.share_of_limit:.3g} times what is allowed"
            )

    return Case(name, "Is as near to float64 as the parity rule demands.", "docs/numerics.md", body, strict=strict)
