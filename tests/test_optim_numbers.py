"""Options as configurations give them: numbers of any class, from any sequence, and plain ones in the groups."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

import onepass
from optim_setup import RULES, give_gradients, make, snapshot, train
from tolerance import CLIPPED_RTOL


class Config(Sequence):
    """A list as OmegaConf's: a sequence of its own class that belongs to a whole configuration."""

    def __init__(self, *values):
        self.values = values
        self.parent = {"everything": self}

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return self.values[index]


NUMBERS = {
    "numpy-double": np.float64(0.25),
    "numpy-single": np.float32(0.25),
    "numpy-half": np.float16(0.25),
    "numpy-array": np.array(0.25),
    "numpy-integer": np.int64(0),
    "fraction": Fraction(1, 4),
    "decimal": Decimal("0.25"),
    "float-subclass": type("Percent", (float,), {})(0.25),
    "int-subclass": type("Count", (int,), {})(0),
}
PAIRS = {
    "config": Config(0.5, 0.75),
    "list": [0.5, 0.75],
    "array": np.array([0.5, 0.75]),
    "tensor": torch.tensor([0.5, 0.75]),
    "numpy-entries": (np.float32(0.5), np.float64(0.75)),
    "config-of-fractions": Config(Fraction(1, 2), Fraction(3, 4)),
}
CASES = [
    *[pytest.param("SGD", n, v, id=f"sgd-{n}-{k}") for k, v in NUMBERS.items() for n in ("lr", "momentum")],
    *[pytest.param("SGD", n, v, id=f"sgd-{n}-{k}") for k, v in NUMBERS.items() for n in ("dampening",)],
    *[pytest.param("AdamW", n, v, id=f"adamw-{n}-{k}") for k, v in NUMBERS.items() for n in ("lr", "eps")],
    *[pytest.param("Adam", "weight_decay", v, id=f"adam-weight_decay-{k}") for k, v in NUMBERS.items()],
    *[
        pytest.param(rule, "betas", v, id=f"{rule}-betas-{k}")
        for k, v in PAIRS.items()
        for rule in ("Adam", "AdamW")
    ],
    pytest.param("Adam", "amsgrad", np.True_, id="adam-amsgrad-numpy"),
    pytest.param("SGD", "maximize", np.True_, id="sgd-maximize-numpy"),
]


def plain_value(value):
    if isinstance(value, np.bool_):
        return bool(value)
    return float(value) if np.ndim(value) == 0 and not isinstance(value, Config) else tuple(map(float, value))


def is_plain(value):
    if type(value) is tuple:
        return all(map(is_plain, value))
    return value is None or type(value) in (float, int, bool)


def assert_plain(optimizer):
    """Groups and checkpoint hold nothing that torch.load refuses by default."""
    saved = io.BytesIO()
    torch.save(optimizer.state_dict(), saved)
    saved.seek(0)
    for group in (*torch.load(saved, weights_only=True)["param_groups"], *optimizer.param_groups):
        assert all(is_plain(value) for name, value in group.items() if name != "params"), group


def given(rule, name, value):
    return make(onepass.optim, rule, {name: value})


def in_a_group(rule, name, value):
    params, _ = make(onepass.optim, rule, {})
    options = {"lr": 0.05} if name != "lr" else {}
    return params, getattr(onepass.optim, rule)(
        [{"params": params[:2], name: value}, {"params": params[2:], name: value, **options}]
    )


def added(rule, name, value):
    params, optimizer = make(onepass.optim, rule, {name: value})
    del optimizer.param_groups[1]
    options = {"lr": 0.05} if name != "lr" else {}
    optimizer.add_param_group({"params": params[2:], name: value, **options})
    return params, optimizer


def loaded(rule, name, value):
    saved = copy.deepcopy(make(onepass.optim, rule, {})[1].state_dict())
    for group in saved["param_groups"]:
        group[name] = value
    params, optimizer = make(onepass.optim, rule, {})
    optimizer.load_state_dict(saved)
    return params, optimizer


def set_later(rule, name, value):
    params, optimizer = make(onepass.optim, rule, {})
    for group in optimizer.param_groups:
        group[name] = value
    return params, optimizer


