"""The two states of the caches in which layers are timed: empty, and between a producer and a consumer."""

from __future__ import annotations

import subprocess
from typing import ClassVar

import pytest
import torch

from onepass import bench
from onepass.bench import batch_norm, caches, cross_entropy, dropout, report
from onepass.bench.case import Prepared
from test_cli import read, run

CPU = torch.device("cpu")
STATE = f" ({caches.IN_TURN})"


def test_the_buffer_is_larger_than_the_last_cache():
    caches.flush()
    caches.flush()
    (buffer,) = caches._flushed
    assert buffer.nbytes == max(2 * caches.last_cache(), 64 * 2**20)
    before = buffer[0].item()
    caches.flush()
    assert buffer.eq((before + 1) % 256).all()


def test_the_size_of_the_last_cache_is_that_of_the_system():
    done = subprocess.run(["lscpu", "-B", "-C=ONE-SIZE"], capture_output=True, text=True, check=False)
    sizes = [int(word) for word in done.stdout.split() if word.isdigit()]
    if done.returncode or not sizes:
        pytest.skip("lscpu does not say")
    assert caches.last_cache() == max(sizes)


@pytest.fixture
def events(monkeypatch):
    """What happens, in order; each timed call takes 10 seconds, each read by a consumer its place in the list."""
    seen: list[str] = []
    times = {"forward": 10.0, "backward": 20.0}
    reads = iter((2.0, 5.0, 9.0, 2.5, 4.0, 7.0))

    def seconds(call):
        before = len(seen)
        call()
        timed = [name for name in seen[before:] if name in times]
        seen.append("clock")
        return times[timed[0]] if timed else next(reads)

    monkeypatch.setattr(caches, "_seconds", seconds)
    monkeypatch.setattr(caches, "flush", lambda: seen.append("flush"))
    return seen


class Square(torch.autograd.Function):
    """A function that writes down when it is called."""

    seen: ClassVar[list[str]] = []

    @staticmethod
    def forward(ctx, x):
        Square.seen.append("forward")
        return x * 2

    @staticmethod
    def backward(ctx, dy):
        Square.seen.append("backward")
        return dy * 2


def test_only_what_the_consumer_takes_more_counts(events, monkeypatch):
    monkeypatch.setattr(Square, "seen", events)
    x, dy = torch.randn(6, requires_grad=True), torch.randn(6)
    step = caches.InTurn(caches.Consumer(x), lambda: Square.apply(x), x, [x], dy)
    # The consumer of what was just written takes 2, that of the output 5 and that of the gradient 9.
    assert step.seconds() == 10 + (5 - 2) + 20 + (9 - 2)
    order = [name for name in events if name != "clock"]
    assert order == ["flush", "forward", "flush", "backward"]
    # The least time of a consumer, 2, not the 2.5 of this call.
    assert step.seconds() == 10 + (4 - 2) + 20 + (7 - 2)


def test_the_forward_pass_by_itself(events, monkeypatch):
    monkeypatch.setattr(Square, "seen", events)
    x = torch.randn(6)
    assert caches.InTurn(caches.Consumer(x), lambda: Square.apply(x), x).seconds() == 10 + (5 - 2)


def test_a_time_is_positive_whatever_is_taken_off(monkeypatch):
    times = iter((5.0, 1.0, 2.0))
    monkeypatch.setattr(caches, "_seconds", lambda call: (call(), next(times))[1])
    x = torch.randn(6)
    assert caches.InTurn(caches.Consumer(x), lambda: x * 2, x).seconds() == caches._LEAST_SECONDS


def test_the_producer_writes_the_input_each_time():
    x = torch.randn(6)
    before, seen = x.clone(), []

    def in_place():
        seen.append(x.clone())
        return x.zero_()

    step = caches.InTurn(caches.Consumer(x), in_place, x)
    step.seconds(), step.seconds()
    assert torch.equal(seen[0], before)
    assert torch.equal(seen[1], before)


@pytest.mark.parametrize("operation", [batch_norm, dropout, cross_entropy])
def test_layers_are_timed_in_both_states(operation, monkeypatch):
    monkeypatch.setattr(caches, "_flushed", [torch.zeros(1, dtype=torch.uint8)])
    small = {"batch_norm": "train-64x256x14x14", "dropout": "train-256x1024", "cross_entropy": "smoothed-256x1000"}
    name = small[operation.__name__.rpartition(".")[2]]
    case = next(case for case in operation.cases(CPU) if case.name == name)
    steps = case.setup()
    assert set(steps) == {"ours", "torch", "stream", f"ours{STATE}", f"torch{STATE}"}
    for key, step in steps.items():
        assert isinstance(step, caches.InTurn if key.endswith(STATE) else Prepared), key
    assert steps["ours"].prepare is caches.flush
    found = bench.measure(case, 1, CPU)
    assert found.times[f"torch{STATE}"].theirs_over_ours > 0
    assert found.times[f"ours{STATE}"].share_of_stream is None
    shown = report.table(found)
    assert [column.header for column in shown.columns][-2:] == ["in turn ms", "theirs/ours"]
    assert shown.row_count == 3


def test_the_second_state_is_in_the_file_and_not_in_the_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(caches, "_flushed", [torch.zeros(1, dtype=torch.uint8)])
    output, plot = tmp_path / "a.json", tmp_path / "a.png"
    arguments = ("--case", "train-256x1024", "--quick", "--threads", 1, "--output", output, "--plot", plot)
    status, text = run("bench", "dropout", *arguments)
    assert status == 0, text
    assert "in turn: the input was just produced" in text
    (result,) = read(output)["results"]
    assert f"torch{STATE}" in result["competitors"]
    assert plot.stat().st_size > 0
