"""Monte-Carlo dropout: predictions of many thinned networks, and how far they agree."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from onepass._arguments import check_module, told
from onepass._seed import check_seed
from onepass.nn._call.checks import check_generator, check_integer
from onepass.nn.batch_norm import FusedBatchNorm
from onepass.nn.dropout import DropoutModule
from onepass.nn.dropout._hidden import dropouts_by_number, hidden_dropout
from onepass.nn.row_norm import RowNormModule

__all__ = ["Draws", "Prediction", "mc_dropout", "mc_predict"]


class Prediction(NamedTuple):
    """Holds what `mc_predict` found: tensors of the output's shape, the entropies without classes.

    Example:
        >>> import torch
        >>> from onepass.nn import Dropout, mc_predict
        >>> prediction = mc_predict(Dropout(0.5), torch.ones(2, 3), samples=10, seed=1)
        >>> prediction.mean.shape, prediction.entropy is None
        (torch.Size([2, 3]), True)
    """

    mean: Tensor
    variance: Tensor
    """Unbiased."""
    entropy: Tensor | None
    """Entropy of the mean probabilities, in nats: the whole uncertainty. None without ``probabilities``."""
    mutual_information: Tensor | None
    """`entropy` minus the mean entropy of the samples, in nats: what the networks disagree about. None like it."""


class Draws:
    """Tells which thinned network runs; what `mc_dropout` gives.

    Each call of the model is another network, counted from 0; `set_draw` chooses one.
    """

    def __init__(self, key: int, modules: list[nn.Module], read: dict[int, str] | None = None) -> None:
        self._key = key
        # Which code reads the p of a module, by the module's id: it may drop by a function instead.
        self._read = read or {}
        self._numbers = {id(module): number for number, module in enumerate(modules)}
        self._next = 0
        self._draw = 0
        self._calls: Counter[int] = Counter()

    def set_draw(self, draw: int) -> None:
        """Makes the next call of the model run network number `draw`.

        Raises:
            ValueError: draw is negative.
            TypeError: draw is not an int.
        """
        if isinstance(draw, bool) or not isinstance(draw, int):
            raise TypeError(f"set_draw: draw must be an int, got {told(draw)}")
        if draw < 0:
            raise ValueError(f"set_draw: draw must be at least 0, got {draw}")
        self._next = draw

    def begin(self) -> None:
        """Notes that the model is being called."""
        self._draw = self._next
        self._next += 1
        self._calls.clear()

    def end(self) -> None:
        """Notes that the model has been called.

        Raises:
            ValueError: A dropout was not called whose p the model's code reads.
        """
        missed = [reader for one, reader in self._read.items() if not self._calls[self._numbers[one]]]
        if missed:
            raise ValueError(
                "mc_dropout: model must drop by calling its dropouts, not by functions of their p, got "
                f"{', '.join(missed)}; attention does so where it runs as one function, and p = 0 does without it"
            )

    def seed(self, module: nn.Module) -> int:
        """Returns the seed of a dropout's next mask: made of key, network, layer, and call within the model's."""
        number = self._numbers[id(module)]
        call = self._calls[number]
        self._calls[number] += 1
        text = f"{self._key} {self._draw} {number} {call}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


class _Hook:
    """Tells draws that a model's call begins or ends; in a copy of the model it does nothing."""

    def __init__(self, tell: Callable[[], None] | None = None) -> None:
        self._tell = tell

    def __call__(self, *_: object) -> None:
        if self._tell is not None:
            self._tell()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, ()


