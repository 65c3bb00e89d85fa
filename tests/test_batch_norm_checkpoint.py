"""Batch normalisation under activation checkpointing: the recomputation moves no statistics, counts no batch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    set_checkpoint_early_stop,
)

import onepass.nn
from onepass.nn.functional import batch_norm

pytestmark = pytest.mark.filterwarnings("ignore:.*record_function.*", "ignore::DeprecationWarning:torch")


class Recomputing(torch.autograd.Function):
    """Another library's checkpoint: nothing of it is torch's but the base class."""

    @staticmethod
    def forward(ctx, function, x):
        ctx.function, ctx.generator = function, torch.get_rng_state()
        ctx.save_for_backward(x)
        with torch.no_grad():
            return function(x)

    @staticmethod
    def backward(ctx, grad):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad(), torch.random.fork_rng():
            torch.set_rng_state(ctx.generator)
            y = ctx.function(x)
        torch.autograd.backward(y, grad)
        return None, x.grad


def without_early_stop(function, x):
    with set_checkpoint_early_stop(False):
        return checkpoint(function, x, use_reentrant=False)


def selective(policy, function, x):
    """Some operations are kept, and their order counts."""
    contexts = partial(create_selective_checkpoint_contexts, lambda _, operation, *a, **k: policy(operation))
    return checkpoint(function, x, use_reentrant=False, context_fn=contexts)


def save_all(operation):
    mutates = operation._schema.is_mutable
    return CheckpointPolicy.PREFER_RECOMPUTE if mutates else CheckpointPolicy.MUST_SAVE


def save_additions(operation):
    added = operation is torch.ops.aten.add.Tensor
    return CheckpointPolicy.MUST_SAVE if added else CheckpointPolicy.PREFER_RECOMPUTE


reentrant = partial(checkpoint, use_reentrant=True)
plain = partial(checkpoint, use_reentrant=False)
WAYS = {
    "reentrant": reentrant,
    "plain": plain,
    "plain, to the end": without_early_stop,
    "plain in plain": lambda f, x: plain(partial(plain, f), x),
    "plain in plain, to the end": lambda f, x: without_early_stop(partial(without_early_stop, f), x),
    "reentrant in reentrant": lambda f, x: reentrant(partial(reentrant, f), x),
    "plain in reentrant": lambda f, x: reentrant(partial(plain, f), x),
    "three deep": lambda f, x: plain(partial(plain, partial(plain, f)), x),
    "selective, nothing": partial(selective, lambda _: CheckpointPolicy.PREFER_RECOMPUTE),
    "selective, everything": partial(selective, save_all),
    "selective, additions": partial(selective, save_additions),
    "another library's": Recomputing.apply,
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))


class Functional(nn.Module):
    """The function, with statistics of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("running_var", torch.ones(3))
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return batch_norm(x, self.running_mean, self.running_var, self.weight, training=True, momentum=0.3)


class Residual(nn.Module):
    """The sum's operation is the count's of momentum=None, too."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = onepass.nn.BatchNorm1d(3, momentum=None)

    def forward(self, x):
        return (self.norm(x) + x).sin() + self.norm(x.cos())


NETS = {
    "last": lambda: nn.Sequential(nn.Linear(3, 3), onepass.nn.BatchNorm1d(3)),
    "alone": lambda: onepass.nn.BatchNorm1d(3, activation="relu", dropout=0.5),
    "first": lambda: nn.Sequential(onepass.nn.BatchNorm1d(3), nn.Linear(3, 3), nn.Tanh()),
    "no affine": lambda: nn.Sequential(nn.Linear(3, 3), onepass.nn.BatchNorm1d(3, affine=False), nn.Tanh()),
    "mean of all": lambda: nn.Sequential(nn.Linear(3, 3), onepass.nn.BatchNorm1d(3, momentum=None)),
    "twice": Residual,
    "function": lambda: nn.Sequential(nn.Linear(3, 3), Functional()),
}
nets = pytest.mark.parametrize("make", NETS.values(), ids=list(NETS))


def trained(make, way, steps=3) -> list[torch.Tensor]:
    """Gradients and buffers of a few steps; without a way as if nothing were recomputed."""
    torch.manual_seed(0)
    net = make()
    for step in range(steps):
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(step)).requires_grad_()
        y = net(x) if way is None else way(net, x)
        (2 * y.square()).sum().backward()
    return [x.grad, *(p.grad for p in net.parameters()), *net.buffers()]


@ways
@nets
def test_each_batch_counts_once(make, way):
    for mine, once in zip(trained(make, way), trained(make, None), strict=True):
        assert torch.equal(mine, once)


def test_torch_counts_twice():
    """What the others are right against; if torch is mended, docs/batch_norm.md and README say so."""
    net = nn.BatchNorm1d(3, momentum=0.5)
    x = torch.full((6, 3), 8.0, requires_grad=True)
    plain(net, x).sum().backward()
    assert net.num_batches_tracked == 2
    assert torch.equal(net.running_mean, torch.full((3,), 6.0))


def test_each_backward_pass_recomputes_and_none_counts():
    """With retain_graph, and by torch.autograd.grad, which torch's non-reentrant form takes."""
    net = onepass.nn.BatchNorm1d(3)
    y = plain(net, torch.randn(6, 3, requires_grad=True)).square().sum()
    once = [buffer.clone() for buffer in net.buffers()]
    y.backward(retain_graph=True)
    torch.autograd.grad(y, net.weight, retain_graph=True)
    (first,) = torch.autograd.grad(y, net.weight, create_graph=True)
    first.sum().backward()
    assert all(map(torch.equal, net.buffers(), once))
    assert net.num_batches_tracked == 1


