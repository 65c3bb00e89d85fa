"""SyncBatchNorm on real ranks: equal to one batch norm on all ranks' batches, with the same bits on each."""

from __future__ import annotations

import copy
import os
import signal

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import onepass.nn
from batch_norm_setup import (
    DTYPE_IDS,
    DTYPES,
    EPS,
    MOMENTUM,
    Inputs,
    Options,
    Outputs,
    exactly,
    inputs,
    laid_out,
    torchs,
)
from distributed_ranks import RanksFailed, run_ranks
from tolerance import FACTOR, NORM_GRADIENTS, assert_parity, error, ulp

# How a batch of 12 goes to the ranks.
CUTS = {
    "even": (6, 6),
    "uneven": (11, 1),
    "empty": (0, 12),
    "four": (3, 1, 0, 8),
}
SHAPES = {"12x5": (12, 5), "12x3x7": (12, 3, 7), "12x33x3x5": (12, 33, 3, 5), "12x300x2": (12, 300, 2)}


def own_part(tensor: Tensor, cut: tuple[int, ...]) -> Tensor:
    return tensor.split(cut)[dist.get_rank()]


def layer_of(given: Inputs, options: Options, **more) -> onepass.nn.SyncBatchNorm:
    layer = onepass.nn.SyncBatchNorm(
        len(given.weight),
        EPS,
        MOMENTUM,
        dtype=given.weight.dtype,
        activation="relu" if options.relu else None,
        **more,
    )
    with torch.no_grad():
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(layer, name).copy_(getattr(given, name))
    return layer


def trained(cases: list[tuple[Inputs, Options, tuple[int, ...], str]], compiled: bool = False) -> list[Outputs]:
    """Returns what each case gives on this rank."""
    found = []
    for given, options, cut, layout in cases:
        layer = layer_of(given, options)
        x, residual, dy = (laid_out(own_part(one, cut), layout) for one in (given.x, given.residual, given.dy))
        x.requires_grad_()
        residual.requires_grad_()
        call = torch.compile(layer, backend="aot_eager", fullgraph=True) if compiled else layer
        y = call(x, residual if options.residual else None)
        y.backward(dy)
        assert layer.num_batches_tracked == 1
        found.append(
            Outputs(
                y.detach(),
                x.grad,
                layer.weight.grad,
                layer.bias.grad,
                residual.grad if options.residual else dy,
                layer.running_mean,
                layer.running_var,
            )
        )
    return found


def together(parts: list[Outputs]) -> Outputs:
    """One batch's results from those of the ranks, whose running statistics must be the same bits."""
    first = parts[0]
    for other in parts[1:]:
        assert torch.equal(first.running_mean, other.running_mean)
        assert torch.equal(first.running_var, other.running_var)
    return Outputs(
        y=torch.cat([one.y for one in parts]),
        dx=torch.cat([one.dx for one in parts]),
        dweight=sum(one.dweight.double() for one in parts),
        dbias=sum(one.dbias.double() for one in parts),
        dresidual=torch.cat([one.dresidual for one in parts]),
        running_mean=first.running_mean,
        running_var=first.running_var,
    )


def assert_one_batch(parts: list[Outputs], torchs_: Outputs, exact: Outputs, what: str) -> None:
    found = together(parts)
    for name, value in vars(found).items():
        ours, theirs, wanted = value.detach(), getattr(torchs_, name).detach(), getattr(exact, name)
        if name not in ("dweight", "dbias"):
            assert_parity(ours, theirs, wanted, f"{what} {name}")
            continue
        # Each rank's sum is rounded to the parameter's dtype, which may be larger than the sum of all.
        rounded = sum(ulp(getattr(one, name).double(), theirs.dtype).nan_to_num(nan=0) / 2 for one in parts)
        limit = FACTOR * error(theirs, wanted).max() + ulp(wanted, theirs.dtype) + rounded
        assert (error(ours, wanted) <= limit).all(), f"{what} {name}: {error(ours, wanted)}, allowed {limit}"


