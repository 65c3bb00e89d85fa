"""Arguments of the wrong type: the error names function, argument, what was wanted and what it got."""

from __future__ import annotations

import warnings
from functools import partial

import pytest
import torch

import onepass.nn
from onepass.nn import functional

X = torch.linspace(-1, 1, 40).view(4, 10)
TARGET = torch.arange(4)
NO_NUMBERS = ("a", [0.1], 1j, torch.tensor([0.1, 0.2]))


def batch_norm(**options):
    given = {"running_mean": torch.zeros(10), "running_var": torch.ones(10), "training": True, **options}
    return functional.batch_norm(
        given.pop("input", X), given.pop("running_mean"), given.pop("running_var"), **given
    )


def cross_entropy(**options):
    return functional.cross_entropy(options.pop("input", X), options.pop("target", TARGET), **options)


def dropout(**options):
    return functional.dropout(options.pop("input", X), **options)


NUMBERS = [
    (batch_norm, "batch_norm", "eps"),
    (batch_norm, "batch_norm", "dropout"),
    (lambda dropout: batch_norm(training=False, dropout=dropout), "batch_norm", "dropout"),
    (cross_entropy, "cross_entropy", "label_smoothing"),
    (cross_entropy, "cross_entropy", "z_loss"),
    (dropout, "dropout", "p"),
    (onepass.nn.Dropout, "Dropout", "p"),
    (onepass.nn.AlphaDropout, "AlphaDropout", "p"),
    (lambda dropout: onepass.nn.BatchNorm2d(3, dropout=dropout), "BatchNorm2d", "dropout"),
]
TENSORS = [
    (batch_norm, "batch_norm", ("input", "running_mean", "weight", "bias", "residual")),
    (cross_entropy, "cross_entropy", ("input", "target", "weight", "target2")),
    (dropout, "dropout", ("input", "residual")),
]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=str)
@pytest.mark.parametrize(("call", "function", "argument"), NUMBERS, ids=lambda v: v if isinstance(v, str) else "")
def test_no_number(call, function, argument, value):
    with pytest.raises(TypeError, match=f"^{function}: {argument} must be a number, got "):
        call(**{argument: value})


@pytest.mark.parametrize("value", [0.25, 1, True, torch.tensor(0.25)], ids=str)
@pytest.mark.parametrize(("call", "function", "argument"), NUMBERS, ids=lambda v: v if isinstance(v, str) else "")
def test_numbers(call, function, argument, value):
    call(**{argument: value})


@pytest.mark.parametrize("value", ["a", [1, 2], 3], ids=str)
@pytest.mark.parametrize(
    ("call", "function", "argument"), [(call, name, a) for call, name, arguments in TENSORS for a in arguments]
)
def test_no_tensor(call, function, argument, value):
    options = {"lam": 0.5} if argument == "target2" else {}
    kind = "a tensor" if argument in ("input", "target") else "a tensor or None"
    with pytest.raises(TypeError, match=f"^{function}: {argument} must be {kind}, got "):
        call(**{argument: value}, **options)


@pytest.mark.parametrize("value", ["a", 1.5, None, torch.tensor(1.5)], ids=str)
def test_no_integer(value):
    with pytest.raises(TypeError, match=r"^cross_entropy: ignore_index must be an integer, got "):
        cross_entropy(ignore_index=value)


@pytest.mark.parametrize("value", ["a", 1.5, torch.tensor(3)], ids=str)
def test_no_generator(value):
    with pytest.raises(TypeError, match=r"^dropout: generator must be a torch.Generator, got "):
        dropout(p=0.5, generator=value)


@pytest.mark.parametrize("value", ["a", [0.5], 1j], ids=str)
def test_no_share_of_two_labels(value):
    with pytest.raises(TypeError, match=r"^cross_entropy: lam must be a number, got "):
        cross_entropy(target2=TARGET, lam=value)


def nested(value, layout):
    with warnings.catch_warnings():
        # At the first one torch warns that they are a prototype.
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([value, value[:2]], layout=layout)


@pytest.mark.parametrize(
    "make",
    [torch.Tensor.to_sparse, partial(nested, layout=torch.strided), partial(nested, layout=torch.jagged)],
    ids=["sparse", "nested", "jagged"],
)
@pytest.mark.parametrize(
    ("call", "argument"),
    [(call, argument) for call, _, arguments in TENSORS for argument in arguments if "running" not in argument],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_no_dense_tensor(call, argument, make):
    """The error names the argument, and comes before a seed is drawn."""
    shape = {"weight": (10,), "bias": (10,), "target2": (4,)}.get(argument, (4, 10))
    beside = {"lam": 0.5} if argument == "target2" else {}
    value = make(torch.ones(shape, dtype=torch.int64 if argument == "target2" else None))
    before = torch.get_rng_state()
    with pytest.raises(
        TypeError, match=f"{call.__name__}: {argument} must be (dense|a dense tensor|a plain tensor)"
    ):
        call(**{argument: value}, **beside)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_dense_share_of_two_labels():
    with pytest.raises(TypeError, match=r"^cross_entropy: lam must be dense, got a nested tensor"):
        cross_entropy(target2=TARGET, lam=nested(torch.ones(4), torch.strided))


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
@pytest.mark.parametrize("name", ["BatchNorm1d", "Dropout", "CrossEntropyLoss"])
def test_modules_take_no_nested_tensor(name, layout):
    """Nor in evaluation; there dropout has nothing to do and returns its input (test_layer_kinds.py)."""
    make = getattr(onepass.nn, name)
    module = (make(10) if name == "BatchNorm1d" else make()).train(name == "Dropout")
    with pytest.raises(
        TypeError, match=r"^[a-z_]+: input must be dense, got (a nested tensor|layout torch.jagged)$"
    ):
        module(nested(X, layout), *([TARGET] if name == "CrossEntropyLoss" else []))
