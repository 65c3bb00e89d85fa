"""Dropout's modules, its seeds, and what others do silently wrong."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch._functorch.config
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import onepass.nn
import onepass.nn.functional as ours
from onepass.bench.memory import kept_bytes
from onepass.nn.dropout import OURS
from reference.dropout import kept

PAIRS = list(OURS.items())
PAIR_IDS = [mine.__name__ for _, mine in PAIRS]
SHAPES = {
    "Dropout": (4, 6),
    "Dropout1d": (4, 6, 5),
    "Dropout2d": (4, 6, 3, 2),
    "Dropout3d": (4, 6, 2, 2, 2),
    "AlphaDropout": (4, 6),
    "FeatureAlphaDropout": (4, 6, 3),
}


@pytest.mark.parametrize(("theirs", "mine"), PAIRS, ids=PAIR_IDS)
def test_modules_are_torchs(backend, theirs, mine):
    module, other = mine(0.4, inplace=True), theirs(0.4, inplace=True)
    assert isinstance(module, theirs)
    assert str(module) == str(other)
    assert module.state_dict() == other.state_dict() == {}
    x = torch.randn(SHAPES[mine.__name__], device=backend.device) + 10
    assert module.eval()(x) is x
    torch.manual_seed(5)
    before = x.clone()
    y = module.train()(x)
    assert y is x  # also of AlphaDropout, whose inplace torch ignores
    torch.manual_seed(5)
    function = getattr(
        ours,
        {"Alpha": "alpha_dropout", "Featu": "feature_alpha_dropout"}.get(mine.__name__[:5], mine.__name__.lower()),
    )
    assert torch.equal(function(before, 0.4, True), y)
    twin = copy.deepcopy(module)
    assert (twin.p, twin.inplace) == (0.4, True)


@pytest.mark.parametrize(("theirs", "mine"), PAIRS, ids=PAIR_IDS)
def test_modules_take_seeds_and_refuse_wrong_options(theirs, mine):
    x = torch.randn(SHAPES[mine.__name__])
    module = mine(0.5)
    assert torch.equal(module(x, seed=3), module(x, seed=3))
    generator = torch.Generator().manual_seed(2)
    first = module(x, generator=generator)
    assert torch.equal(first, module(x, generator=generator.manual_seed(2)))
    with pytest.raises(ValueError, match=f"{mine.__name__}: p must be at least 0 and at most 1, got 1.5"):
        mine(1.5)
    if "Alpha" in mine.__name__:
        return
    assert torch.equal(module(x, x, seed=3), module(x, seed=3) + x)
    with pytest.raises(ValueError, match=f"{mine.__name__}: scaling must be 'inverted' or 'test_time', got 'x'"):
        mine(scaling="x")
    classic = mine(0.5, scaling="test_time")
    assert str(classic) == f"{mine.__name__}(p=0.5, inplace=False, scaling='test_time')"
    assert torch.equal(classic(x, seed=3) * 2, module(x, seed=3))
    assert torch.equal(classic.eval()(x), x * 0.5)


def test_alpha_dropout_keeps_mean_and_variance():
    x = torch.randn(200_000)
    for p in (0.1, 0.5):
        y = ours.alpha_dropout(x, p, True, seed=1)
        assert abs(y.mean()) < 0.02
        assert abs(y.var() - 1) < 0.02


def test_seeds_come_from_torchs_generator(backend):
    """manual_seed, saved states and fork_rng hold; consecutive calls differ."""
    x = torch.ones(100, device=backend.device)
    torch.manual_seed(3)
    first, second = ours.dropout(x), ours.dropout(x)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(ours.dropout(x), first)
    state = torch.get_rng_state()
    again = ours.dropout(x)
    assert torch.equal(again, second)
    torch.set_rng_state(state)
    with torch.random.fork_rng():
        assert torch.equal(ours.dropout(x), second)
    assert torch.equal(ours.dropout(x), second)
    assert torch.equal(ours.dropout(x, seed=torch.tensor([-3], device=x.device)), ours.dropout(x, seed=2**64 - 3))


class Masks(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return ours.dropout(torch.ones(256), 0.5).ne(0)


def test_forked_workers_differ():
    loader = torch.utils.data.DataLoader(Masks(), batch_size=1, num_workers=2, multiprocessing_context="fork")
    masks = [mask.flatten().tolist() for mask in loader]
    assert len({tuple(mask) for mask in masks}) == 4


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(backend, reentrant):
    """The recomputed forward pass draws the seed of the first."""
    module = nn.Sequential(nn.Linear(8, 64), onepass.nn.Dropout(0.5), nn.Linear(64, 8)).to(backend.device)
    x = torch.randn(4, 8, device=backend.device, requires_grad=True)
    grads = []
    for run in (module, lambda x: checkpoint(module, x, use_reentrant=reentrant)):
        torch.manual_seed(2)
        grads.append(
            torch.autograd.grad(run(x).square().sum(), (x, *module.parameters()), allow_unused=True)
            if run is module or not reentrant
            else _backward(run, x, module)
        )
    for mine, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(mine, theirs)


def _backward(run, x, module):
    """torch's reentrant mode works with backward() alone."""
    for leaf in (x, *module.parameters()):
        leaf.grad = None
    run(x).square().sum().backward()
    return [leaf.grad for leaf in (x, *module.parameters())]