def cases_of(cut: str, dtype: torch.dtype, param: torch.dtype, mean: float = 0.0):
    cases, expected = [], []
    for k, (name, shape) in enumerate(SHAPES.items()):
        for options in (Options(), Options(relu=True), Options(residual=True), Options(relu=True, residual=True)):
            given, exact = exactly(inputs(shape, dtype, param, mean=mean, seed=k), options)
            layout = "contiguous" if k % 2 else "channels_last"
            cases.append((given, options, CUTS[cut], layout))
            expected.append((f"{name} {options}", torchs(given, options), exact))
    return cases, expected


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(("dtype", "param"), DTYPES, ids=DTYPE_IDS)
def test_equals_one_batch(cut, dtype, param):
    """The error against float64 is at most twice that of torch's batch norm on the whole batch, plus one ulp."""
    cases, expected = cases_of(cut, dtype, param)
    found = run_ranks(trained, len(CUTS[cut]), 60, cases)
    for number, (what, torchs_, exact) in enumerate(expected):
        assert_one_batch([one[number] for one in found], torchs_, exact, what)


def test_far_from_zero():
    """Means of 1000 with a deviation of 1.5: nothing cancels in the merge."""
    cases, expected = cases_of("four", torch.float32, torch.float32, mean=1000.0)
    found = run_ranks(trained, 4, 60, cases)
    for number, (what, torchs_, exact) in enumerate(expected):
        assert_one_batch([one[number] for one in found], torchs_, exact, what)


def test_compiled_gives_the_same_bits():
    """In one graph, forward and backward."""
    cases, _ = cases_of("uneven", torch.float32, torch.float32)
    cases = [cases[0], cases[7]]
    eager, compiled = run_ranks(trained, 2, 60, cases), run_ranks(trained, 2, 120, cases, True)
    for one, other in zip([*eager[0], *eager[1]], [*compiled[0], *compiled[1]], strict=True):
        for name in vars(one):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


