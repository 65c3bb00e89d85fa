"""The optimizers under torch.compile, and their operators under torch.library.opcheck."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch._dynamo.utils import counters
from torch.library import opcheck

import onepass
from optim_setup import give_gradients, optimizer_of, random_params

RULES = [
    pytest.param("SGD", {}, id="sgd"),
    pytest.param("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, id="sgd-nesterov"),
    pytest.param("Adam", {"weight_decay": 0.1}, id="adam-l2"),
    pytest.param("AdamW", {"maximize": True}, id="adamw"),
    pytest.param("AdamW", {"amsgrad": True}, id="adamw-amsgrad"),
    pytest.param("Lion", {"weight_decay": 0.1}, id="lion"),
]
# torch.compile itself warns of what it cannot profile.
pytestmark = pytest.mark.filterwarnings("ignore:.*record_function.*", "ignore::DeprecationWarning:torch")


def two_groups(rule: str, options: dict[str, object]) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    params = random_params([(1, 3), (5, 3), (16, 3)])
    return params, optimizer_of(onepass.optim, rule, params, options, second=2, second_lr=0.3)


@pytest.mark.parametrize(("rule", "options"), RULES)
@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["lr-float", "lr-tensor"])
def test_compiled_step_has_the_bits_of_the_eager_one(rule, options, lr):
    torch._dynamo.reset()
    counters.clear()
    eager_params, eager = two_groups(rule, {"lr": lr, **options})
    params, optimizer = two_groups(rule, {"lr": lr.clone() if isinstance(lr, torch.Tensor) else lr, **options})
    compiled = torch.compile(lambda: optimizer.step(), fullgraph=True)
    for step in range(6):
        give_gradients(eager_params, step)
        give_gradients(params, step)
        eager.step()
        compiled()
        for mine, theirs in zip(params, eager_params, strict=True):
            assert torch.equal(mine, theirs)
    for mine, theirs in zip(params, eager_params, strict=True):
        for name, value in eager.state[theirs].items():
            assert torch.equal(optimizer.state[mine][name], value), name
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_a_tensor_learning_rate_changes_without_compiling_again():
    torch._dynamo.reset()
    counters.clear()
    lr = torch.tensor(0.5)
    params, optimizer = two_groups("AdamW", {})
    for group in optimizer.param_groups:
        group["lr"] = lr
    compiled = torch.compile(lambda: optimizer.step(), fullgraph=True)
    moved = []
    for step in range(4):
        give_gradients(params, 0)
        before = params[0].detach().clone()
        lr.fill_(0.5 / 10**step)
        compiled()
        moved.append((params[0].detach() - before).abs().max().item())
    assert counters["stats"]["unique_graphs"] == 1
    assert all(later < 0.5 * earlier for earlier, later in itertools.pairwise(moved))


def test_clip_and_step_compile_together():
    torch._dynamo.reset()
    eager_params, eager = two_groups("SGD", {"momentum": 0.9})
    params, optimizer = two_groups("SGD", {"momentum": 0.9})

    @torch.compile
    def clip_and_step():
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()

    for step in range(3):
        give_gradients(eager_params, step)
        give_gradients(params, step)
        torch.nn.utils.clip_grad_norm_(eager_params, 1.0)
        eager.step()
        clip_and_step()
    for mine, theirs in zip(params, eager_params, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_dampening_before_the_first_eager_step_is_refused():
    torch._dynamo.reset()
    params, optimizer = two_groups("SGD", {"momentum": 0.9, "dampening": 0.5})
    give_gradients(params, 0)
    before = [param.detach().clone() for param in params]
    with pytest.raises(Exception, match="dampening must be 0 in a step that is compiled"):
        torch.compile(lambda: optimizer.step(), fullgraph=True)()
    assert all(torch.equal(param, old) for param, old in zip(params, before, strict=True))


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["lr-float", "lr-tensor"])
@pytest.mark.parametrize("amsgrad", [False, True], ids=["plain", "amsgrad"])
def test_adam_operator_passes_opcheck(lr, amsgrad):
    params = [torch.randn(3, 4), torch.randn(5)]
    lists = [[torch.rand_like(p) for p in params] for _ in range(4)]
    steps = [torch.tensor(2.0), torch.tensor(7.0)]
    options = {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1, "eps": 1e-8}
    flags = {"amsgrad": amsgrad, "maximize": False, "decoupled_weight_decay": True}
    operator = torch.ops.onepass.adam_
    overload = operator.tensor_lr if isinstance(lr, torch.Tensor) else operator.default
    results = opcheck(
        overload, (params, *lists[:3], lists[3] if amsgrad else [], steps), {"lr": lr, **options, **flags}
    )
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["lr-float", "lr-tensor"])
@pytest.mark.parametrize("momentum", [0.0, 0.9], ids=["plain", "momentum"])
def test_sgd_operator_passes_opcheck(lr, momentum):
    params = [torch.randn(3, 4), torch.randn(5)]
    grads, buffers = ([torch.rand_like(p) for p in params] for _ in range(2))
    options = {"momentum": momentum, "dampening": 0.0, "weight_decay": 0.1, "nesterov": False, "maximize": False}
    operator = torch.ops.onepass.sgd_
    overload = operator.tensor_lr if isinstance(lr, torch.Tensor) else operator.default
    results = opcheck(overload, (params, grads, buffers if momentum else []), {"lr": lr, **options})
    assert set(results.values()) == {"SUCCESS"}


def test_compiled_steps_round_as_eager_ones():
    """Stochastic rounding, which the operator does not know: Python between two graphs."""
    start = torch.randn(300, generator=torch.Generator().manual_seed(0)).bfloat16()
    params = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    optimizers = [onepass.optim.AdamW([p], rounding="stochastic", seed=7) for p in params]
    steps = [optimizers[0].step, torch.compile(optimizers[1].step)]
    for number in range(2):
        for param, step in zip(params, steps, strict=True):
            param.grad = start.roll(number)
            step()
    assert torch.equal(params[0].detach(), params[1].detach())
    assert not torch.equal(params[0].detach(), start)
