"""The kernels of SyncBatchNorm on each backend, with threads of one process as ranks."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from batch_norm_setup import EPS, MOMENTUM, Inputs, Options, exactly, inputs, laid_out, torchs
from conftest import Backend
from onepass.nn.batch_norm import _sync_kernels
from onepass.nn.batch_norm._exchange import Peers
from onepass.nn.batch_norm._kernels import Options as CallOptions
from onepass.nn.batch_norm._kernels import Running
from tolerance import RANK_SUMS, assert_parity

CUT = (5, 0, 7)
# A gather that a failed rank keeps waiting ends in this time, in seconds.
PATIENCE = 60


class Group:
    """Ranks that are threads: each waits for the others' numbers."""

    def __init__(self, ranks: int) -> None:
        self.barrier = threading.Barrier(ranks, timeout=PATIENCE)
        self.sent: list[Tensor | None] = [None] * ranks


def gathered(own: Tensor, peers: Peers, channels: int) -> Tensor:
    group, rank = peers.group
    group.sent[rank] = own
    group.barrier.wait()
    found = torch.stack(group.sent)
    # Before anyone sends the next numbers.
    group.barrier.wait()
    return found


@pytest.fixture
def in_threads(monkeypatch):
    monkeypatch.setattr(_sync_kernels, "gather", gathered)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda group: group[1])


def one_rank(given: Inputs, options: Options, group: Group, rank: int, backend: Backend, layout: str):
    x, residual, dy = (
        laid_out(one.split(CUT)[rank], layout).to(backend.device) for one in (given.x, given.residual, given.dy)
    )
    weight, bias, mean, var = (
        one.to(backend.device, copy=True)
        for one in (given.weight, given.bias, given.running_mean, given.running_var)
    )
    peers, running = Peers((group, rank), "norm", 5), Running(mean, var, None)
    call = CallOptions(True, MOMENTUM, EPS, "relu" if options.relu else None, 0.0)
    residual = residual if options.residual else None
    y, *saved = _sync_kernels.forward(x, weight, bias, residual, running, 0, call, peers)
    wanted = [True, True, True, options.residual]
    found = _sync_kernels.Saved(*saved)
    dx, dweight, dbias, _ = _sync_kernels.backward(dy, x, weight, bias, found, call, wanted, peers)
    return [one.cpu() for one in (y, dx, dweight, dbias, mean, var)]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(12, 5), (12, 3, 7), (12, 33, 40), (12, 300, 2)], ids=str)
def test_threads_equal_one_batch(backend, shape, layout, in_threads):
    for options in (Options(), Options(relu=True), Options(relu=True, residual=True)):
        given, exact = exactly(inputs(shape, torch.float32, torch.float32), options)
        theirs = torchs(given, options)
        group, found = Group(len(CUT)), [None] * len(CUT)

        def run(rank: int, given=given, options=options, group=group, found=found) -> None:
            try:
                found[rank] = one_rank(given, options, group, rank, backend, layout)
            except BaseException:
                group.barrier.abort()
                raise

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(CUT))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert None not in found
        y, dx, dweight, dbias, mean, var = zip(*found, strict=True)
        assert all(torch.equal(mean[0], one) for one in mean)
        assert all(torch.equal(var[0], one) for one in var)
        assert_parity(torch.cat(y), theirs.y, exact.y, f"{options} y")
        assert_parity(torch.cat(dx), theirs.dx, exact.dx, f"{options} dx")
        assert_parity(mean[0], theirs.running_mean, exact.running_mean, f"{options} mean")
        assert_parity(var[0], theirs.running_var, exact.running_var, f"{options} var")
        torch.testing.assert_close(sum(dweight), theirs.dweight, **RANK_SUMS)
        torch.testing.assert_close(sum(dbias), theirs.dbias, **RANK_SUMS)
