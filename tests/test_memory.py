"""Tensors whose memory is gone, too short, or shared by their elements: an error by name where torch would die."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import onepass
from onepass._memory import LARGE, check_memory
from onepass.nn import functional
from onepass.optim import functional as updates


def spoiled(kept, *shape):
    """Returns a transposed tensor whose storage keeps a part of its bytes; the kernels take it by a copy."""
    tensor = torch.randn(*reversed(shape)).movedim(0, -1)
    tensor.untyped_storage().resize_(kept)
    return tensor


def step(which, **options):
    param = nn.Parameter(torch.randn(4, 8).t() if which == "grad" else torch.randn(8, 4)[:, ::2])
    param.grad = torch.randn(param.shape[::-1]).t().contiguous() if which == "grad" else torch.randn(8, 2)
    optimizer = onepass.optim.AdamW([param], lr=0.1, **options)
    (param.grad if which == "grad" else param).untyped_storage().resize_(0)
    optimizer.step()


CALLS = {
    "cross_entropy: input": lambda: functional.cross_entropy(spoiled(0, 8, 4), torch.zeros(8, dtype=torch.long)),
    "cross_entropy: input (short)": lambda: functional.cross_entropy(
        spoiled(64, 8, 4), torch.zeros(8, dtype=torch.long)
    ),
    "cross_entropy: target": lambda: functional.cross_entropy(torch.randn(8, 4), spoiled(0, 8, 4)),
    "batch_norm: input": lambda: onepass.nn.BatchNorm1d(4)(spoiled(0, 8, 4)),
    "batch_norm: residual": lambda: functional.batch_norm(
        torch.randn(8, 4), None, None, training=True, residual=spoiled(0, 8, 4)
    ),
    "grads[0]": lambda: step("grad"),
    "params[0]": lambda: step("param"),
    "grads[0] (8bit)": lambda: step("grad", state_format="8bit"),
    "params[0] (8bit)": lambda: step("param", state_format="8bit"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_tensor_without_memory_is_refused_before_it_is_copied(name):
    with pytest.raises(ValueError, match="must have memory") as raised:
        CALLS[name]()
    assert name.partition(" (")[0].split("[")[0] in str(raised.value)


@pytest.mark.parametrize("name", ["running_mean", "running_var", "weight", "bias"])
def test_fold_refuses_a_tensor_without_memory(name):
    linear, norm = nn.Linear(4, 3), nn.BatchNorm1d(3).eval()
    getattr(norm, name).untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=rf"fold: batch_norm\.{name} must have memory, got a storage of 0 bytes"):
        onepass.nn.fold(linear, norm)


@pytest.mark.parametrize("strides", [(1, 1), (0, 1), (2, 1)])
def test_dropout_in_place_refuses_elements_that_share_memory(strides):
    base = torch.arange(1.0, 9.0)
    before = base.clone()
    with pytest.raises(RuntimeError, match="must not share memory between its elements"):
        functional.dropout(base.as_strided((3, 4), strides), 0.5, seed=1, inplace=True)
    assert torch.equal(base, before)


@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW", "Lion"])
@pytest.mark.parametrize(
    "tail",
    [{"max_grad_norm": 1.0}, {"skip_nonfinite": True}, {"ema_decay": 0.9}, {"telemetry": True}, {}],
    ids=str,
)
def test_an_optimizer_whose_groups_are_empty_steps(rule, tail):
    """torch's steps, too; a StopIteration from here would end a generator of the caller without a word."""
    optimizer = getattr(onepass.optim, rule)([{"params": []}], lr=0.1, **tail)
    optimizer.step()
    optimizer.step(zero_grad=True)
    with_params = getattr(onepass.optim, rule)([nn.Parameter(torch.ones(2))], lr=0.1, **tail)
    with_params.param_groups[0]["params"] = []
    with_params.step()


def test_a_number_without_a_lower_limit_is_only_asked_to_be_finite():
    with pytest.raises(ValueError, match="SGD: dampening must be finite, got nan"):
        onepass.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9, dampening=float("nan"))


def cut_short(*shape):
    """Returns a dense tensor, large enough for a look at its storage, which keeps the half of its bytes."""
    tensor = torch.randn(*shape)
    tensor.untyped_storage().resize_(tensor.nbytes // 2)
    return tensor


SHAPE = (LARGE // 64, 64)
DENSE = {
    "dropout: input": lambda: functional.dropout(cut_short(*SHAPE), 0.5),
    "dropout: residual": lambda: functional.dropout(torch.randn(SHAPE), 0.5, residual=cut_short(*SHAPE)),
    "batch_norm: input": lambda: onepass.nn.BatchNorm1d(64)(cut_short(*SHAPE)),
    "batch_norm: residual": lambda: onepass.nn.BatchNorm1d(64)(torch.randn(SHAPE), cut_short(*SHAPE)),
    "cross_entropy: input": lambda: functional.cross_entropy(
        cut_short(*SHAPE), torch.zeros(SHAPE[0], dtype=torch.long)
    ),
    "cross_entropy: target": lambda: functional.cross_entropy(torch.randn(SHAPE), cut_short(*SHAPE)),
    "sgd: params[0]": lambda: updates.sgd([cut_short(4)], [torch.ones(4)], [], **SGD),
    "sgd: grads[0]": lambda: updates.sgd([torch.ones(4)], [cut_short(4)], [], **SGD),
}
SGD = {"lr": 0.1, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False, "maximize": False}


@pytest.mark.parametrize("name", DENSE)
def test_a_dense_tensor_that_was_cut_short_is_refused(name):
    """A kernel would read what is behind the storage."""
    with pytest.raises(ValueError, match=rf"^{re.escape(name)} must have memory, got a storage of \d+ bytes"):
        DENSE[name]()


@pytest.mark.parametrize("name", ["params", "exp_avg", "ema"])
def test_an_optimizers_first_step_refuses_what_was_cut_short(name):
    params = [nn.Parameter(torch.ones(64)) for _ in range(2)]
    optimizers = [onepass.optim.AdamW([param], ema_decay=0.9) for param in params]
    for param in params:
        param.grad = torch.ones(64)
    optimizers[0].step()
    if name != "params":
        optimizers[1].load_state_dict(optimizers[0].state_dict())
    short = params[1] if name == "params" else optimizers[1].state[params[1]][name]
    short.untyped_storage().resize_(16)
    message = rf"^adamw: {name}\[0\] must have memory, got a storage of 16 bytes where 256 are needed"
    with pytest.raises(ValueError, match=message):
        optimizers[1].step()


def test_kinds_without_a_storage_are_not_asked():
    for tensor in (
        torch.ones(3).to_sparse(),
        torch.ones(3, device="meta"),
        torch._efficientzerotensor((3,)),
        torch.ones(0),
        torch.ones(()),
        torch.ones(4, 4)[1:, 1:],
        torch.ones(1).expand(100),
    ):
        check_memory("any", tensor)
    torch.func.vmap(lambda x: check_memory("any", x) or x)(torch.ones(3, 2))
