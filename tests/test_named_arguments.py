"""Functions of the core that take their arguments by name alone (csrc/bind/core/named.h): what they refuse."""

from __future__ import annotations

import pytest
import torch

from onepass import _native
from onepass.nn import functional as F


def dropout(**changes: object) -> object:
    """A call that is right without changes; a change to `...` leaves the argument out."""
    call = {
        "x": torch.ones(4, 3),
        "threads": 1,
        "planes": False,
        "shared": False,
        "y": torch.empty(4, 3),
        "residual": None,
        "p": 0.5,
        "scaling": "inverted",
        "gradient": False,
        "table": None,
        "seed": 1,
    }
    call.update(changes)
    return _native.core.dropout(**{name: value for name, value in call.items() if value is not ...})


def test_the_order_is_free():
    first, second = torch.empty(4, 3), torch.empty(4, 3)
    dropout(y=first)
    call = {"seed": 1, "table": None, "gradient": False, "scaling": "inverted", "p": 0.5, "residual": None}
    call |= {"y": second, "shared": False, "planes": False, "threads": 1, "x": torch.ones(4, 3)}
    _native.core.dropout(**call)
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"p": ...}, TypeError, "dropout: p must be given, got no argument of that name"),
        ({"seed": ...}, TypeError, "dropout: seed must be given, got no argument of that name"),
        (
            {"q": 1},
            TypeError,
            "dropout: q must not be given, got one, and this function has no such argument",
        ),
        ({"p": "a half"}, TypeError, "dropout: p must be a number, got 'a half'"),
        ({"threads": 1.5}, TypeError, "dropout: threads must be an int64, got 1.5"),
        ({"threads": 2**64}, TypeError, "dropout: threads must be an int64, got 18446744073709551616"),
        ({"scaling": 2}, TypeError, "dropout: scaling must be a str, got 2"),
        ({"gradient": torch.ones(2)}, TypeError, "dropout: gradient must be a bool, got tensor([1., 1.])"),
        ({"p": list(range(100))}, TypeError, "dropout: p must be a number, got list"),
        ({"seed": -1}, ValueError, "dropout: seed must be 0 to 2**64 - 1, got -1"),
        ({"seed": 2**64}, ValueError, "dropout: seed must be 0 to 2**64 - 1, got 18446744073709551616"),
    ],
    ids=str,
)
def test_errors(changes, error, message):
    y = torch.zeros(4, 3)
    with pytest.raises(error) as caught:
        dropout(y=y, **changes)
    assert str(caught.value) == message
    assert not y.any()


def test_errors_name_the_function_that_users_call():
    x = torch.ones(4, 3)
    with pytest.raises(TypeError, match=r"^batch_norm: eps must be a number, got 'x'"):
        F.batch_norm(x, None, None, training=True, eps="x")
    with pytest.raises(TypeError, match=r"^batch_norm: eps must be a number, got 'x'"):
        F.batch_norm(x, torch.zeros(3), torch.ones(3), eps="x")
    with pytest.raises(TypeError, match=r"^cross_entropy: label_smoothing must be a number, got 'x'"):
        F.cross_entropy(x, torch.zeros(4, dtype=torch.int64), label_smoothing="x")


def test_places_are_refused():
    with pytest.raises(TypeError, match="dropout: arguments must come by name, got 2 without"):
        _native.core.dropout(torch.ones(3), torch.ones(3), p=0.5)


def test_nothing_is_drawn_for_a_rejected_call():
    def draw():
        raise AssertionError("drawn")

    with pytest.raises(TypeError, match="dropout: q must not be given"):
        dropout(seed=draw, q=1)


def test_an_error_of_what_draws_reaches_the_caller():
    def draw():
        raise KeyError("no generator")

    with pytest.raises(KeyError, match="no generator"):
        dropout(seed=draw)


def test_numbers_may_be_of_any_type():
    """A number is what has __float__, as in Python: a tensor of one element, numpy's scalars."""
    first, second = torch.empty(4, 3), torch.empty(4, 3)
    dropout(y=first, p=0.5)
    dropout(y=second, p=torch.tensor(0.5))
    assert torch.equal(first, second)