@contextmanager
def mc_dropout(
    model: nn.Module, *, generator: torch.Generator | None = None, seed: int | None = None
) -> Iterator[Draws]:
    """Makes a model's dropouts active and everything else, batch norm above all, evaluate, within a with block.

    Each call of the model is one thinned network: its masks are a function of the key, of the number of the call,
    of the layer and of an element's index within its example. So all examples of a batch meet the same network,
    and an example's prediction does not depend on its neighbours in the batch, nor on the batch's size.

    The first dimension of what dropouts get is the batch. Dropouts are onepass's (`convert` makes torch's such),
    and batch norms with ``dropout=``; within the block none works in place. Training flags are put back at the
    end. What a module's own code drops by calling functions cannot be made active. It is seen by the numbers that
    ``forward`` and the methods which it calls read of the module or of an object in it (``self.config.dropout``):
    those above 0 with "dropout" in their name, and with "drop" where that code calls a dropout. A number that the
    constructor alone uses, or that is only tested, is none; a constant in the code is not seen. Where code reads
    the p of a dropout, as attention does that may run as one function, the first call shows whether it was called.
    A copy of the model made within the block is an evaluating model of its own.

    Args:
        model: Any module.
        generator: Draws the key instead of torch's default generator of the CPU.
        seed: The key itself, 0 to 2**64 - 1.

    Yields:
        `Draws`, whose ``set_draw(k)`` repeats network k.

    Raises:
        ValueError: The model has no dropout with p > 0; it has dropouts that this cannot make active (torch's,
            also those inside of attention and recurrent layers, those in a module's own code, ours with a forward
            of their own), by name; seed and generator are both given; seed is out of range. At the end of a call
            of the model: its code read the p of a dropout and did not call it.
        TypeError: seed is not an int.
        RuntimeError: The model is within another `mc_dropout` block.

    Source: Gal and Ghahramani 2016.

    Example:
        >>> import torch
        >>> from onepass.nn import Dropout, mc_dropout
        >>> model, x = Dropout(0.5), torch.ones(2, 3)
        >>> with mc_dropout(model, seed=1) as draws:
        ...     first, second = model(x), model(x)
        ...     draws.set_draw(0)
        ...     again = model(x)
        >>> again.equal(first)
        True
    """
    modules, read = _dropouts_of(model)
    draws = Draws(_key(generator, seed), modules, read)
    flags = [(module, module.training) for module in model.modules()]
    hooks = [model.register_forward_pre_hook(_Hook(draws.begin))]
    if read:
        hooks.append(model.register_forward_hook(_Hook(draws.end)))
    try:
        model.eval()
        for module in modules:
            module._thinned = draws.seed  # type: ignore[assignment]
        yield draws
    finally:
        for hook in hooks:
            hook.remove()
        for module in modules:
            del module._thinned
        for module, training in flags:
            module.training = training


def mc_predict(
    model: nn.Module,
    x: Any,
    samples: int,
    *,
    probabilities: bool = False,
    dim: int = 1,
    batch_size: int | None = None,
    output: Callable[[Any], Tensor] | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> Prediction:
    r"""Predicts with `samples` thinned networks; mean and variance are kept up to date, no sample is stored.

    .. math::
        \delta = y_k - m_{k-1}, \quad m_k = m_{k-1} + \delta / k, \quad s_k = s_{k-1} + \delta (y_k - m_k)

    Args:
        model: Any module that `mc_dropout` takes; no gradients are computed.
        x: Its input, with the batch first, or a tuple of inputs.
        samples: How many networks, at least 2.
        probabilities: Whether the output is logits. Then its softmax is taken first, and the entropies are
            computed.
        dim: The dimension of the classes.
        batch_size: Examples at a time, None for all; predictions do not depend on it. Scalar tensors need None.
        output: Takes the tensor from what the model returns, where that is not a tensor.
        generator: Draws the key of the networks instead of torch's default generator of the CPU.
        seed: The key itself, 0 to 2**64 - 1: the same seed gives the same networks.
        progress: Whether to show a progress bar.

    Returns:
        `Prediction`, in float32, or float64 for a float64 model.

    Raises:
        ValueError: samples is less than 2, batch_size less than 1; what `mc_dropout` raises.
        TypeError: The model's output is no tensor of floating point numbers.

    Source: Gal and Ghahramani 2016; Welford 1962; Houlsby et al. 2011 (mutual information).

    Example:
        >>> import torch
        >>> from onepass.nn import Dropout, mc_predict
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), Dropout(0.5))
        >>> prediction = mc_predict(model, torch.ones(2, 4), samples=20, probabilities=True, seed=1)
        >>> bool((prediction.mutual_information <= prediction.entropy).all())
        True
    """
    check_module("mc_predict", "model", model)
    check_integer("mc_predict", "samples", samples)
    check_integer("mc_predict", "dim", dim)
    if output is not None and not callable(output):
        raise TypeError(f"mc_predict: output must be a function or None, got {told(output)}")
    if samples < 2:
        raise ValueError(f"mc_predict: samples must be at least 2, got {samples}")
    if batch_size is not None:
        check_integer("mc_predict", "batch_size", batch_size)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"mc_predict: batch_size must be at least 1, got {batch_size}")
    inputs = x if isinstance(x, tuple) else (x,)
    running = None
    with mc_dropout(model, generator=generator, seed=seed) as draws, torch.no_grad():
        for draw in _counted(samples, progress):
            found = [_output(model, some, draws, draw, output) for some in _split(inputs, batch_size)]
            value = torch.cat(found) if len(found) > 1 else found[0]
            value = value.to(torch.promote_types(value.dtype, torch.float32))
            if running is None:
                running = _Running(value, dim if probabilities else None)
            running.add(value.softmax(dim) if probabilities else value)
    assert running is not None
    return running.result()


