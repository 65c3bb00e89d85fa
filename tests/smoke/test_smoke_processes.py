"""Smoke: any number of threads, several threads at once, forked and spawned processes, and the command."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings

import pytest
import torch
from torch import nn

import onepass.nn
import onepass.optim
from onepass.nn.functional import cross_entropy

# Longer than any of the processes takes, so that one that waits for a lock fails instead of holding up the suite.
PATIENCE = 60


def result(seed: int = 0) -> list[torch.Tensor]:
    """Trains a network with all operations for three steps, large enough to be cut for several threads."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1000))
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(0.1 * torch.randn(param.shape, generator=generator))
    onepass.nn.convert(model, fuse_relu=True)
    optimizer = onepass.optim.AdamW(model.parameters(), lr=0.01, max_grad_norm=1.0, ema_decay=0.9)
    # Fixed gradients: torch's matrix products have other bits with other threads.
    for _ in range(3):
        x = torch.randn(256, 512, generator=generator)
        logits = torch.randn(256, 1000, generator=generator).requires_grad_()
        loss = cross_entropy(logits, torch.randint(1000, (256,), generator=generator), label_smoothing=0.1)
        loss.backward()
        y = model[1](x)
        for param in model.parameters():
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    return [param.detach() for param in model.parameters()] + states + [loss.detach(), logits.grad, y.detach()]


def same(ones: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_any_number_of_threads_gives_the_same_bits(threads):
    expected = result()
    torch.set_num_threads(threads)
    assert same(result(), expected)


def test_threads_step_optimizers_of_their_own_at_once():
    expected = [result(seed) for seed in range(4)]
    found: dict[int, list[torch.Tensor]] = {}
    threads = [threading.Thread(target=lambda seed=seed: found.update({seed: result(seed)})) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert all(same(found[seed], expected[seed]) for seed in range(4))


def fingerprint() -> bytes:
    """The bits of the results of one training."""
    return b"".join(tensor.double().numpy().tobytes() for tensor in result())


def _send_fingerprint(connection: multiprocessing.connection.Connection) -> None:
    # GNU's OpenMP runtime waits forever in a child if its parent had several threads: forked workers use one.
    torch.set_num_threads(1)
    connection.send_bytes(fingerprint())
    connection.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_process_has_the_same_bits(method):
    """The parent has stepped with several threads before the child is made."""
    torch.set_num_threads(2)
    expected = fingerprint()
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send_fingerprint, args=(sender,))
    with warnings.catch_warnings():
        # Python 3.12 warns of every fork of a process with threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    sender.close()
    assert receiver.poll(PATIENCE), "the child does not answer"
    assert receiver.recv_bytes() == expected
    child.join(PATIENCE)
    assert child.exitcode == 0


def test_the_command_says_what_is_installed():
    done = subprocess.run(
        [sys.executable, "-m", "onepass", "info", "--json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
        env={**os.environ, "COLUMNS": "200"},
    )
    facts = json.loads(done.stdout)
    assert (facts["onepass"], facts["torch"]) == (onepass.__version__, torch.__version__)
    assert facts["isa"] in facts["isa_compiled"]
    assert facts["openmp_runtime"], "the kernels found no OpenMP runtime, so they use one thread"
