"""Complex parameters, sparse gradients, differentiable steps: torch's loop takes these, the kernels the others."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

import onepass
from optim_setup import optimizer_of, random_params, snapshot, torchs, train
from tolerance import FLOAT32_STEPS, FLOAT64

RULES = [
    pytest.param("SGD", {}, id="sgd"),
    pytest.param("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, id="sgd-nesterov"),
    pytest.param("SGD", {"momentum": 0.9, "dampening": 0.5, "maximize": True}, id="sgd-dampening"),
    pytest.param("Adam", {"weight_decay": 0.1}, id="adam-l2"),
    pytest.param("Adam", {"amsgrad": True, "maximize": True}, id="adam-amsgrad"),
    pytest.param("AdamW", {"weight_decay": 0.1, "eps": 1e-4}, id="adamw"),
    pytest.param("AdamW", {"amsgrad": True, "betas": (0.5, 0.75)}, id="adamw-amsgrad"),
    pytest.param("Lion", {"weight_decay": 0.1, "betas": (0.5, 0.75)}, id="lion"),
]
each_rule = pytest.mark.parametrize(("rule", "options"), RULES)
DTYPES = (torch.float32, torch.complex64, torch.complex128, torch.float64)


def with_complex(package, rule, options, shapes=((3,), (2, 3), (), (5,))):
    """Real and complex parameters in turn, in two groups."""
    params = random_params(shapes, DTYPES)
    return params, optimizer_of(package, rule, params, {"lr": 0.1, **options}, second=3)


def assert_same(params, optimizer, others, other):
    """torch's own numbers where its loop ran, the fused ones within their tolerance, states of the same kind."""
    for one, two in zip(params, others, strict=True):
        if one.is_complex():
            assert torch.equal(one, two)
        torch.testing.assert_close(one, two, **FLOAT32_STEPS)
        mine, theirs = optimizer.state[one], other.state[two]
        assert mine.keys() - {"ema"} == {name for name, value in theirs.items() if value is not None}
        for name in mine.keys() - {"ema"}:
            assert (type(mine[name]), mine[name].dtype) == (type(theirs[name]), theirs[name].dtype)
            torch.testing.assert_close(mine[name], theirs[name], **FLOAT32_STEPS)


@each_rule
def test_complex_parameters(rule, options):
    (params, optimizer), (others, other) = (with_complex(p, rule, options) for p in (onepass.optim, torchs))
    for step in range(5):
        train(params, optimizer, [step])
        train(others, other, [step])
        assert_same(params, optimizer, others, other)
    found = optimizer.unfused_parameters()
    assert [(one.group, one.position, one.why) for one in found] == [
        (0, 1, "complex parameter"),
        (0, 2, "complex parameter"),
    ]
    assert found[0].param is params[1]


@pytest.mark.parametrize("dampening", [0, 0.5])
def test_checkpoints_of_sparse_momentum(dampening):
    """The first step leaves a buffer that is itself sparse."""
    options = {"momentum": 0.9, "dampening": dampening}
    runs = []
    for package, others in ((onepass.optim, torch.optim), (torch.optim, onepass.optim)):
        model, optimizer = embedding(package, options)
        model(torch.tensor([1, 3])).sum().backward()
        optimizer.step()
        assert optimizer.state[model[0].weight]["momentum_buffer"].is_sparse
        for next_package in (package, others):
            other = embedding(next_package, options)[0]
            other.load_state_dict(model.state_dict())
            resumed = next_package.SGD(other.parameters(), lr=0.1, **options)
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            other(torch.tensor([1, 2])).sum().backward()
            resumed.step()
            runs.append([*other.parameters()])
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], **FLOAT64)