class _Running:
    """Welford's mean and variance, and the mean entropy of the samples."""

    def __init__(self, like: Tensor, dim: int | None) -> None:
        self._count = 0
        self._mean, self._squares = torch.zeros_like(like), torch.zeros_like(like)
        self._dim = dim
        self._entropy: Tensor | float = 0.0

    def add(self, value: Tensor) -> None:
        self._count += 1
        change = value - self._mean
        self._mean += change / self._count
        self._squares += change * (value - self._mean)
        if self._dim is not None:
            self._entropy = self._entropy + _entropy(value, self._dim)

    def result(self) -> Prediction:
        variance = self._squares / (self._count - 1)
        if self._dim is None:
            return Prediction(self._mean, variance, None, None)
        entropy = _entropy(self._mean, self._dim)
        # Never negative but for rounding.
        information = (entropy - self._entropy / self._count).clamp(min=0)
        return Prediction(self._mean, variance, entropy, information)


def _entropy(probabilities: Tensor, dim: int) -> Tensor:
    entropy: Tensor = torch.special.entr(probabilities).sum(dim)
    return entropy


def _output(
    model: nn.Module, inputs: tuple[Any, ...], draws: Draws, draw: int, output: Callable[[Any], Tensor] | None
) -> Tensor:
    draws.set_draw(draw)
    found: Tensor = model(*inputs) if output is None else output(model(*inputs))
    if not isinstance(found, Tensor) or not found.is_floating_point():
        got = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"mc_predict: the model's output must be a floating point tensor, got {got}")
    return found


def _split(inputs: tuple[Any, ...], batch_size: int | None) -> Iterator[tuple[Any, ...]]:
    """Yields the inputs in parts of at most batch_size examples; what is no tensor goes with each of them."""
    if batch_size is None:
        yield inputs
        return
    if any(isinstance(one, Tensor) and one.dim() == 0 for one in inputs):
        raise ValueError("mc_predict: batch_size must be None with an input without a batch, got a scalar tensor")
    sizes = {one.shape[0] for one in inputs if isinstance(one, Tensor)}
    if len(sizes) != 1:
        raise ValueError(f"mc_predict: the inputs must have one batch size, got {sorted(sizes)}")
    for begin in range(0, max(1, sizes.pop()), batch_size):
        yield tuple(one[begin : begin + batch_size] if isinstance(one, Tensor) else one for one in inputs)


def _counted(samples: int, progress: bool) -> Any:
    if not progress:
        return range(samples)
    # Imported here: who asks for no bar need not load its package.
    from rich.progress import track

    return track(range(samples), description="networks")


def _key(generator: torch.Generator | None, seed: int | None) -> int:
    check_generator("mc_dropout", generator)
    if seed is None:
        device = "cpu" if generator is None else generator.device
        return int(torch.empty(1, dtype=torch.int64, device=device).random_(generator=generator))
    if generator is not None:
        raise ValueError("mc_dropout: one of generator and seed must be None, got both")
    check_seed("mc_dropout", seed)
    return seed


def _dropouts_of(model: nn.Module) -> tuple[list[nn.Module], dict[int, str]]:
    """Returns the model's dropouts, in its order, and who reads the p of one, by its id.

    Raises for those that cannot be made active.
    """
    check_module("mc_dropout", "model", model)
    ours: list[nn.Module] = []
    foreign = []
    read: dict[int, str] = {}
    for name, module in model.named_modules():
        which = f"{name or 'the model itself'} ({type(module).__name__}"
        if isinstance(module, (DropoutModule, FusedBatchNorm, RowNormModule)):
            if not (module.p if isinstance(module, DropoutModule) else module.dropout) > 0:
                continue
            ours.append(module)
            if "forward" in module.__dict__:
                foreign.append(f"{which} with a forward of its own)")
        elif isinstance(module, nn.modules.dropout._DropoutNd):
            if module.p > 0:
                foreign.append(f"{which})")
        elif hidden := hidden_dropout(module):
            inside = isinstance(module, (nn.MultiheadAttention, nn.RNNBase))
            foreign.append(f"{which})" if inside else f"{which}, whose code reads {hidden})")
        else:
            for number, dropout in dropouts_by_number(module):
                read[id(dropout)] = f"{which}, whose code reads {number})"
    if foreign:
        raise ValueError(
            f"mc_dropout: model must have no other dropouts than onepass's, got {', '.join(foreign)}; "
            "onepass.nn.convert(model) replaces torch's, but not those inside of other layers; "
            "a number that drops nothing may be set to 0"
        )
    if not ours:
        raise ValueError("mc_dropout: model must have a dropout with p > 0, got none")
    if any(module._thinned is not None for module in ours):
        raise RuntimeError("mc_dropout: model must not be within another mc_dropout block, got one that is")
    return ours, {one: read[one] for one in map(id, ours) if one in read}