def test_autocast():
    x = torch.randn(8, 16, requires_grad=True)
    layer, drop = nn.Linear(16, 16), onepass.nn.Dropout(0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = drop(layer(x))
        z = F.dropout(layer(x))
    assert y.dtype == z.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.dtype == torch.float32


def test_nothing_is_kept_for_backward():
    """Eight bytes a call, of the seed; torch's CPU dropout keeps as many bytes as the input has."""
    x = torch.randn(10_000, requires_grad=True)
    assert kept_bytes(lambda: ours.dropout(x)) == 8
    assert kept_bytes(lambda: ours.dropout(x, residual=x)) == 8
    assert kept_bytes(lambda: ours.dropout(x, seed=3)) == 0
    assert kept_bytes(lambda: F.dropout(x)) == 40_000


def test_converted():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2), nn.Dropout2d(), nn.AlphaDropout(0.1, inplace=True))
    model.append(type("Mine", (nn.Dropout,), {})())
    model[1].note = "mine"
    hook = model[1].register_forward_hook(lambda *_: None)
    result = onepass.nn.convert(model)
    assert [type(module) for module in model[1:4]] == [
        onepass.nn.Dropout,
        onepass.nn.Dropout2d,
        onepass.nn.AlphaDropout,
    ]
    assert (model[1].p, model[1].note, model[3].inplace) == (0.2, "mine", True)
    assert hook.id in model[1]._forward_hooks
    assert result.table[-1].note == (
        "is not exactly torch's Dropout, Dropout1d, Dropout2d, Dropout3d, AlphaDropout, FeatureAlphaDropout"
    )
    model[1](torch.randn(3, 4))
    model[1].scaling = "test_time"
    with pytest.raises(
        ValueError, match=r"revert: scaling of 1 \(Dropout\) must be 'inverted', .* got 'test_time'"
    ):
        result.revert()
    model[1].scaling = "inverted"
    result.revert()
    assert [type(module) for module in model[1:4]] == [nn.Dropout, nn.Dropout2d, nn.AlphaDropout]
    assert "scaling" not in vars(model[1])


# What others do silently wrong, by pytorch's issue.


@pytest.fixture
def _fresh():
    functorch, inductor = torch._functorch.config, torch._inductor.config
    torch.compiler.reset()
    with functorch.patch(enable_autograd_cache=False), inductor.patch(fx_graph_cache=False):
        yield


# torch.compile itself warns of what it cannot profile.
pytestmark = pytest.mark.filterwarnings("ignore:.*record_function.*", "ignore::DeprecationWarning:torch")


@pytest.mark.usefixtures("_fresh")
def test_198333_compiled_elements_do_not_share_a_mask():
    """torch 2.13's rand4x gives groups of four channels one mask, and a checkpoint's backward pass another."""

    def run(x):
        return checkpoint(lambda x: ours.dropout(x.sin(), 0.5).cos(), x, use_reentrant=False)

    x = torch.ones(4, 64, 9, 5).to(memory_format=torch.channels_last).requires_grad_()
    torch.manual_seed(1)
    y = torch.compile(run, fullgraph=True)(x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    dropped = y == 1
    for step in (1, 2, 3):
        same = (dropped[:, step:] == dropped[:, :-step]).float().mean()
        assert abs(same - 0.5) < 0.05
    assert torch.equal(dx == 0, dropped)


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("budget", [0.0, 0.3])
def test_190758_a_memory_budget_does_not_draw_again(budget):
    """torch's partitioner may draw random numbers again in the backward pass: other masks, silently.

    It would do so with our seed, too. So that is an error; with seeds of the caller's nothing is drawn.
    """

    def run(x, seeds):
        for seed in seeds:
            x = ours.dropout(x.sin(), 0.5, seed=seed) + 1
        return x

    x = torch.ones(64, 33, requires_grad=True)
    seeds = [torch.tensor([number]) for number in range(3)]
    results = []
    with torch._functorch.config.patch(activation_memory_budget=budget):
        with pytest.raises(Exception, match=r"dropout must get its seed by seed= under torch\.compile"):
            torch.compile(run, fullgraph=True)(x, [None, None])
        for function in (run, torch.compile(run, fullgraph=True)):
            y = function(x, seeds)
            results += [y, *torch.autograd.grad(y.sum(), x)]
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[3])