@pytest.mark.parametrize("to", ["torch", "onepass"])
@each_rule
def test_checkpoints_of_complex_parameters_go_both_ways(rule, options, to):
    source, target = (onepass.optim, torchs) if to == "torch" else (torchs, onepass.optim)
    params, optimizer = with_complex(source, rule, options)
    train(params, optimizer, range(3))
    others, other = with_complex(target, rule, options)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, two in zip(params, others, strict=True):
        two.data.copy_(one.data)
    train(params, optimizer, range(3, 6))
    train(others, other, range(3, 6))
    pair = ((params, optimizer), (others, other))
    assert_same(*pair[to == "onepass"], *pair[to == "torch"])


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "replaced"])
def test_torchs_functions_are_held_from_the_beginning(kept, monkeypatch):
    """Who puts ours, or any other, in the place of torch's function gets no endless recursion."""
    for name in ("sgd", "adam", "adamw"):
        module = getattr(__import__(f"torch.optim.{name}", fromlist=[name]), "__dict__", None)
        if not kept:
            monkeypatch.setitem(module, name, lambda *_, **__: pytest.fail("not torch's own"))
    for rule in ("SGD", "Adam", "AdamW"):
        params, optimizer = with_complex(onepass.optim, rule, {})
        train(params, optimizer, range(2))


def sparse(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(shape[0], (1, 4), generator=generator)  # a row may come twice: not coalesced
    values = torch.randn(4, *shape[1:], generator=generator)
    return torch.sparse_coo_tensor(rows, values, shape, check_invariants=False)


SPARSE = [
    pytest.param({}, id="plain"),
    pytest.param({"momentum": 0.9}, id="momentum"),
    pytest.param({"momentum": 0.9, "nesterov": True}, id="nesterov"),
    pytest.param({"momentum": 0.9, "dampening": 0.5, "maximize": True}, id="dampening"),
]


def embedding(package, options):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(7, 3, sparse=True), torch.nn.Linear(3, 2)).double()
    return model, package.SGD(model.parameters(), lr=0.1, **options)


@pytest.mark.parametrize("options", SPARSE)
def test_sparse_gradients(options):
    runs = []
    for package in (onepass.optim, torch.optim):
        model, optimizer = embedding(package, options)
        for step in range(4):
            optimizer.zero_grad()
            rows = torch.randint(7, (5,), generator=torch.Generator().manual_seed(step))
            model(rows).square().sum().backward()
            optimizer.step()
        runs.append((model, optimizer))
    (model, optimizer), (other, theirs) = runs
    for mine, their in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, their)
        buffers = [o.state[p].get("momentum_buffer") for o, p in ((optimizer, mine), (theirs, their))]
        assert [b is not None and b.layout for b in buffers] == [
            bool(options) and b.layout for b in buffers[1:]
        ] * 2
    assert [one.why for one in optimizer.unfused_parameters()] == ["sparse gradient"]
    theirs.load_state_dict(optimizer.state_dict())
    optimizer.load_state_dict(copy.deepcopy(theirs.state_dict()))
    optimizer.step()


REFUSED = {
    "weight_decay": ({"weight_decay": 0.1}, lambda o: None, "must not come with weight_decay"),
    "dense-buffer": (
        {"momentum": 0.9, "nesterov": True},
        lambda o: o.state[o.param_groups[0]["params"][0]].update(momentum_buffer=torch.ones(7, 3).double()),
        "must not come with nesterov and a dense momentum_buffer",
    ),
    "telemetry": ({"telemetry": True}, lambda o: None, "must not come with telemetry"),
}


