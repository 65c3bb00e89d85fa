"""What dropout refuses, and with which words."""

from __future__ import annotations

import pytest
import torch

import onepass.nn.functional as ours
from onepass import _native


def rejected(function: str, *args, **kwargs):
    return lambda: getattr(ours, function)(*args, **kwargs)


X = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (rejected("dropout", X, -0.1), ValueError, "dropout: p must be at least 0 and at most 1, got -0.1"),
        (rejected("dropout", X, float("nan")), ValueError, "dropout: p must be at least 0 and at most 1, got nan"),
        (rejected("dropout", X, 1.5, False), ValueError, "dropout: p must be at least 0 and at most 1, got 1.5"),
        (
            rejected("dropout", X.int()),
            TypeError,
            "dropout: input must be torch.float32, torch.float64, torch.bfloat16 or torch.float16, "
            "got torch.int32",
        ),
        (
            rejected("dropout", X, scaling="none"),
            ValueError,
            "dropout: scaling must be 'inverted' or 'test_time', got 'none'",
        ),
        (
            rejected("dropout1d", X, training=False, scaling="alpha", residual=X),
            ValueError,
            "dropout1d: scaling must be 'inverted' or 'test_time', got 'alpha'",
        ),
        (
            rejected("dropout", X, residual=X.double()),
            TypeError,
            "dropout: residual must be torch.float32 like input, got torch.float64",
        ),
        (
            rejected("dropout", X, False, residual=X[:2]),
            ValueError,
            "dropout: residual must have input's shape (4, 3) on cpu, got (2, 3) on cpu",
        ),
        (
            rejected("dropout", X, generator=torch.Generator(), seed=1),
            ValueError,
            "dropout: one of generator and seed must be None, got both",
        ),
        (rejected("dropout", X, seed=-1), ValueError, "dropout: seed must be at least 0 and below 2**64, got -1"),
        (
            rejected("dropout", X, seed=1.5),
            TypeError,
            "dropout: seed must be an int or an int64 tensor, got 1.5",
        ),
        (rejected("dropout1d", X[0]), ValueError, "dropout1d: input must have 2 or 3 dimensions, got 1"),
        (rejected("dropout2d", X), ValueError, "dropout2d: input must have 3 or 4 dimensions, got 2"),
        (rejected("dropout3d", X), ValueError, "dropout3d: input must have 4 or 5 dimensions, got 2"),
        (
            rejected("feature_alpha_dropout", X[0], training=True),
            ValueError,
            "feature_alpha_dropout: input must have at least 2 dimensions, got 1",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


# A right call of the core.
_CALL = {
    "x": torch.ones(4, 3),
    "threads": 1,
    "y": torch.ones(4, 3),
    "residual": None,
    "planes": False,
    "shared": False,
    "p": 0.5,
    "scaling": "inverted",
    "gradient": False,
    "table": None,
    "seed": 1,
}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.ones(4, dtype=torch.int32)}, TypeError, "dropout: input must be torch.float32,"),
        ({"y": torch.ones(5)}, ValueError, "dropout: y must have input's shape (4, 3), got (5,)"),
        ({"y": torch.ones(3, 4).t()}, ValueError, "dropout: y must have input's strides, got (1, 4)"),
        (
            {"y": torch.ones(4, 3).double()},
            TypeError,
            "dropout: y must be torch.float32 like input, got torch.float64",
        ),
        (
            {"x": torch.ones(4, 6)[:, ::2]},
            ValueError,
            "dropout: input must be contiguous or channels last, got strides",
        ),
        ({"p": 2.0}, ValueError, "dropout: p must be from 0 to 1, got 2"),
        ({"scaling": "x"}, ValueError, 'dropout: scaling must be "inverted", "test_time" or "alpha", got "x"'),
        (
            {"scaling": "alpha", "residual": torch.ones(4, 3)},
            ValueError,
            "dropout: residual must be None with scaling",
        ),
        ({"shared": True}, ValueError, "dropout: table must be given if and only if planes or shared is True"),
        (
            {"table": torch.ones(3)},
            ValueError,
            "dropout: table must be given if and only if planes or shared is True",
        ),
        (
            {"shared": True, "table": torch.ones(3)},
            TypeError,
            "dropout: table must be torch.uint8, got torch.float32",
        ),
        (
            {"shared": True, "table": torch.ones(2, dtype=torch.uint8)},
            ValueError,
            "dropout: table must have 3 elements, got 2",
        ),
        (
            {"planes": True, "x": torch.ones(3), "y": torch.ones(3)},
            ValueError,
            "dropout: input must have at least 2 dim",
        ),
        (
            {"shared": True, "x": torch.ones(()), "y": torch.ones(())},
            ValueError,
            "dropout: input must have a dimension",
        ),
        (
            {"seed": torch.ones(2, dtype=torch.int64)},
            ValueError,
            "dropout: seed must have 1 element, got 2",
        ),
        ({"seed": None}, TypeError, "dropout: seed must be a number or a tensor, got None"),
    ],
    ids=str,
)
def test_errors_of_the_core(changes, error, message):
    with pytest.raises(error) as caught:
        _native.core.dropout(**{**_CALL, **changes})
    assert str(caught.value).startswith(message)


