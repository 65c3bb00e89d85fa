"""Dropout, Dropout1d, 2d, 3d, AlphaDropout, FeatureAlphaDropout: torch.nn's modules without a stored mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

import torch
from torch import Tensor

from onepass._arguments import as_flag
from onepass.nn._call.checks import check_probability, check_scaling
from onepass.nn._call.exporting import is_scripting, refuse_sampled
from onepass.nn._call.shards import agreed_seed, is_sharded
from onepass.nn._call.tracing import node_for
from onepass.nn.dropout import _exported, functions

__all__ = [
    "OURS",
    "AlphaDropout",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "DropoutModule",
    "FeatureAlphaDropout",
]


class DropoutModule(torch.nn.Module):
    """The common base of all our dropouts; each is also torch's class of its name."""

    # Attributes that TorchScript takes as constants, also those of the class.
    __constants__: ClassVar[list[str]] = ["p", "inplace", "scaling", "planes", "batched"]
    function: ClassVar[Callable[..., Tensor]]
    p: float
    inplace: bool
    scaling: str
    # Whether channels are dropped, and how many dimensions an input with a batch has, where that is not all.
    planes: bool = False
    batched: int = 0
    # Whether all ranks draw what the first one draws.
    same_across_ranks = False
    # `mc_dropout` sets it: the next seed of the network that is being sampled.
    _thinned: Callable[[torch.nn.Module], int] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Returns what copies and pickles get, without the tie to an `mc_dropout` block."""
        return {name: value for name, value in self.__dict__.items() if name != "_thinned"}

    def __prepare_scriptable__(self) -> DropoutModule:
        """Refuses, before TorchScript compiles anything, what it cannot express."""
        refuse_sampled(self)
        return self

    def _composed(
        self, input: Tensor, residual: Tensor | None, generator: torch.Generator | None, seed: int | Tensor | None
    ) -> Tensor:
        """`forward` by torch's operators, for TorchScript, which compiles it."""
        if self.training and (generator is not None or seed is not None):
            raise ValueError("dropout: generator and seed must be None in TorchScript, got one")
        alone = input.dim() < self.batched
        output = _exported.dropout(
            input.unsqueeze(0) if alone else input,
            self.p,
            self.training,
            self.inplace,
            self.scaling,
            residual.unsqueeze(0) if residual is not None and alone else residual,
            self.planes,
        )
        return output.squeeze(0) if alone else output

    def _apply_dropout(self, input: Tensor, **options: object) -> Tensor:
        cls = type(self)
        if self._thinned is not None:
            options = {**options, "seed": self._thinned(self), "generator": None, "shared": True}
            # Never in place: the next network needs the input that this one had.
            return cls.function(input, self.p, True, False, **options)
        if self.same_across_ranks and self.training and self.p > 0:
            # A DTensor's ranks agree by themselves.
            given = options["seed"] is not None or options["generator"] is not None or is_sharded(input)
            options = options if given else {**options, "seed": agreed_seed(input)}
        return cls.function(input, self.p, self.training, self.inplace, **options)


class _Scaled(DropoutModule):
    """The dropouts that set elements to 0."""

    scaling: str = "inverted"

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        scaling: str = "inverted",
        same_across_ranks: bool = False,
    ) -> None:
        check_probability(type(self).__name__, "p", p)
        check_scaling(type(self).__name__, scaling)
        super().__init__(p, inplace)
        self.scaling = scaling
        self.same_across_ranks = as_flag(type(self).__name__, "same_across_ranks", same_across_ranks)

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
    ) -> Tensor:
        """Drops, and adds the residual; see the function of `onepass.nn.functional` with the module's name.

        Args:
            input: x.
            residual: r, of x's shape and dtype, or None for 0.
            generator: Draws the seed instead of torch's default generator of the device.
            seed: The seed itself.

        Returns:
            y, of x's shape and dtype.
        """
        if not is_scripting():
            # Not for the regular call, whose tensors are plain.
            if type(input) is not Tensor or (residual is not None and type(residual) is not Tensor):
                node = node_for(self, input, residual=residual, generator=generator, seed=seed)
                if node is not None:
                    return cast(Tensor, node)
            return self._apply_dropout(
                input, residual=residual, generator=generator, seed=seed, scaling=self.scaling
            )
        return self._composed(input, residual, generator, seed)

    def extra_repr(self) -> str:
        """Returns what print shows."""
        shown = f"p={self.p}, inplace={self.inplace}"
        shown = shown if self.scaling == "inverted" else f"{shown}, scaling={self.scaling!r}"
        return f"{shown}, same_across_ranks=True" if self.same_across_ranks else shown