@pytest.mark.usefixtures("_fresh")
def test_192635_masks_do_not_depend_on_the_order_of_a_graph():
    """torch's scheduler moves random operations to save memory, and each then draws another's numbers."""

    def run(x):
        big = ours.dropout(x.repeat(8, 1), 0.5)
        small = ours.dropout(x[:1] * 2, 0.5)
        return big.sum(0), small, ours.dropout(x, 0.5)

    x = torch.ones(32, 65)
    results = []
    for function in (run, torch.compile(run, fullgraph=True)):
        torch.manual_seed(4)
        results.append(function(x))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(eager, compiled)


def test_196613_masks_do_not_depend_on_the_machine():
    """torch's depend on the number of multiprocessors; here: on nothing that a machine has."""
    n = 5_000
    want = torch.from_numpy(kept(np.arange(n), 0.5, 77))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 7):
            torch.set_num_threads(count)
            assert torch.equal(ours.dropout(torch.ones(n), 0.5, seed=77) != 0, want)
    finally:
        torch.set_num_threads(threads)


def test_negative_bit():
    """What only says that it is negative is read as what it is, in place, too."""
    x, residual = torch.randn(4, 5), torch.randn(4, 5)

    def flipped(tensor):
        return torch._neg_view(-tensor)

    wanted = onepass.nn.functional.dropout(x, seed=1, residual=residual)
    assert torch.equal(onepass.nn.functional.dropout(flipped(x), seed=1, residual=residual), wanted)
    assert torch.equal(onepass.nn.functional.dropout(x, seed=1, residual=flipped(residual)), wanted)
    one = flipped(x)
    assert onepass.nn.functional.dropout(one, 0.5, True, True, seed=1, residual=residual) is one
    assert torch.equal(one, wanted)
    leaf = x.clone().requires_grad_()
    onepass.nn.functional.dropout(leaf, seed=1).backward(flipped(residual))
    assert torch.equal(leaf.grad, onepass.nn.functional.dropout(residual, seed=1))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning:torch")
def test_traced():
    x = torch.ones(4, 1000)
    traced = torch.jit.trace(lambda x: onepass.nn.functional.dropout(x, 0.5), x, check_trace=False)
    for found in (traced(x), traced(x)):
        assert ((found == 0) | (found == 2)).all()
        assert 0.4 < (found == 0).float().mean() < 0.6
    assert not torch.equal(traced(x), traced(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: ours.dropout(x, 0.5, seed=3),
        lambda x: ours.dropout2d(x.unsqueeze(-1).unsqueeze(-1), 0.5, seed=3),
        lambda x: ours.alpha_dropout(x, 0.5, True, seed=3),
        lambda x: ours.cross_entropy(x, torch.tensor([1, -100, 0, 2]), label_smoothing=0.1, reduction="none"),
        lambda x: ours.cross_entropy(x, x.detach().softmax(1)),
        lambda x: ours.batch_norm(x, None, None, training=True, activation="relu", residual=x),
    ],
    ids=["dropout", "dropout2d", "alpha_dropout", "cross_entropy", "probabilities", "batch_norm"],
)
def test_batched_gradients(function):
    """Many gradients in one call, as of jacobian(vectorize=True), are those of many calls."""
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    y = function(x)
    grads = torch.randn(3, *y.shape, dtype=torch.float64)
    one_by_one = torch.stack([torch.autograd.grad(y, x, grad, retain_graph=True)[0] for grad in grads])
    for create_graph in (False, True):
        found = torch.autograd.grad(y, x, grads, True, create_graph, is_grads_batched=True)[0]
        torch.testing.assert_close(found, one_by_one)
    jacobians = [torch.autograd.functional.jacobian(function, x, vectorize=fast) for fast in (False, True)]
    torch.testing.assert_close(*jacobians)
