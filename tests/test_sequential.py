"""onepass.nn.Sequential: a batch norm and the ReLU behind it in one pass, decided in each call."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torchs
from torch.utils._pytree import tree_leaves

import onepass.nn
from onepass.nn import convert

KINDS = {1: (5,), 2: (5, 3, 4), 3: (5, 2, 3, 2)}


@pytest.fixture
def relus(monkeypatch):
    """How often an nn.ReLU ran."""
    calls = []
    forward = nn.ReLU.forward

    def counted(self, input):
        calls.append(self)
        return forward(self, input)

    monkeypatch.setattr(nn.ReLU, "forward", counted)
    return calls


def pair(inplace: bool = False) -> onepass.nn.Sequential:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(inplace))
    convert(model, fuse_relu=True)
    with torch.no_grad():
        model[0].weight.uniform_(-2, 2)
        model[0].bias.uniform_(-1, 1)
    return model


def results(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradients and statistics of a step."""
    model.zero_grad()
    x = x.clone().requires_grad_()
    y = model(x)
    y.float().square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in model.parameters()), *(b.clone() for b in model.buffers())]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("inplace", [False, True], ids=["", "inplace"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dims", KINDS)
def test_one_pass_gives_the_bits_of_two(relus, dims, dtype, inplace, training):
    """Values that are not finite, gradients and statistics have the same bits, too."""
    torch.manual_seed(0)
    norm = getattr(onepass.nn, f"BatchNorm{dims}d")(5).to(
        torch.float64 if dtype == torch.float64 else torch.float32
    )
    with torch.no_grad():
        norm.weight.uniform_(-2, 2)
        norm.bias.uniform_(-1, 1)
    one = onepass.nn.Sequential(norm, nn.ReLU(inplace)).train(training)
    two = nn.Sequential(copy.deepcopy(norm), nn.ReLU(inplace)).train(training)
    x = torch.randn((6, *KINDS[dims])).to(dtype)
    x[0, 1] = float("nan")
    x[1, 2] = float("inf")
    mine = results(one, x)
    assert relus == []
    theirs = results(two, x)
    assert len(relus) == 1
    assert same(mine, theirs)


@pytest.mark.parametrize(
    ("hook", "which"),
    [
        (hook, which)
        for which in (0, 1)
        for hook in (
            "register_forward_hook",
            "register_forward_pre_hook",
            "register_full_backward_hook",
            "register_full_backward_pre_hook",
        )
    ],
)
def test_hooks_see_what_torch_shows_them(relus, hook, which):
    """On either module, while they are there."""
    torch.manual_seed(0)
    model, plain = pair(), nn.Sequential(onepass.nn.BatchNorm1d(3), nn.ReLU())
    plain.load_state_dict(model.state_dict())
    x = torch.randn(7, 3)
    seen, handles = {}, []
    for one in (model, plain):
        found = seen.setdefault(id(one), [])
        handles.append(
            getattr(one[which], hook)(
                lambda _, *args, found=found: found.extend(t.detach().clone() for t in tree_leaves(args)) and None
            )
        )
    mine, theirs = results(model, x), results(plain, x)
    assert len(relus) == 2
    assert same(mine, theirs)
    assert len(seen[id(model)]) == (1 if "pre" in hook else 2)
    assert same(seen[id(model)], seen[id(plain)])
    handles[0].remove()
    model(x)
    assert len(relus) == 2


def test_hooks_may_change_what_lies_between():
    """By another tensor or in place: ReLU comes after them."""
    for change in (lambda module, args, output: output - 100, lambda module, args, output: output.sub_(100)):
        model = pair()
        model[0].register_forward_hook(change)
        assert (model(torch.randn(7, 3)) == 0).all()


@pytest.mark.parametrize(
    "register",
    [
        torchs.register_module_forward_hook,
        torchs.register_module_forward_pre_hook,
        torchs.register_module_full_backward_hook,
        torchs.register_module_full_backward_pre_hook,
    ],
)
def test_hooks_of_all_modules(relus, register):
    model, seen = pair(), []
    handle = register(lambda module, *args: seen.append(type(module)) and None)
    try:
        results(model, torch.randn(7, 3))
    finally:
        handle.remove()
    assert nn.ReLU in seen
    assert len(relus) == 1


def test_own_forwards_count():
    x = torch.randn(7, 3)
    for which, largest in ((0, 0), (1, -90)):
        model = pair()
        forward = model[which].forward
        model[which].forward = lambda input, forward=forward: forward(input) - 100
        y = model(x)
        assert y.max() <= largest
        assert y.min() == (0 if which == 0 else -100)

    class Shifted(onepass.nn.BatchNorm1d):
        def forward(self, input):
            return super().forward(input) - 100

    assert (onepass.nn.Sequential(Shifted(3), nn.ReLU())(x) == 0).all()


def test_shared_modules_and_neighbours(relus):
    """A ReLU at two places, a batch norm at two, batch norms in a row, at the end, ReLUs alone."""
    relu, norm = nn.ReLU(), nn.BatchNorm1d(3)
    model = nn.Sequential(norm, relu, nn.BatchNorm1d(3), relu, norm, relu, relu, norm, norm, nn.Tanh(), norm)
    plain = copy.deepcopy(model)
    convert(plain)
    convert(model, fuse_relu=True)
    x = torch.randn(9, 3)
    mine = results(model, x)
    assert len(relus) == 1
    assert same(mine, results(plain, x))


class Named(nn.Sequential):
    """A subclass as torchvision's ConvNormActivation is one: with a constructor and an attribute of its own."""

    def __init__(self, features: int) -> None:
        super().__init__(nn.BatchNorm1d(features), nn.ReLU())
        self.features = features

    def doubled(self) -> int:
        return 2 * self.features


def saved(model: nn.Module) -> nn.Module:
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    return torch.load(stream, weights_only=False)


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()), lambda: Named(3)])
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, saved, *(lambda m, p=p: pickle.loads(pickle.dumps(m, p)) for p in range(6))],
)
def test_copies_run_in_one_pass(relus, make, copied):
    model = make()
    names = list(model.state_dict())
    convert(model, fuse_relu=True)
    other = copied(model)
    assert type(other) is type(model)
    assert list(other.state_dict()) == names
    x = torch.randn(7, 3)
    assert torch.equal(other.eval()(x), model.eval()(x))
    assert relus == []
    if isinstance(other, Named):
        assert other.doubled() == 6
    assert type(onepass.nn.revert(other)) is type(make())


