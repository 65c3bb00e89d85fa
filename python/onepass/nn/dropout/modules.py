"""Dropout, Dropout1d, 2d, 3d, AlphaDropout, FeatureAlphaDropout: torch.nn's modules without a stored mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

import torch
from torch import Tensor

from onepass.nn._call.checks import check_probability, check_scaling
from onepass.nn._call.exporting import is_scripting, refuse_sampled
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
    """What all our dropouts have in common; each is also torch's class of its name."""

    # What TorchScript takes as constants, also where they are the class's.
    __constants__: ClassVar[list[str]] = ["p", "inplace", "scaling", "planes", "batched"]
    function: ClassVar[Callable[..., Tensor]]
    p: float
    inplace: bool
    scaling: str
    # Whether channels are dropped, and how many dimensions an input with a batch has, where that is not all.
    planes: bool = False
    batched: int = 0
    # `mc_dropout` sets it: the next seed of the network that is being sampled.
    _thinned: Callable[[torch.nn.Module], int] | None = None

    def __getstate__(self) -> dict[str, object]:
        """What copies and pickles get: not the tie to an `mc_dropout` block."""
        return {name: value for name, value in self.__dict__.items() if name != "_thinned"}

    def __prepare_scriptable__(self) -> DropoutModule:
        """Refuses what TorchScript cannot have, before it compiles anything."""
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
        return cls.function(input, self.p, self.training, self.inplace, **options)


class _Scaled(DropoutModule):
    """The dropouts that set elements to 0."""

    scaling: str = "inverted"

    def __init__(self, p: float = 0.5, inplace: bool = False, *, scaling: str = "inverted") -> None:
        check_probability(type(self).__name__, "p", p)
        check_scaling(type(self).__name__, scaling)
        super().__init__(p, inplace)
        self.scaling = scaling

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
        """What print shows."""
        shown = f"p={self.p}, inplace={self.inplace}"
        return shown if self.scaling == "inverted" else f"{shown}, scaling={self.scaling!r}"


class _Alpha(DropoutModule):
    """The dropouts that keep mean 0 and variance 1."""

    scaling = "alpha"

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        check_probability(type(self).__name__, "p", p)
        super().__init__(p, inplace)

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
    """Sets elements to 0 with probability p in training, adding a residual in the same pass if wanted.

    Args:
        p: Probability of an element to become 0, from 0 to 1.
        inplace: Whether to write into the input.
        scaling: ``"inverted"``: what is kept is divided by 1 - p in training, and evaluation changes nothing.
            ``"test_time"``: it is kept as it is in training, and evaluation multiplies by 1 - p.

    Raises:
        ValueError: p or scaling is none of these; in ``forward`` what `functional.dropout` raises.

    Differs from torch: see `onepass.nn.functional.dropout`.

    Source: Srivastava et al. 2014; torch.nn.Dropout.
    """

    function = functions.dropout


class Dropout1d(_Scaled, torch.nn.Dropout1d):
    """Sets channels of (N, C, L) or (C, L) to 0 with probability p; arguments as `Dropout`."""

    function = functions.dropout1d
    planes, batched = True, 3


class Dropout2d(_Scaled, torch.nn.Dropout2d):
    """Sets channels of (N, C, H, W) or (N, C, L) to 0 with probability p; arguments as `Dropout`."""

    function = functions.dropout2d
    planes, batched = True, 3


class Dropout3d(_Scaled, torch.nn.Dropout3d):
    """Sets channels of (N, C, D, H, W) or (C, D, H, W) to 0 with probability p; arguments as `Dropout`."""

    function = functions.dropout3d
    planes, batched = True, 5


class AlphaDropout(_Alpha, torch.nn.AlphaDropout):
    """Sets elements to SELU's lower limit, then restores mean and variance; see `functional.alpha_dropout`.

    Args:
        p: Probability of an element to be dropped, from 0 to 1.
        inplace: Whether to write into the input. torch's module ignores it.

    Raises:
        ValueError: p is not in [0, 1].

    Source: Klambauer et al. 2017; torch.nn.AlphaDropout.
    """

    function = functions.alpha_dropout


class FeatureAlphaDropout(_Alpha, torch.nn.FeatureAlphaDropout):
    """`AlphaDropout` of whole channels of (N, C, ...); arguments as there."""

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
