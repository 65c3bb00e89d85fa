"""Folds a batch norm in evaluation into the convolution or linear layer before it."""

from __future__ import annotations

import copy
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import type_before_parametrizations

from onepass._memory import check_memory
from onepass.nn._call.altered import why_altered
from onepass.nn.batch_norm import OURS, FusedBatchNorm

__all__ = ["fold"]

_Layer = TypeVar("_Layer", bound=nn.Module)

# Layers that a batch norm may follow, by the number of its spatial dimensions.
_LAYERS: dict[type[nn.Module], tuple[type[nn.Module], ...]] = {
    nn.BatchNorm1d: (nn.Linear, nn.Conv1d, nn.ConvTranspose1d),
    nn.BatchNorm2d: (nn.Conv2d, nn.ConvTranspose2d),
    nn.BatchNorm3d: (nn.Conv3d, nn.ConvTranspose3d),
}
# Our classes' counterparts.
_TORCHS: dict[type[nn.Module], type[nn.Module]] = {ours: torchs for torchs, ours in OURS.items()}
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def fold(layer: _Layer, batch_norm: nn.Module) -> _Layer | nn.Sequential:
    r"""Makes one layer that computes what a layer and the batch norm behind it compute in evaluation.

    .. math::
        W' = W \cdot \frac{w}{\sqrt{\mathrm{var} + \epsilon}} \qquad
        b' = (b - \mathrm{mean}) \cdot \frac{w}{\sqrt{\mathrm{var} + \epsilon}} + \mathrm{bias}

    for each output channel, computed in float64 and rounded once.

    Args:
        layer: nn.Linear (before a BatchNorm1d, on inputs of shape (N, features)), or an nn.Conv or
            nn.ConvTranspose of the batch norm's number of dimensions, with any groups and padding.
        batch_norm: torch's BatchNorm1d, 2d or 3d, or ours, with running statistics and in evaluation mode.

    Returns:
        A new layer with its own parameters, of the old one's class, dtypes and device; with a batch norm of
        ours that applies ReLU, an nn.Sequential of it and an nn.ReLU. Both arguments stay as they are.

    Raises:
        TypeError: The two are not of these classes, or do not go together.
        ValueError: The batch norm is in training mode, has no running statistics, or has another number of
            channels than the layer's output; one of the two has a forward of its own, hooks on what it computes,
            or weights that are computed in each call (parametrizations; weight_norm, spectral_norm and pruning,
            old and new), by name.
        RuntimeError: The batch norm is within an `mc_dropout` block.

    Source: torch.nn.utils.fusion.fuse_conv_bn_eval has this for convolutions, in the layer's dtype.

    Example:
        >>> import torch
        >>> from onepass.nn import fold
        >>> linear, norm = torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3).eval()
        >>> x = torch.randn(2, 4)
        >>> torch.allclose(fold(linear, norm)(x), norm(linear(x)), atol=1e-6)
        True
    """
    _check(layer, batch_norm)
    norm = cast(_BatchNorm, batch_norm)
    folded = copy.deepcopy(layer)
    with torch.no_grad():
        scale = (cast(Tensor, norm.running_var).double() + norm.eps).rsqrt()
        if norm.weight is not None:
            scale = scale * norm.weight.double()
        weight = cast(Tensor, layer.weight)
        bias = torch.zeros_like(scale) if layer.bias is None else cast(Tensor, layer.bias).double()
        bias = (bias - cast(Tensor, norm.running_mean).double()) * scale
        if norm.bias is not None:
            bias = bias + norm.bias.double()
        folded.weight = nn.Parameter((weight.double() * _per_output(scale, layer)).to(weight.dtype))
        folded.bias = nn.Parameter(bias.to(weight.dtype))
    for name in ("weight", "bias"):
        old = getattr(layer, name)
        getattr(folded, name).requires_grad_(weight.requires_grad if old is None else old.requires_grad)
    if isinstance(norm, FusedBatchNorm) and norm.activation is not None:
        return nn.Sequential(folded, nn.ReLU())
    return folded


def _per_output(scale: Tensor, layer: nn.Module) -> Tensor:
    """Returns the scales in a shape that goes with the layer's weight."""
    dims = cast(Tensor, layer.weight).dim()
    if not isinstance(layer, _TRANSPOSED):
        return scale.view([-1] + [1] * (dims - 1))
    # (in, out / groups, ...), the inputs of a group one after another.
    groups = scale.view(layer.groups, 1, -1)
    each = groups.expand(-1, layer.in_channels // layer.groups, -1).reshape(layer.in_channels, -1)
    return each.view(list(each.shape) + [1] * (dims - 2))


def _check(layer: nn.Module, batch_norm: nn.Module) -> None:
    kind = type_before_parametrizations(batch_norm)
    kind = _TORCHS.get(kind, kind)
    if kind not in _LAYERS:
        raise TypeError(f"fold: batch_norm must be torch's BatchNorm1d, 2d or 3d, or ours, got {kind.__name__}")
    if type_before_parametrizations(layer) not in _LAYERS[kind]:
        names = ", ".join(one.__name__ for one in _LAYERS[kind])
        raise TypeError(f"fold: layer must be one of {names} before {kind.__name__}, got {type(layer).__name__}")
    if getattr(batch_norm, "_thinned", None) is not None:
        raise RuntimeError("fold: batch_norm must not be within an mc_dropout block, got one that is")
    for which, module in (("layer", layer), ("batch_norm", batch_norm)):
        altered = why_altered(module)
        if altered:
            raise ValueError(
                f"fold: {which} must compute what its class and its own tensors say, got {type(module).__name__} "
                f"with {altered}"
            )
    if batch_norm.training:
        raise ValueError("fold: batch_norm must be in evaluation mode, got training mode")
    if batch_norm.running_mean is None or batch_norm.running_var is None:
        raise ValueError("fold: batch_norm must have running statistics, got none")
    for owner, which, parts in (
        (layer, "layer", ("weight", "bias")),
        (batch_norm, "batch_norm", ("weight", "bias", "running_mean", "running_var")),
    ):
        for part in parts:
            if isinstance(tensor := getattr(owner, part), Tensor):
                check_memory(f"fold: {which}.{part}", tensor)
                if tensor.device != layer.weight.device:
                    raise ValueError(
                        f"fold: {which}.{part} must be on {layer.weight.device} like layer.weight, got "
                        f"{tensor.device}"
                    )
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    if batch_norm.num_features != outputs:
        raise ValueError(
            f"fold: batch_norm must have {outputs} channels like the layer's output, got {batch_norm.num_features}"
        )