def all_empty() -> tuple[Tensor, ...]:
    layer = onepass.nn.SyncBatchNorm(3)
    x = torch.empty(0, 3, 2, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    return y.detach(), x.grad, layer.weight.grad, layer.running_mean, layer.running_var, layer.num_batches_tracked


def test_all_ranks_empty():
    for y, dx, dweight, mean, var, count in run_ranks(all_empty, 2, 30):
        assert y.shape == dx.shape == (0, 3, 2)
        assert torch.equal(dweight, torch.zeros(3))
        assert torch.equal(mean, torch.zeros(3))
        assert torch.equal(var, torch.ones(3))
        assert count == 1


def by_average(steps: int) -> tuple[Tensor, Tensor]:
    """momentum=None on this rank, and what one batch norm makes of all batches."""
    layer, whole = onepass.nn.SyncBatchNorm(4, momentum=None), torch.nn.BatchNorm1d(4, momentum=None)
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x = torch.randn(7, 4, generator=generator)
        layer(own_part(x, (5, 2)))
        whole(x)
    torch.testing.assert_close(layer.running_mean, whole.running_mean)
    torch.testing.assert_close(layer.running_var, whole.running_var)
    return layer.running_mean, layer.running_var


def test_the_mean_over_all_batches():
    first, second = run_ranks(by_average, 2, 30, 3)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def groups() -> list[float]:
    """Ranks 0 and 1 share statistics, and so do 2 and 3."""
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    rank = dist.get_rank()
    layer = onepass.nn.SyncBatchNorm(1, momentum=1.0, process_group=pairs[rank // 2])
    layer(torch.tensor([[float(rank)]]))
    layer.eval()
    evaluated = layer(torch.tensor([[3.0]]))
    return [layer.running_mean.item(), layer.running_var.item(), evaluated.item()]


def test_process_groups():
    found = run_ranks(groups, 4, 30)
    assert [one[:2] for one in found] == [[0.5, 0.5], [0.5, 0.5], [2.5, 0.5], [2.5, 0.5]]
    assert found[0][2] == found[1][2] != found[2][2] == found[3][2]


def dropped() -> tuple[Tensor, Tensor]:
    torch.manual_seed(dist.get_rank())
    layer = onepass.nn.SyncBatchNorm(2, activation="relu", dropout=0.5)
    x = torch.randn(64, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = layer(x, torch.ones(64, 2))
    y.sum().backward()
    return y.detach() == 0, x.grad


def test_ranks_drop_other_elements():
    (first, dx), (second, _) = run_ranks(dropped, 2, 30)
    assert not torch.equal(first, second)
    assert 0.4 < first.double().mean() < 0.9
    assert dx.isfinite().all()


def in_ddp(static: bool) -> list[Tensor]:
    """A step of DistributedDataParallel, against one model on the whole batch."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 2)]
    model = torch.nn.Sequential(*layers)
    whole = copy.deepcopy(model)
    onepass.nn.convert_sync_batchnorm(model)
    parallel = torch.nn.parallel.DistributedDataParallel(model, static_graph=static)
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        for one, batch in ((parallel, own_part(x, (6, 6))), (whole, x)):
            one.zero_grad()
            one(batch).square().mean().backward()
    pairs = zip(model.parameters(), whole.parameters(), strict=True)
    for own, other in pairs:
        torch.testing.assert_close(own.grad, other.grad, **NORM_GRADIENTS)
    torch.testing.assert_close(model[1].running_var, whole[1].running_var)
    return [param.grad for param in model.parameters()]


@pytest.mark.parametrize("static", [False, True])
def test_in_ddp(static):
    first, second = run_ranks(in_ddp, 2, 60, static)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def recomputed() -> None:
    """Under activation checkpointing the exchange runs again, and the statistics move once."""
    from torch.utils.checkpoint import checkpoint

    layer, plain = onepass.nn.SyncBatchNorm(3), onepass.nn.SyncBatchNorm(3)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(dist.get_rank())).requires_grad_()
    checkpoint(layer, x, use_reentrant=False).square().sum().backward()
    grad, x.grad = x.grad, None
    plain(x).square().sum().backward()
    assert torch.equal(grad, x.grad)
    assert torch.equal(layer.running_mean, plain.running_mean)
    assert layer.num_batches_tracked == 1


def test_activation_checkpointing():
    run_ranks(recomputed, 2, 30)


def other_channels(channels: tuple[int, int]) -> None:
    model = torch.nn.ModuleDict({"norm": onepass.nn.BatchNorm1d(channels[dist.get_rank()])})
    onepass.nn.convert_sync_batchnorm(model)
    model["norm"](torch.randn(4, channels[dist.get_rank()]))


# The second ones send another size: it is the first exchange of that size that notices.
@pytest.mark.parametrize("channels", [(4, 5), (600, 900)], ids=["same-size", "other-size"])
def test_other_channels_are_named(channels):
    with pytest.raises(RanksFailed) as caught:
        run_ranks(other_channels, 2, 30, channels, patience=10)
    first, second = caught.value.outcomes
    a, b = channels
    layer = f"norm (SyncBatchNorm({a})) on rank 0"
    assert f"ValueError: {layer}: rank 1 must have {a} channels there, too, got {b}" in first.text
    layer = f"norm (SyncBatchNorm({b})) on rank 1"
    assert f"ValueError: {layer}: rank 0 must have {b} channels there, too, got {a}" in second.text


def other_layer() -> None:
    model = torch.nn.ModuleList([onepass.nn.BatchNorm1d(4) for _ in range(2)])
    onepass.nn.convert_sync_batchnorm(model)
    layer = model[dist.get_rank()]
    try:
        layer(torch.randn(4, 4))
    finally:
        assert torch.equal(layer.running_mean, torch.zeros(4)), "a rejected call has changed the statistics"
        assert layer.num_batches_tracked == 0


def test_ranks_in_different_layers():
    with pytest.raises(RanksFailed, match=r"0 .SyncBatchNorm.4.. on rank 0: rank 1 must be in the same layer"):
        run_ranks(other_layer, 2, 30, patience=10)


def one_value() -> None:
    x = torch.randn(1 if dist.get_rank() else 0, 4)
    onepass.nn.SyncBatchNorm(4)(x)


def test_one_value_on_all_ranks():
    with pytest.raises(RanksFailed, match=r"all ranks together must have more than 1 value per channel"):
        run_ranks(one_value, 2, 30, patience=10)


def late() -> None:
    layer = onepass.nn.SyncBatchNorm(4)
    layer(torch.randn(4, 4))
    if dist.get_rank() == 0:
        layer(torch.randn(4, 4))
    dist.monitored_barrier()


def test_a_rank_that_does_not_come():
    """It ends with an error that names layer and rank, in the time limit of the group."""
    with pytest.raises(RanksFailed) as caught:
        run_ranks(late, 2, 20, patience=2)
    waiting = caught.value.outcomes[0]
    assert waiting.kind == "raised"
    assert waiting.seconds < 10
    assert "SyncBatchNorm(4) on rank 0: the statistics of all ranks must arrive, got an error" in waiting.text


def faulty(fault: str, backward: bool) -> None:
    layer, x = onepass.nn.SyncBatchNorm(4), torch.randn(4, 4, requires_grad=True)
    y = layer(x)
    if dist.get_rank() == 1:
        if fault == "raises":
            raise ValueError("rank 1 has a fault")
        os.kill(os.getpid(), signal.SIGKILL)
    if backward:
        y.sum().backward()
    else:
        layer(x)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(("fault", "kind"), [("raises", "raised"), ("is killed", "died")])
def test_a_rank_with_a_fault(fault, kind, backward):
    """The other one ends with an error, at once and not after the time limit of the group."""
    with pytest.raises(RanksFailed) as caught:
        run_ranks(faulty, 2, 30, fault, backward, patience=20)
    waiting, ended = caught.value.outcomes
    assert (waiting.kind, ended.kind) == ("raised", kind)
    assert waiting.seconds < 15
    assert "SyncBatchNorm(4) on rank 0: the statistics of all ranks must arrive, got an error" in waiting.text


def refused() -> list[str]:
    layer, x = onepass.nn.SyncBatchNorm(3), torch.randn(4, 3, requires_grad=True)
    messages = []
    for call in (
        lambda: torch.autograd.grad(layer(x).sum(), x, create_graph=True),
        lambda: torch.func.grad(lambda x: layer(x).sum())(x),
        lambda: torch.export.export(layer, (torch.randn(4, 3),)),
        lambda: layer(torch.randn(4, 5)),
        lambda: layer(torch.randn(4)),
        lambda: layer(torch.randn(4, 3, dtype=torch.float64)),
        lambda: layer(x, torch.randn(4, 4)),
        lambda: layer.double()(x),
    ):
        try:
            call()
            messages.append("nothing")
        except Exception as error:
            messages.append(str(error))
    return messages


def test_refused():
    for found in run_ranks(refused, 2, 60):
        for message, part in zip(
            found,
            (
                "SyncBatchNorm: create_graph and is_grads_batched must be False",
                "several ranks must not train under torch.func",
                "SyncBatchNorm: training must be False under torch.export",
                "running_mean must have 5 elements, got 3",
                "SyncBatchNorm: input must have at least 2 dimensions, got 1",
                "running_mean must be torch.float64, got torch.float32",
                "residual must have input's dtype and shape torch.float32 [4, 3]",
                "running_mean must be torch.float32, got torch.float64",
            ),
            strict=True,
        ):
            assert part in message