class _Alpha(DropoutModule):
    """The dropouts that keep mean 0 and variance 1."""

    scaling = "alpha"

    def __init__(self, p: float = 0.5, inplace: bool = False, *, same_across_ranks: bool = False) -> None:
        check_probability(type(self).__name__, "p", p)
        super().__init__(p, inplace)
        self.same_across_ranks = as_flag(type(self).__name__, "same_across_ranks", same_across_ranks)

    def forward(
        self,
        input: Tensor,
        generator: torch.Generator | None = None,
        seed: int | Tensor | None = None,
    ) -> Tensor:
        """Drops; see the function of `onepass.nn.functional` with the module's name.

        Args:
            input: x.
            generator: Draws the seed instead of torch's default generator of the device.
            seed: The seed itself.

        Returns:
            y, of x's shape and dtype.
        """
        if not is_scripting():
            if type(input) is not Tensor:
                node = node_for(self, input, generator=generator, seed=seed)
                if node is not None:
                    return cast(Tensor, node)
            return self._apply_dropout(input, generator=generator, seed=seed)
        return self._composed(input, None, generator, seed)


class Dropout(_Scaled, torch.nn.Dropout):
    r"""Sets elements to 0 with probability p in training, scales the others, and adds a residual in the same pass.

    .. math::
        y_i = \begin{cases} r_i & \text{with probability } p \\ x_i / (1 - p) + r_i & \text{else} \end{cases}

    Nothing is kept for the backward pass but the seed. Shapes and dtypes are those of
    `onepass.nn.functional.dropout`; ``forward(input, residual=None, generator=None, seed=None)`` takes the rest.

    Args:
        p: Probability of an element to become 0, from 0 to 1.
        inplace: Whether to write into the input.
        scaling: ``"inverted"``: what is kept is divided by 1 - p in training, and evaluation changes nothing.
            ``"test_time"``: it is kept as it is in training, and evaluation multiplies by 1 - p.
        same_across_ranks: Whether all ranks of torch.distributed drop the same elements, by one broadcast of 8
            bytes a call. By default each rank draws from its own generator. A DTensor's ranks agree anyway.

    Raises:
        ValueError: p or scaling is out of range; in ``forward`` whatever functional.dropout refuses.

    Differs from torch: the mask is another one for the same seed, and is the same on any device and in any layout.
    The residual is part of the pass. What else differs is listed at `onepass.nn.functional.dropout`.

    Source: Srivastava et al. 2014; torch.nn.Dropout.

    Example:
        >>> import torch
        >>> from onepass.nn import Dropout
        >>> drop = Dropout(0.5)
        >>> x = torch.ones(2, 3)
        >>> drop(x, seed=1).equal(drop(x, seed=1))
        True
    """

    function = functions.dropout


class Dropout1d(_Scaled, torch.nn.Dropout1d):
    """Sets whole channels of (N, C, L) or (C, L) to 0 with probability p, and adds a residual.

    The formula is that of `onepass.nn.functional.dropout1d`.

    Args:
        p: Probability of a channel to become 0, from 0 to 1.
        inplace: Whether to write into the input.
        scaling: ``"inverted"`` or ``"test_time"``, as in `Dropout`.
        same_across_ranks: Whether all ranks drop the same channels, as in `Dropout`.

    Raises:
        ValueError: p or scaling is out of range; in ``forward`` the input has another number of dimensions.

    Differs from torch: the mask is another one for the same seed, and the residual is part of the pass.

    Source: Tompson et al. 2015; torch.nn.Dropout1d.

    Example:
        >>> import torch
        >>> from onepass.nn import Dropout1d
        >>> Dropout1d(0.5).eval()(torch.ones(2, 3, 5)).unique()  # evaluation changes nothing
        tensor([1.])
    """

    function = functions.dropout1d
    planes, batched = True, 3


