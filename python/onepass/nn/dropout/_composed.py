"""Dropout composed of torch's operations: what torch.func and forward mode differentiate."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from onepass.nn.dropout._kernels import Options, gradient_of, run

__all__ = ["forward"]


def forward(input: Tensor, residual: Tensor | None, seed: int | Tensor, options: Options) -> Tensor:
    """Returns the result by torch's operations, which torch.func and forward mode can differentiate.

    Under vmap all that is mapped over has one mask, as with torch's randomness="same"; with another randomness
    seed_for has raised.
    """
    number = int(seed) % 2**64
    # The kernel reads memory, which tensors made within a transform hide.
    with temporarily_clear_interpreter_stack():
        ones = torch.ones(input.shape, dtype=input.dtype, device=input.device)
        slope, _ = run(ones, None, number, gradient_of(options))
        value, _ = run(ones, None, number, options)
    output = torch.where(slope != 0, input * slope, 0)
    if options.scaling == "alpha":
        output = output + (value - slope)
    return output if residual is None else output + residual