_MEMORY = torch.ones(20)


def test_overlap_is_refused_but_for_in_place():
    memory = torch.ones(20)
    apart, overlapping = memory[:10], memory[5:15]
    with pytest.raises(ValueError, match="dropout: "):
        _native.core.dropout(**{**_CALL, "x": apart, "y": overlapping})
    with pytest.raises(ValueError, match="dropout: "):
        _native.core.dropout(**{**_CALL, "x": apart, "y": memory[10:], "residual": overlapping})


def test_in_place_is_refused_before_anything_is_changed():
    """What autograd cannot write through: a leaf, its views, one of many views, views made without gradients."""
    leaf = torch.ones(2, 4, 3, requires_grad=True)
    computed = leaf * 1
    with torch.no_grad():
        unseen = computed.view(8, 3)
    for function, input, words in (
        ("dropout", leaf, "a leaf"),
        ("dropout", leaf[0], "a view of a leaf"),
        ("dropout1d", leaf[0], "a view of a leaf"),
        ("dropout1d", torch.ones(4, 3, requires_grad=True), "a view of a leaf"),
        ("dropout3d", torch.ones(2, 4, 3, 3, requires_grad=True), "a view of a leaf"),
        ("dropout", computed.chunk(2)[0], "one of many views"),
        ("dropout1d", computed.unbind()[0], "one of many views"),
        ("dropout", unseen, "one of many views"),
    ):
        with pytest.raises(RuntimeError, match=f"{function}: input must not be {words}"):
            getattr(ours, function)(input, 0.5, True, True, residual=torch.ones(input.shape, requires_grad=True))
        assert (input == 1).all()


def test_in_place_where_nothing_is_done():
    leaf = torch.ones(3, requires_grad=True)
    empty = torch.ones(0, requires_grad=True)
    assert ours.dropout(leaf, 0.5, False, True) is leaf
    assert ours.dropout(leaf, 0, True, True) is leaf
    assert ours.dropout(empty, 0.5, True, True) is empty
    x = torch.ones(3)
    assert ours.dropout(x, 0.5, False, True, residual=x, scaling="test_time") is x
    assert (x == 1.5).all()
    many = torch.ones(4).chunk(2)[0]
    view = (leaf * 1).chunk(3)[0]
    with pytest.raises(RuntimeError, match="a view"):
        ours.dropout(view, 0.5, False, True, residual=many[:1], scaling="test_time")
    assert (view == 1).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            rejected("dropout", X[:1].clone().expand(4, 3), inplace=True),
            RuntimeError,
            "dropout: input must not share memory between its elements",
        ),
        (
            rejected("dropout", _MEMORY[:10], inplace=True, residual=_MEMORY[5:15]),
            ValueError,
            "dropout: input and residual must not share memory",
        ),
        (rejected("dropout", X, 1.5), ValueError, "dropout: p must be at least 0"),
        (
            rejected("batch_norm", X, torch.ones(2), torch.ones(2), training=True, dropout=0.5),
            ValueError,
            "batch_norm: running_mean must have 3 elements, got 2",
        ),
        (
            rejected("batch_norm", X, None, None, torch.ones(3).half(), training=True, dropout=0.5),
            TypeError,
            "batch_norm: weight must be torch.float32, got torch.float16",
        ),
        (
            rejected("batch_norm", X[0], None, None, training=True, dropout=0.5),
            ValueError,
            "batch_norm: input must have at least 2 dimensions, got 1",
        ),
    ],
)  # fmt: skip
def test_a_rejected_call_draws_nothing(call, error, message):
    """Neither from torch's generator: whoever catches the error goes on with the masks of a run without it."""
    state = torch.get_rng_state()
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert torch.equal(torch.get_rng_state(), state)


class _Plain(torch.Tensor):
    """A subclass that changes nothing."""


def test_in_place_on_other_paths_is_refused_before_anything_is_drawn():
    with torch.inference_mode():
        inference = torch.ones(100)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="dropout: input must not be an inference tensor"):
        ours.dropout(inference, inplace=True, residual=torch.ones(100, requires_grad=True))
    with pytest.raises(RuntimeError, match="dropout: input must not be a view of a leaf"):
        ours.dropout(torch.ones(5).as_subclass(_Plain).requires_grad_(), inplace=True)
    with (
        pytest.raises(RuntimeError, match="dropout: input must not be a leaf"),
        torch.autograd.forward_ad.dual_level(),
    ):
        ours.dropout(torch.ones(5, requires_grad=True), inplace=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert inference.eq(1).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            rejected("dropout", torch.tensor(1.0), shared=True),
            ValueError,
            "dropout: input must have a dimension for the examples with shared=True, got none",
        ),
        (rejected("feature_alpha_dropout", 3), TypeError, "feature_alpha_dropout: input must be a tensor, got 3"),
        (
            rejected("dropout1d", torch.ones(4, 6), residual=3),
            TypeError,
            "dropout1d: residual must be a tensor or None, got 3",
        ),
    ],
)
def test_errors_of_the_kind_of_arguments(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