def test_threads_and_replicas(relus):
    model = pair().eval()
    x = torch.randn(64, 3)
    expected = model(x)
    replica = model._replicate_for_data_parallel()
    found = []
    threads = [
        threading.Thread(target=lambda one=one: found.extend(one(x) for _ in range(50)))
        for one in (model, replica, model, replica)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200
    assert all(torch.equal(y, expected) for y in found)
    assert relus == []


def test_what_is_printed():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU())
    convert(model, fuse_relu=True)
    assert str(model).splitlines()[:2] == ["Sequential(", "  (1) and (2) in one pass"]
    model[2].register_forward_hook(lambda *args: None)
    assert "in one pass" not in str(model)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore:.*record_function.*", "ignore::DeprecationWarning:torch")
def test_compiled_in_one_graph_and_one_pass(backend):
    torch.compiler.reset()
    model = pair()
    eager, x, graphs = copy.deepcopy(model), torch.randn(7, 3), []

    def compiler(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    compiled = torch.compile(model, fullgraph=True, backend=compiler)
    assert same(results(compiled, x), results(eager, x))
    assert len(graphs) == 1
    assert "relu(" not in graphs[0].code
    model[1].register_forward_hook(lambda module, args, output: output + 1)
    eager[1].register_forward_hook(lambda module, args, output: output + 1)
    # Hooks of later are not seen by what is compiled (torch says so), but by what is compiled then.
    torch.compiler.reset()
    assert same(results(torch.compile(model, backend="aot_eager"), x), results(eager, x))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning:torch")
def test_traced_by_jit():
    model, x = pair().eval(), torch.randn(7, 3)
    assert torch.equal(torch.jit.trace(model, (x,))(x), model(x))


def test_an_empty_container_and_other_inputs():
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    assert onepass.nn.Sequential()(3) == 3
    model = onepass.nn.Sequential(onepass.nn.BatchNorm1d(3), Two())
    assert len(model(torch.randn(4, 3))) == 2
    assert type(model[:1]) is onepass.nn.Sequential
