"""LayerNorm and RMSNorm: torch.nn's modules with a residual and dropout in the same pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from onepass._arguments import told
from onepass.nn._call.checks import check_number, check_probability, check_tensor
from onepass.nn._call.exporting import asked, refuse, refuse_sampled
from onepass.nn._call.tracing import node_for
from onepass.nn.dropout._call import dropout as drop
from onepass.nn.row_norm import _exported
from onepass.nn.row_norm._call import normalise

__all__ = ["OURS", "LayerNorm", "RMSNorm", "RowNormModule"]


class RowNormModule(torch.nn.Module):
    """The common base of both modules; each is also torch's class of its name."""

    dropout: float = 0.0
    # What errors call it.
    _function: ClassVar[str] = "layer_norm"
    normalized_shape: tuple[int, ...]
    eps: Any
    # `mc_dropout` sets it: the next seed of the network that is being sampled.
    _thinned: Callable[[torch.nn.Module], int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Returns what copies and pickles get, without the tie to an `mc_dropout` block."""
        return {name: value for name, value in self.__dict__.items() if name != "_thinned"}

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """Returns torch's module with the same parameters, which TorchScript compiles in this one's place."""
        refuse_sampled(self)
        if self.dropout:
            refuse(type(self).__name__, "dropout", "0", self.dropout)
        kind = next(torchs for torchs, ours in OURS.items() if isinstance(self, ours))
        module = kind.__new__(kind)
        module.__dict__ = {name: value for name, value in self.__dict__.items() if name != "dropout"}
        return module

    def _run(self, input: Tensor, residual: Tensor | None) -> Any:
        """`forward` of both modules."""
        # Not for the regular call, whose tensors are plain.
        if type(input) is not Tensor or (residual is not None and type(residual) is not Tensor):
            node = node_for(self, input, residual=residual)
            if node is not None:
                return node
            check_tensor(self._function, "input", input)
        centred, parameters = self._function == "layer_norm", self._parameters
        weight = _own(self, parameters, "weight")
        bias = _own(self, parameters, "bias") if centred else None
        p = self.dropout if self.training else 0.0
        if self.dropout and residual is None:
            raise ValueError(
                f"{self._function}: residual must be given to a module with dropout={self.dropout}, got None"
            )
        if asked._is_exporting_flag:
            refuse_sampled(self)
            eps = _eps_of(self.eps, input)
            return _exported.row_norm(
                self._function,
                input,
                self.normalized_shape,
                weight,
                bias,
                residual,
                eps,
                self.dropout,
                self.training,
            )
        if self._thinned is not None:
            input = drop(
                self._function,
                input,
                self.dropout,
                True,
                False,
                "inverted",
                residual=residual,
                seed=self._thinned(self),
                shared=True,
            )
            output = normalise(centred, input, self.normalized_shape, weight, bias, None, self.eps, 0.0)
            return output, input
        return normalise(centred, input, self.normalized_shape, weight, bias, residual, self.eps, p)

    def extra_repr(self) -> str:
        """Returns torch's text, and our option where it is set."""
        text: str = super().extra_repr()
        return text + (f", dropout={self.dropout}" if self.dropout else "")


def _own(module: torch.nn.Module, parameters: Mapping[str, Any], name: str) -> Tensor | None:
    """Returns a parameter, without the 0.8 us that an attribute of a module takes to be found.

    Parametrised or sharded modules have it only as an attribute.
    """
    return cast(Tensor | None, parameters[name] if name in parameters else getattr(module, name))


def _eps_of(eps: float | None, input: Tensor) -> float:
    if eps is not None:
        return eps
    return torch.finfo(torch.float64 if input.dtype == torch.float64 else torch.float32).eps


def _check_options(module: str, normalized_shape: Any, eps: Any, dropout: Any) -> None:
    alone = isinstance(normalized_shape, Integral)
    if not alone and (isinstance(normalized_shape, str) or not isinstance(normalized_shape, Iterable)):
        raise TypeError(
            f"{module}: normalized_shape must be an integer or a list of integers, got {told(normalized_shape)}"
        )
    sizes = [normalized_shape] if alone else list(normalized_shape)
    if not sizes or any(isinstance(one, bool) or not isinstance(one, Integral) or one < 0 for one in sizes):
        raise ValueError(
            f"{module}: normalized_shape must have at least 1 dimension, of sizes of at least 0, got "
            f"{told(normalized_shape)}"
        )
    if eps is not None or module == "LayerNorm":
        check_number(module, "eps", eps)
        if eps != eps:
            raise ValueError(f"{module}: eps must be a number, got {eps}")
    check_probability(module, "dropout", dropout)


class LayerNorm(RowNormModule, torch.nn.LayerNorm):
    r"""Normalises each row by its mean and variance, behind dropout and the addition of a residual.

    .. math::
        h = r + \operatorname{dropout}(x), \qquad
        y = \frac{h - \mathrm{E}[h]}{\sqrt{\mathrm{Var}[h] + \epsilon}} \cdot w + b

    ``forward(input)`` returns y; ``forward(input, residual)`` returns (y, h), so that the next block has its
    residual. Shapes and dtypes are those of `onepass.nn.functional.layer_norm`.

    Args:
        normalized_shape: The sizes of the last dimensions, which a row has; an integer for one.
        eps: Added to the variance.
        elementwise_affine: Whether there are weight (initially 1) and bias (initially 0).
        bias: False for no bias.
        device: Device of the parameters.
        dtype: Dtype of the parameters. Half precision inputs go with float32 ones, the default, as in torch.
        dropout: Probability that an element of x becomes 0 in training, before r is added; the others are divided
            by 1 - dropout. The seed is drawn from torch's generator of the device.

    Raises:
        ValueError: normalized_shape, eps or dropout is out of range; in ``forward`` whatever
            functional.layer_norm refuses, and a call without a residual with dropout.

    Differs from torch: residual and dropout are part of the pass. Dropout is an option, not state: ``state_dict``
    is torch's, both ways. TorchScript gets torch's module. What the numbers differ in is listed at
    `onepass.nn.functional.layer_norm`.

    Source: Ba, Kiros and Hinton 2016; torch.nn.LayerNorm.

    Example:
        >>> import torch
        >>> from onepass.nn import LayerNorm
        >>> norm = LayerNorm(8, dropout=0.1)
        >>> x = torch.randn(2, 4, 8)
        >>> y, h = norm(x, residual=x)
        >>> y.shape, h.shape
        (torch.Size([2, 4, 8]), torch.Size([2, 4, 8]))
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        dropout: float = 0.0,
    ) -> None:
        _check_options("LayerNorm", normalized_shape, eps, dropout)
        shape = cast(Any, normalized_shape)
        super().__init__(shape, eps, elementwise_affine, bias, device=device, dtype=dtype)
        self.dropout = dropout

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Any:
        """Normalises the input, behind dropout and the addition of the residual; see functional.layer_norm.

        Args:
            input: x, of shape (..., normalized_shape).
            residual: r, of x's shape and dtype, or None.

        Returns:
            y, of x's shape and dtype; with a residual (y, h).
        """
        return self._run(input, residual)


class RMSNorm(RowNormModule, torch.nn.RMSNorm):
    r"""Divides each row by its root mean square, behind dropout and the addition of a residual.

    .. math::
        h = r + \operatorname{dropout}(x), \qquad
        y = \frac{h}{\sqrt{\mathrm{E}[h^2] + \epsilon}} \cdot w

    ``forward(input)`` returns y; ``forward(input, residual)`` returns (y, h), so that the next block has its
    residual. Shapes and dtypes are those of `onepass.nn.functional.rms_norm`.

    Args:
        normalized_shape: The sizes of the last dimensions, which a row has; an integer for one.
        eps: Added to the mean of squares; None for the epsilon of float64 with a float64 input, else of float32.
        elementwise_affine: Whether there is a weight (initially 1).
        device: Device of the weight.
        dtype: Dtype of the weight. Half precision inputs go with a float32 one, the default, as in torch.
        dropout: Probability that an element of x becomes 0 in training, before r is added; the others are divided
            by 1 - dropout. The seed is drawn from torch's generator of the device.

    Raises:
        ValueError: normalized_shape, eps or dropout is out of range; in ``forward`` whatever
            functional.rms_norm refuses, and a call without a residual with dropout.

    Differs from torch: as `LayerNorm` does.

    Source: Zhang and Sennrich 2019; torch.nn.RMSNorm.

    Example:
        >>> import torch
        >>> from onepass.nn import RMSNorm
        >>> RMSNorm(8)(torch.randn(2, 4, 8)).shape
        torch.Size([2, 4, 8])
    """

    _function: ClassVar[str] = "rms_norm"

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        dropout: float = 0.0,
    ) -> None:
        _check_options("RMSNorm", normalized_shape, eps, dropout)
        shape = cast(Any, normalized_shape)
        super().__init__(shape, eps, elementwise_affine, device=device, dtype=dtype)
        self.dropout = dropout

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Any:
        """Normalises the input, behind dropout and the addition of the residual; see functional.rms_norm.

        Args:
            x: x, of shape (..., normalized_shape).
            residual: r, of x's shape and dtype, or None.

        Returns:
            y, of x's shape and dtype; with a residual (y, h).
        """
        return self._run(x, residual)


# torch's classes and ours.
OURS: dict[type[torch.nn.Module], type[RowNormModule]] = {
    torch.nn.LayerNorm: LayerNorm,
    torch.nn.RMSNorm: RMSNorm,
}
