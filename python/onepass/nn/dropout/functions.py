"""The functions of dropout, which `onepass.nn.functional` offers."""

from __future__ import annotations

import warnings
from typing import Any, cast

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from onepass.nn._call.checks import check_scaling, check_tensor
from onepass.nn.dropout import _call
from onepass.nn.dropout._checks import check_dimensions

__all__ = ["alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout"]


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    residual: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    scaling: str = "inverted",
    shared: bool = False,
) -> Tensor:
    r"""Sets elements to 0 with probability p, scales the others, and adds a residual, in one pass.

    .. math::
        y_i = \begin{cases} r_i & \text{with probability } p \\ x_i / (1 - p) + r_i & \text{else} \end{cases}

    Which elements are dropped is a function of the seed and of an element's index in x's logical order: the same
    on any device, in any layout, with any number of threads, eager or compiled. The backward pass computes it
    again: nothing is kept for it but the seed. P(dropped) is p to 2^-40.

    Args:
        input: x, of any shape: float32, float64, bfloat16 or float16. Contiguous and channels_last tensors, and
            transposes of the last two dimensions, are taken as they are; others are copied first.
        p: Probability of an element to be dropped, from 0 to 1.
        training: Whether to drop at all.
        inplace: Whether to write into x.
        residual: r, of x's shape and dtype, or None for 0. Its gradient is that of y.
        generator: Draws the seed instead of torch's default generator of the device.
        seed: The seed itself: 0 to 2**64 - 1, or an int64 tensor of one element on x's device. Seed and generator
            do nothing where nothing is drawn: without training, or with p = 0.
        scaling: ``"inverted"`` as above. ``"test_time"``: what is kept is not divided in training, and
            without training y = (1 - p) x + r.
        shared: Whether all x[n] have the draws of x[0], as if x were one network's batch (`mc_dropout`).

    Returns:
        y, of x's shape and dtype: x itself where nothing happens to it.

    Raises:
        ValueError: p is not in [0, 1]; scaling is unknown; seed and generator are both given; seed is out of
            range; residual has another shape.
        TypeError: A dtype is not supported, or residual's is not x's; a tensor is sparse or nested.
        RuntimeError: inplace with a leaf that requires grad.

    Differs from torch: the mask is not torch's for the same seed. Dropped elements are 0 also where x is not
    finite. Integer, complex, sparse and nested tensors are refused where something is to be computed (with p = 1,
    too); else they come back, as with torch.

    Source: Srivastava et al. 2014; torch.nn.functional.dropout.

    Example:
        >>> import torch
        >>> from onepass.nn.functional import dropout
        >>> x = torch.ones(1000)
        >>> y = dropout(x, 0.25, seed=1)
        >>> y.equal(dropout(x, 0.25, seed=1))
        True
        >>> sorted(set(y.tolist()))
        [0.0, 1.3333333730697632]
    """
    check_scaling("dropout", scaling)
    if has_torch_function_variadic(input, residual):
        options = {"generator": generator, "seed": seed, "scaling": scaling, "shared": shared}
        return _handled(dropout, input, p, training, inplace, residual=residual, **options)
    return _call.dropout(
        "dropout",
        input,
        p,
        training,
        inplace,
        scaling,
        residual,
        generator=generator,
        seed=seed,
        shared=shared,
    )


def dropout1d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    residual: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    scaling: str = "inverted",
    shared: bool = False,
) -> Tensor:
    """Sets whole channels of (N, C, L) or (C, L) to 0 with probability p; arguments as `dropout`.

    Raises:
        ValueError: x has another number of dimensions; what `dropout` raises.

    Differs from torch: the mask is another one for the same seed, and the residual is part of the pass.

    Source: Tompson et al. 2015; torch.nn.functional.dropout1d.

    Example:
        >>> import torch
        >>> from onepass.nn.functional import dropout1d
        >>> y = dropout1d(torch.ones(2, 3, 5), 0.5, seed=1)
        >>> y.flatten(2).amax(2).equal(y.flatten(2).amin(2))  # a channel is kept or dropped as a whole
        True
    """
    check_scaling("dropout1d", scaling)
    if has_torch_function_variadic(input, residual):
        options = {"generator": generator, "seed": seed, "scaling": scaling, "shared": shared}
        return _handled(dropout1d, input, p, training, inplace, residual=residual, **options)
    check_dimensions("dropout1d", input, (2, 3))
    return _call.channels(
        "dropout1d",
        input,
        3,
        p,
        training,
        inplace,
        scaling,
        residual,
        generator=generator,
        seed=seed,
        shared=shared,
    )


