"""Seeds of random layers: drawn from torch's generators, so that its seeding and saved states hold for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch._functorch.config
from torch import Tensor

from onepass._seed import check_seed
from onepass.nn._call.checks import check_generator

__all__ = ["Seed", "later", "seed_for"]

# A number, an int64 tensor of one element, or a function that draws such a tensor once all checks are done.
Seed = int | Tensor | Callable[[], Tensor]

# torch gives these methods no types.
_library = cast(Any, torch.library).Library("onepass", "FRAGMENT")


def seed_for(
    function: str, input: Tensor, generator: torch.Generator | None = None, seed: int | Tensor | None = None
) -> Tensor:
    """Returns a seed on the input's device, as an int64 tensor of one element.

    On a GPU the number stays there: nobody waits for it, and a replayed CUDA graph draws another one.

    Args:
        function: The caller, for messages.
        input: The tensor whose device counts.
        generator: Draws the seed; None for torch's default generator of the device.
        seed: The seed itself, if the caller has one.

    Raises:
        ValueError: seed and generator are both given, or the seed is not of one element on this device, or not
            within 0 to 2**64 - 1.
        TypeError: The seed is neither an integer nor an int64 tensor, or generator is no generator.
    """
    check_generator(function, generator)
    if seed is None:
        if generator is None and torch.compiler.is_compiling():
            # It is an operator because the compiler would draw torch.randint from a stream of its own.
            return cast(Tensor, torch.ops.onepass.draw_seed(input))
        return _draw(input, generator)
    if generator is not None:
        raise ValueError(f"{function}: one of generator and seed must be None, got both")
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64:
            raise TypeError(f"{function}: seed must be torch.int64, got {seed.dtype}")
        if seed.numel() != 1 or seed.device != input.device:
            raise ValueError(
                f"{function}: seed must have one element on {input.device}, got shape {tuple(seed.shape)} "
                f"on {seed.device}"
            )
        return seed
    check_seed(function, seed, "an int or an int64 tensor")
    # The same 64 bits as an int64. They are filled in on the device: a copy from the host would wait for it.
    return torch.full((1,), seed - (seed >> 63 << 64), dtype=torch.int64, device=input.device)


def later(function: str, input: Tensor, generator: torch.Generator | None) -> Callable[[], Tensor]:
    """Returns what draws `seed_for`'s seed; kernels call it after their checks: a rejected call draws nothing."""
    check_generator(function, generator)
    return partial(_draw, input, generator)


def _draw(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    return torch.empty(1, dtype=torch.int64, device=like.device).random_(generator=generator)


def _fake(like: Tensor) -> Tensor:
    # A compiler runs this when it traces the operator.
    budget = getattr(torch._functorch.config, "activation_memory_budget", 1)
    if budget < 1 and torch.is_grad_enabled():
        raise RuntimeError(
            "onepass: dropout must get its seed by seed= under torch.compile with activation_memory_budget "
            f"below 1, got {budget}: the backward pass might draw another one (pytorch/pytorch#190758)"
        )
    return torch.empty(1, dtype=torch.int64, device=like.device)


# The tag lets activation checkpointing in compiled code save and restore the generator around it.
_library.define("draw_seed(Tensor like) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
_library.impl("draw_seed", _draw, "CPU")
_library.impl("draw_seed", _draw, "CUDA")
_library._register_fake("draw_seed", _fake)