@pytest.mark.parametrize(("options", "spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_what_sparse_gradients_do_not_go_with(options, spoil, message):
    """torch raises in the middle of its step, or has no such option: here nothing has been changed."""
    model, optimizer = embedding(onepass.optim, options)
    spoil(optimizer)
    model(torch.tensor([1, 2])).square().sum().backward()
    before = snapshot(optimizer)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"^sgd: params\[0\] {message}.*sparse gradient"):
            optimizer.step()
        assert snapshot(optimizer) == before


def test_a_dense_gradient_behind_a_sparse_buffer():
    model, optimizer = embedding(onepass.optim, {"momentum": 0.9})
    model(torch.tensor([1, 2])).square().sum().backward()
    optimizer.step()
    model[0].weight.grad = torch.ones(7, 3).double()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(
        TypeError, match=r"^sgd: momentum_buffer_list\[0\] must be a dense tensor with memory: got one"
    ):
        optimizer.step()
    assert all(map(torch.equal, before, model.parameters()))


@pytest.mark.parametrize("rule", ["Adam", "AdamW"])
def test_adam_takes_no_sparse_gradients(rule):
    """torch's Adam refuses them, too."""
    param = torch.nn.Parameter(torch.ones(7, 3))
    param.grad = sparse((7, 3), 0)
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        getattr(torch.optim, rule)([param]).step()
    with pytest.raises(
        ValueError, match=rf"^{rule.lower()}: grads\[0\] must be dense, got layout torch.sparse_coo"
    ):
        getattr(onepass.optim, rule)([param]).step()
    assert torch.equal(param, torch.ones(7, 3))


@pytest.mark.parametrize("steps", [1, 3])
@each_rule
def test_differentiable(rule, options, steps):
    """Gradients of steps with respect to the first parameters and gradients: torch's own, also where it has none
    (a state of more than one step that is written where autograd kept it)."""
    found = []
    for package in (onepass.optim, torchs):
        torch.manual_seed(0)
        leaf = torch.randn(4, dtype=torch.double, requires_grad=True)
        grads = [torch.randn(4, dtype=torch.double, requires_grad=True) for _ in range(steps)]
        param = leaf.clone()
        optimizer = getattr(package, rule)([param], lr=0.1, differentiable=True, **options)
        for grad in grads:
            param.grad = grad
            optimizer.step()
        try:
            loss = param.square().sum()
            # A first momentum buffer is the gradient, detached.
            found.append([param.detach(), *torch.autograd.grad(loss, [leaf, *grads], materialize_grads=True)])
        except RuntimeError:
            found.append([param.detach()])
    assert all(map(torch.equal, *found))
    assert len(found[0]) == len(found[1]) >= (2 + steps if steps == 1 else 1)
    assert [one.why for one in getattr(onepass.optim, rule)([leaf], differentiable=True).unfused_parameters()] == [
        "differentiable"
    ]


def test_gradient_of_a_learning_rate():
    """What differentiable steps are for: with tensors as options."""
    found = []
    for package, rule in itertools.product((onepass.optim, torch.optim), ("SGD", "AdamW")):
        lr = torch.tensor(0.1, requires_grad=True)
        param = torch.ones(3, requires_grad=True).clone()
        optimizer = getattr(package, rule)([param], lr=lr, differentiable=True)
        param.grad = torch.arange(3.0)
        optimizer.step()
        found.append((rule, torch.autograd.grad(param.sum(), lr)[0].item()))
    assert found[:2] == found[2:]


def test_one_differentiable_group():
    """Gradients flow only if the optimizer itself was made so, as in torch; the other group stays fused."""
    params = [torch.ones(3, requires_grad=True) for _ in "ab"]
    optimizer = onepass.optim.SGD([{"params": params[:1], "differentiable": True}, {"params": params[1:]}], lr=0.5)
    for param in params:
        param.grad = torch.ones(3)
    optimizer.step()
    assert [one.group for one in optimizer.unfused_parameters()] == [0]
    for param in params:
        assert torch.equal(param, torch.full((3,), 0.5))
    optimizer.param_groups[0]["differentiable"] = False
    optimizer.step()
    assert not optimizer.unfused_parameters()
    assert torch.equal(params[0], params[1])


def test_a_group_that_is_not_differentiable_among_others():
    """Its complex leaves are stepped in place without a gradient, whatever the other group asks for."""
    param = torch.ones(3, requires_grad=True).clone()
    leaf = torch.ones(3, dtype=torch.complex64, requires_grad=True)
    groups = [{"params": [param]}, {"params": [leaf], "differentiable": False}]
    optimizer = onepass.optim.SGD(groups, lr=0.5, differentiable=True)
    for one in (param, leaf):
        one.grad = torch.ones_like(one)
    optimizer.step()
    assert param.grad_fn is not None
    assert torch.equal(leaf, torch.full((3,), 0.5, dtype=torch.complex64))
