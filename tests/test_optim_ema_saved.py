"""What is saved, copied and loaded while the moving averages are in the parameters."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import onepass.optim
from tail_setup import RULES, flat

each_kind = pytest.mark.parametrize("rule", RULES)


def build(rule: str, steps: int = 3) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    kind, options = RULES[rule]
    optimizer = getattr(onepass.optim, kind)(model.parameters(), lr=0.1, ema_decay=0.5, **options)
    for seed in range(steps):
        train(model, optimizer, seed)
    return model, optimizer


def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    model(torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
    optimizer.step(zero_grad=True)


# What belongs to the weights, and how its error begins.
REFUSED = {
    "state_dict": (lambda model, optimizer, saved: optimizer.state_dict(), "state_dict cannot be taken"),
    "load_state_dict": (
        lambda model, optimizer, saved: optimizer.load_state_dict(saved),
        "load_state_dict cannot be called",
    ),
    "deepcopy": (lambda model, optimizer, saved: copy.deepcopy(optimizer), "it can be neither pickled nor copied"),
    "pickle": (lambda model, optimizer, saved: pickle.dumps(optimizer), "it can be neither pickled nor copied"),
    "save": (
        lambda model, optimizer, saved: torch.save((model, optimizer), io.BytesIO()),
        "it can be neither pickled nor copied",
    ),
    "distributed-get": (
        lambda model, optimizer, saved: get_optimizer_state_dict(model, optimizer),
        "state_dict cannot be taken",
    ),
    "distributed-set": (
        lambda model, optimizer, saved: set_optimizer_state_dict(model, optimizer, saved),
        "load_state_dict cannot be called",
    ),
    "import_ema": (
        lambda model, optimizer, saved: optimizer.import_ema(model.parameters(), model.parameters()),
        "import_ema cannot be called",
    ),
}


@each_kind
@pytest.mark.parametrize("what", REFUSED)
def test_what_belongs_to_the_weights_is_refused_with_the_averages(rule, what):
    model, optimizer = build(rule)
    call, message = REFUSED[what]
    saved = copy.deepcopy(optimizer.state_dict())
    own = flat(model.parameters())
    name = type(optimizer).__name__
    with (
        pytest.raises(RuntimeError, match=rf"^{name}: {message} inside ema_parameters\(\); "),
        optimizer.ema_parameters(),
    ):
        call(model, optimizer, saved)
    # Nothing has been changed, and outside all of it can be done.
    assert torch.equal(flat(model.parameters()), own)
    assert str(optimizer.state_dict()) == str(saved)
    call(model, optimizer, saved)


@each_kind
def test_the_model_is_saved_with_the_averages(rule):
    model, optimizer = build(rule)
    averages = [optimizer.state[p]["ema"].clone() for p in model.parameters()]
    with optimizer.ema_parameters():
        saved = copy.deepcopy(model.state_dict())
        distributed = copy.deepcopy(get_model_state_dict(model))
    for one in (saved, distributed):
        assert torch.equal(flat(one.values()), flat(averages))


@each_kind
def test_a_model_loaded_with_the_averages_in_it_is_told(rule):
    model, optimizer = build(rule)
    own = flat(model.parameters())
    with (
        pytest.raises(
            RuntimeError, match=r"parameters must not be written or converted inside .* got 4 that were"
        ),
        optimizer.ema_parameters(),
    ):
        model.load_state_dict(build(rule, steps=1)[0].state_dict())
    assert torch.equal(flat(model.parameters()), own)
    twin, other = build(rule)
    train(model, optimizer, 7)
    train(twin, other, 7)
    assert torch.equal(flat(model.parameters()), flat(twin.parameters()))


def test_one_parameter_written_by_hand_is_told():
    model, optimizer = build("momentum")
    own = flat(model.parameters())
    with pytest.raises(RuntimeError, match="got 1 that were"), optimizer.ema_parameters(), torch.no_grad():
        model[1].bias.add_(1)
    assert torch.equal(flat(model.parameters()), own)


def test_writes_that_change_nothing_are_none():
    """The model's own averages loaded again, and another optimizer's averages in and out."""
    model, optimizer = build("momentum")
    second = onepass.optim.SGD(model.parameters(), lr=0.1, ema_decay=0.5)
    second.import_ema([torch.zeros_like(p) for p in model.parameters()], list(model.parameters()))
    own = flat(model.parameters())
    with optimizer.ema_parameters():
        averages = copy.deepcopy(model.state_dict())
        model.load_state_dict(averages)
        with second.ema_parameters():
            assert not flat(model.parameters()).any()
        assert torch.equal(flat(model.parameters()), flat(averages.values()))
    assert torch.equal(flat(model.parameters()), own)


def test_a_model_converted_for_evaluation_and_back():
    model, optimizer = build("adam")
    own = flat(model.parameters())
    with optimizer.ema_parameters():
        model.half()
        model.float()
    assert torch.equal(flat(model.parameters()), own)
    with pytest.raises(RuntimeError, match="written or converted"), optimizer.ema_parameters():
        model.half()
    assert torch.equal(flat(model.parameters()), own)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_an_error_inside_comes_out_as_it_is():
    """Parameters were written, too; the error about those would hide the first one."""
    model, optimizer = build("adam")
    own = flat(model.parameters())

    def spoil() -> None:
        model[0].weight.detach().zero_()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), optimizer.ema_parameters():
        spoil()
    assert torch.equal(flat(model.parameters()), own)
    optimizer.state_dict()