class Dropout2d(_Scaled, torch.nn.Dropout2d):
    """Sets whole channels of (N, C, H, W) or (N, C, L) to 0 with probability p, and adds a residual.

    The formula is that of `onepass.nn.functional.dropout2d`.

    Args:
        p: Probability of a channel to become 0, from 0 to 1.
        inplace: Whether to write into the input.
        scaling: ``"inverted"`` or ``"test_time"``, as in `Dropout`.
        same_across_ranks: Whether all ranks drop the same channels, as in `Dropout`.

    Raises:
        ValueError: p or scaling is out of range; in ``forward`` the input has another number of dimensions.

    Differs from torch: the mask is another one for the same seed, and the residual is part of the pass. A wrong
    number of dimensions raises ValueError, where torch warns.

    Source: Tompson et al. 2015; torch.nn.Dropout2d.

    Example:
        >>> import torch
        >>> from onepass.nn import Dropout2d
        >>> Dropout2d(0.5).eval()(torch.ones(2, 3, 4, 4)).unique()  # evaluation changes nothing
        tensor([1.])
    """

    function = functions.dropout2d
    planes, batched = True, 3


class Dropout3d(_Scaled, torch.nn.Dropout3d):
    """Sets whole channels of (N, C, D, H, W) or (C, D, H, W) to 0 with probability p, and adds a residual.

    The formula is that of `onepass.nn.functional.dropout3d`.

    Args:
        p: Probability of a channel to become 0, from 0 to 1.
        inplace: Whether to write into the input.
        scaling: ``"inverted"`` or ``"test_time"``, as in `Dropout`.
        same_across_ranks: Whether all ranks drop the same channels, as in `Dropout`.

    Raises:
        ValueError: p or scaling is out of range; in ``forward`` the input has another number of dimensions.

    Differs from torch: the mask is another one for the same seed, and the residual is part of the pass. A wrong
    number of dimensions raises ValueError, where torch warns.

    Source: Tompson et al. 2015; torch.nn.Dropout3d.

    Example:
        >>> import torch
        >>> from onepass.nn import Dropout3d
        >>> Dropout3d(0.5).eval()(torch.ones(2, 3, 2, 2, 2)).unique()  # evaluation changes nothing
        tensor([1.])
    """

    function = functions.dropout3d
    planes, batched = True, 5


class AlphaDropout(_Alpha, torch.nn.AlphaDropout):
    """Sets elements to SELU's lower limit with probability p, then restores mean 0 and variance 1.

    The formula is that of `onepass.nn.functional.alpha_dropout`.

    Args:
        p: Probability of an element to be dropped, from 0 to 1.
        inplace: Whether to write into the input.
        same_across_ranks: Whether all ranks drop the same elements, as in `Dropout`.

    Raises:
        ValueError: p is not in [0, 1].

    Differs from torch: the mask is another one for the same seed, and `inplace` is done, which torch's module
    ignores.

    Source: Klambauer et al. 2017; torch.nn.AlphaDropout.

    Example:
        >>> import torch
        >>> from onepass.nn import AlphaDropout
        >>> x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
        >>> abs(AlphaDropout(0.3)(x, seed=1).mean().item()) < 0.02
        True
    """

    function = functions.alpha_dropout


class FeatureAlphaDropout(_Alpha, torch.nn.FeatureAlphaDropout):
    """Sets whole channels of (N, C, ...) to SELU's lower limit, then restores mean 0 and variance 1.

    The formula is that of `onepass.nn.functional.alpha_dropout`, with one draw a channel.

    Args:
        p: Probability of a channel to be dropped, from 0 to 1.
        inplace: Whether to write into the input.
        same_across_ranks: Whether all ranks drop the same elements, as in `Dropout`.

    Raises:
        ValueError: p is not in [0, 1].

    Differs from torch: the mask is another one for the same seed, and `inplace` is done, which torch's module
    ignores.

    Source: Klambauer et al. 2017; torch.nn.FeatureAlphaDropout.

    Example:
        >>> import torch
        >>> from onepass.nn import FeatureAlphaDropout
        >>> y = FeatureAlphaDropout(0.5)(torch.ones(2, 3, 4), seed=1)
        >>> y.amax(2).equal(y.amin(2))  # a channel is kept or dropped as a whole
        True
    """

    function = functions.feature_alpha_dropout
    planes = True


# torch's classes and ours.
OURS: dict[type[torch.nn.Module], type[DropoutModule]] = {
    torch.nn.Dropout: Dropout,
    torch.nn.Dropout1d: Dropout1d,
    torch.nn.Dropout2d: Dropout2d,
    torch.nn.Dropout3d: Dropout3d,
    torch.nn.AlphaDropout: AlphaDropout,
    torch.nn.FeatureAlphaDropout: FeatureAlphaDropout,
}