WAYS = [given, in_a_group, added, loaded, set_later]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize(("rule", "name", "value"), CASES)
def test_numbers_of_any_class(way, rule, name, value):
    params, optimizer = way(rule, name, value)
    twins, other = way(rule, name, plain_value(value))
    if way is not set_later:
        assert_plain(optimizer)
    train(params, optimizer, range(2))
    train(twins, other, range(2))
    mine, theirs = snapshot(optimizer), snapshot(other)
    assert (mine[1], mine[3]) == (theirs[1], theirs[3])
    assert [group[name] for group in optimizer.param_groups] == [group[name] for group in other.param_groups]
    if name not in ("amsgrad", "maximize"):  # a step asks whether they are true, and leaves them
        assert all(is_plain(group[name]) for group in optimizer.param_groups)
    assert_plain(optimizer)


@pytest.mark.parametrize(("rule", "name", "value"), CASES)
def test_numbers_set_later_are_plain_in_the_next_checkpoint(rule, name, value):
    _, optimizer = set_later(rule, name, value)
    assert_plain(optimizer)
    _, optimizer = set_later(rule, name, value)
    assert is_plain(pickle.loads(pickle.dumps(optimizer)).param_groups[0][name])


def test_omegaconf():
    """The example of the report: the checkpoint held the whole configuration, and torch.load refused it."""
    omegaconf = pytest.importorskip("omegaconf", reason="needs the package omegaconf")
    cfg = omegaconf.OmegaConf.create({"lr": 0.1, "betas": [0.8, 0.9], "secret": "x"})
    for way in WAYS:
        params, optimizer = way("AdamW", "betas", cfg.betas)
        train(params, optimizer, range(1))
        assert_plain(optimizer)
        assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)


HUGE = {"int": 10**400, "fraction": Fraction(10**400)}
OPTIONS = [("SGD", n) for n in ("lr", "momentum", "dampening", "weight_decay")]
OPTIONS += [("AdamW", n) for n in ("lr", "eps", "weight_decay", "betas")]


@pytest.mark.parametrize("huge", HUGE.values(), ids=HUGE.keys())
@pytest.mark.parametrize(("rule", "name"), OPTIONS)
def test_numbers_beyond_all_floats(rule, name, huge):
    value = (0.9, huge) if name == "betas" else huge
    message = rf"^{rule}: {name}(\[1\])? must be within the range of floats, got a number of class (int|Fraction) "
    for way in WAYS[:4]:
        with pytest.raises(ValueError, match=message):
            way(rule, name, value)
    params, optimizer = set_later(rule, name, value)
    give_gradients(params, 0)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=message.replace(rule, rule.lower())):
        optimizer.step()
    assert snapshot(optimizer) == before


TWO = torch.ones(2)
LIMITS = [(10**400, "must be within the range of floats"), (TWO, r"must have one element, got shape \(2,\)")]


@pytest.mark.parametrize(("value", "message"), LIMITS, ids=["int", "two"])
@pytest.mark.parametrize(("rule", "options"), RULES)
def test_options_of_the_tail(rule, options, value, message):
    for name in ("max_grad_norm", "ema_decay"):
        with pytest.raises(ValueError, match=f"^{rule}: {name} {message}"):
            make(onepass.optim, rule, {**options, name: value})
    params, optimizer = make(onepass.optim, rule, options)
    give_gradients(params, 0)
    for name in ("max_grad_norm", "ema_decay", "grad_scale", "found_inf"):
        old = vars(optimizer).get(name)
        setattr(optimizer, name, value)
        before = snapshot(optimizer)
        with pytest.raises(ValueError, match=f"(?i)^{rule}: {name} {message}"):
            optimizer.step()
        assert snapshot(optimizer) == before
        setattr(optimizer, name, old)


@pytest.mark.parametrize(("value", "message"), LIMITS, ids=["int", "two"])
def test_clipping(value, message):
    param = torch.nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    clips = {
        "clip_grad_norm_: max_norm": lambda: onepass.optim.clip_grad_norm_(param, value),
        "clip_grad_norm_: norm_type": lambda: onepass.optim.clip_grad_norm_(param, 1.0, value),
        "clip_grad_value_: clip_value": lambda: onepass.optim.clip_grad_value_(param, value),
    }
    for name, clip in clips.items():
        with pytest.raises(ValueError, match=f"^{name} {message}"):
            clip()
    assert torch.equal(param.grad, torch.ones(2))
    assert onepass.optim.clip_grad_norm_(param, np.float32(1.0), "inf") == 1
    assert onepass.optim.clip_grad_norm_(param, Fraction(1, 2), Fraction(2)).item() == pytest.approx(
        2**0.5, rel=CLIPPED_RTOL
    )