def test_the_first_pass_in_a_hook_counts():
    """A network that a backward pass trains, as a critic, is not recomputed, even within one that is."""
    for run in (lambda f, x: f(x), reentrant, plain):
        critic = onepass.nn.BatchNorm1d(3)

        def layer(x, critic=critic):
            y = x.sin()
            if y.requires_grad:
                y.register_hook(lambda grad: (critic(grad.detach()), None)[1])
            return y.cos()

        run(layer, torch.randn(6, 3, requires_grad=True)).sum().backward()
        # torch's checkpoint without reentrance has the hook on both graphs, of which one is differentiated.
        assert critic.num_batches_tracked == 1
        assert not torch.equal(critic.running_mean, torch.zeros(3))


def test_a_checkpoint_that_has_its_own_cure_is_left_to_it():
    """fairscale's `patch_batchnorm` (mmengine's, too) switches the statistics off in the first pass instead."""
    module, reference = onepass.nn.BatchNorm1d(3), onepass.nn.BatchNorm1d(3)

    def before(module, _):
        if not torch.is_grad_enabled():
            module._track_running_stats_backup = module.track_running_stats
            module.track_running_stats = False

    def after(module, *_):
        if not torch.is_grad_enabled():
            module.track_running_stats = module._track_running_stats_backup

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)
    x = torch.randn(6, 3, requires_grad=True)
    Recomputing.apply(module, x).sum().backward()
    reference(x).sum().backward()
    assert all(map(torch.equal, module.buffers(), reference.buffers()))


def test_evaluation_under_a_checkpoint_changes_nothing():
    net = onepass.nn.BatchNorm1d(3).eval()
    plain(net, torch.randn(6, 3, requires_grad=True)).sum().backward()
    assert net.num_batches_tracked == 0
    assert torch.equal(net.running_mean, torch.zeros(3))


@pytest.mark.parametrize("momentum", [0.3, None])
def test_forward_mode(momentum):
    """The layer is composed of torch's operations there; as many tensors are saved in both passes."""
    found = []
    for run in (plain, lambda f, x: f(x)):
        torch.manual_seed(0)
        net = nn.Sequential(onepass.nn.BatchNorm1d(3, momentum=momentum), nn.Tanh())
        x = torch.randn(6, 3, requires_grad=True)
        for _ in range(2):
            with forward_ad.dual_level():
                dual = forward_ad.make_dual(x, torch.randn(6, 3))
                forward_ad.unpack_dual(run(net, dual)).tangent.sum().backward()
        found.append([x.grad, *net.buffers()])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("momentum", [0.3, None])
def test_a_compiled_layer_in_a_checkpoint(momentum):
    """It runs the code of its first pass again. Nobody reads the count but the mean of all batches."""
    torch._dynamo.reset()
    net, reference = (onepass.nn.BatchNorm1d(3, momentum=momentum) for _ in range(2))
    compiled = torch.compile(net, backend="aot_eager")
    for step in range(3):
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(step)).requires_grad_()
        plain(compiled, x).square().sum().backward()
        reference(x)
    torch.testing.assert_close(net.running_mean, reference.running_mean)
    torch.testing.assert_close(net.running_var, reference.running_var)
    if momentum is None:
        assert net.num_batches_tracked == 3


@pytest.mark.parametrize("momentum", [0.3, None])
def test_a_compiled_checkpoint(momentum):
    """The compiler recomputes operations, among them the layer's, whose statistics are then dropped."""
    torch._dynamo.reset()
    net, reference = (onepass.nn.BatchNorm1d(3, momentum=momentum) for _ in range(2))
    compiled = torch.compile(lambda x: plain(lambda x: net(x.sin()).cos(), x), backend="aot_eager", fullgraph=True)
    for step in range(3):
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(step)).requires_grad_()
        compiled(x).square().sum().backward()
        reference(x.sin())
    torch.testing.assert_close(net.running_var, reference.running_var)
    assert net.num_batches_tracked == 3


def test_under_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = nn.Sequential(nn.Linear(3, 3), onepass.nn.BatchNorm1d(3))
        parallel = nn.parallel.DistributedDataParallel(net)
        for _ in range(2):
            plain(parallel, torch.randn(6, 3, requires_grad=True)).sum().backward()
        assert net[1].num_batches_tracked == 2
    finally:
        torch.distributed.destroy_process_group()