def dropout2d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    residual: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    scaling: str = "inverted",
    shared: bool = False,
) -> Tensor:
    """Sets whole channels of (N, C, H, W) to 0 with probability p; arguments as `dropout`.

    Three dimensions are (N, C, L), as in torch, with a warning, as in torch.

    Raises:
        ValueError: x has another number of dimensions (torch: a warning); what `dropout` raises.

    Differs from torch: the mask is another one for the same seed, and the residual is part of the pass. A wrong
    number of dimensions raises ValueError, where torch warns.

    Source: Tompson et al. 2015; torch.nn.functional.dropout2d.

    Example:
        >>> import torch
        >>> from onepass.nn.functional import dropout2d
        >>> y = dropout2d(torch.ones(2, 3, 4, 4), 0.5, seed=1)
        >>> y.flatten(2).amax(2).equal(y.flatten(2).amin(2))  # a channel is kept or dropped as a whole
        True
    """
    check_scaling("dropout2d", scaling)
    if has_torch_function_variadic(input, residual):
        options = {"generator": generator, "seed": seed, "scaling": scaling, "shared": shared}
        return _handled(dropout2d, input, p, training, inplace, residual=residual, **options)
    check_dimensions("dropout2d", input, (3, 4))
    if input.dim() == 3:
        warnings.warn(
            "dropout2d: input with 3 dimensions is taken as (N, C, L), as torch does; dropout1d says so",
            stacklevel=2,
        )
    return _call.channels(
        "dropout2d",
        input,
        3,
        p,
        training,
        inplace,
        scaling,
        residual,
        generator=generator,
        seed=seed,
        shared=shared,
    )


def dropout3d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    residual: Tensor | None = None,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    scaling: str = "inverted",
    shared: bool = False,
) -> Tensor:
    """Sets whole channels of (N, C, D, H, W) or (C, D, H, W) to 0 with probability p; arguments as `dropout`.

    Raises:
        ValueError: x has another number of dimensions (torch: a warning); what `dropout` raises.

    Differs from torch: the mask is another one for the same seed, and the residual is part of the pass. A wrong
    number of dimensions raises ValueError, where torch warns.

    Source: Tompson et al. 2015; torch.nn.functional.dropout3d.

    Example:
        >>> import torch
        >>> from onepass.nn.functional import dropout3d
        >>> y = dropout3d(torch.ones(2, 3, 2, 2, 2), 0.5, seed=1)
        >>> y.flatten(2).amax(2).equal(y.flatten(2).amin(2))  # a channel is kept or dropped as a whole
        True
    """
    check_scaling("dropout3d", scaling)
    if has_torch_function_variadic(input, residual):
        options = {"generator": generator, "seed": seed, "scaling": scaling, "shared": shared}
        return _handled(dropout3d, input, p, training, inplace, residual=residual, **options)
    check_dimensions("dropout3d", input, (4, 5))
    return _call.channels(
        "dropout3d",
        input,
        5,
        p,
        training,
        inplace,
        scaling,
        residual,
        generator=generator,
        seed=seed,
        shared=shared,
    )


def alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    shared: bool = False,
) -> Tensor:
    r"""Sets elements to SELU's lower limit with probability p, then restores mean 0 and variance 1.

    .. math::
        y_i = a z_i + b, \quad z_i = -\alpha' \text{ with probability } p, \text{ else } x_i

    with alpha' = 1.7581, a = ((1 - p)(1 + p alpha'^2))^(-1/2), b = a p alpha'. With p = 1 all is 0, as in torch.

    Args:
        input: x, of any shape; dtypes and layouts are those of `dropout`.
        p: Probability of an element to be dropped, from 0 to 1.
        training: Whether to drop at all; False by default, as in torch.
        inplace: Whether to write into x.
        generator: Draws the seed instead of torch's default generator of the device.
        seed: The seed itself: 0 to 2**64 - 1, or an int64 tensor of one element on x's device.
        shared: Whether all x[n] have the draws of x[0].

    Returns:
        y, of x's shape and dtype.

    Raises:
        ValueError: p is not in [0, 1]; seed and generator are both given; seed is out of range.
        TypeError: A dtype is not supported, or x is sparse or nested.
        RuntimeError: inplace with a leaf that requires grad.

    Differs from torch: the mask is another one for the same seed, and is the same on any device and in any layout.

    Source: Klambauer et al. 2017; torch.nn.functional.alpha_dropout.

    Example:
        >>> import torch
        >>> from onepass.nn.functional import alpha_dropout
        >>> x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
        >>> abs(alpha_dropout(x, 0.3, training=True, seed=1).std().item() - 1) < 0.02
        True
    """
    if has_torch_function_variadic(input):
        return _handled(alpha_dropout, input, p, training, inplace, generator=generator, seed=seed, shared=shared)
    return _call.dropout(
        "alpha_dropout",
        input,
        p,
        training,
        inplace,
        "alpha",
        generator=generator,
        seed=seed,
        shared=shared,
    )


def feature_alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    shared: bool = False,
) -> Tensor:
    """Sets whole channels of (N, C, ...) to SELU's lower limit, then restores mean 0 and variance 1.

    The formula is that of `alpha_dropout`, with one draw for all of x[n, c].

    Args:
        input: x, of at least 2 dimensions; dtypes and layouts are those of `dropout`.
        p: Probability of a channel to be dropped, from 0 to 1.
        training: Whether to drop at all; False by default, as in torch.
        inplace: Whether to write into x.
        generator: Draws the seed instead of torch's default generator of the device.
        seed: The seed itself: 0 to 2**64 - 1, or an int64 tensor of one element on x's device.
        shared: Whether all x[n] have the draws of x[0].

    Returns:
        y, of x's shape and dtype.

    Raises:
        ValueError: x has fewer than 2 dimensions where something is dropped; p is not in [0, 1]; seed and
            generator are both given; seed is out of range.
        TypeError: A dtype is not supported, or x is sparse or nested.
        RuntimeError: inplace with a leaf that requires grad.

    Differs from torch: the mask is another one for the same seed, and is the same on any device and in any layout.

    Source: Klambauer et al. 2017; torch.nn.functional.feature_alpha_dropout.

    Example:
        >>> import torch
        >>> from onepass.nn.functional import feature_alpha_dropout
        >>> y = feature_alpha_dropout(torch.ones(2, 3, 4), 0.5, training=True, seed=1)
        >>> y.amax(2).equal(y.amin(2))  # a channel is kept or dropped as a whole
        True
    """
    if has_torch_function_variadic(input):
        return _handled(
            feature_alpha_dropout, input, p, training, inplace, generator=generator, seed=seed, shared=shared
        )
    check_tensor("feature_alpha_dropout", "input", input)
    if input.dim() < 2 and training and p != 0:
        raise ValueError(f"feature_alpha_dropout: input must have at least 2 dimensions, got {input.dim()}")
    return _call.dropout(
        "feature_alpha_dropout",
        input,
        p,
        training,
        inplace,
        "alpha",
        planes=True,
        generator=generator,
        seed=seed,
        shared=shared,
    )


def _handled(function: Any, input: Tensor, p: float, training: bool, inplace: bool, **options: Any) -> Tensor:
    """Makes the call by __torch_function__ of one of its tensors or of a mode."""
    tensors = (input, options.get("residual"))
    result = handle_torch_function(function, tensors, input, p=p, training=training, inplace=inplace, **options)
    return cast(Tensor, result)
