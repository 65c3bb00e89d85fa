"""Histories: columns, pandas, and run files that are whole, cut, empty or something else."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from itertools import pairwise

import numpy as np
import pytest

from monitor_setup import OPTIMIZERS, STEPS, train
from onepass.monitor import History


@pytest.fixture
def run(tmp_path):
    """A run file, and the history that the monitor has."""
    path = tmp_path / "run.jsonl"
    return path, train(OPTIMIZERS["adamw"], file=path, layers_every=3)[2].history


def assert_equal(first, second):
    for table in ("steps", "layers", "epochs"):
        expected, found = getattr(first, table), getattr(second, table)
        assert list(expected) == list(found)
        for name, values in expected.items():
            np.testing.assert_array_equal(values, found[name])
            assert values.dtype == found[name].dtype


def test_a_file_holds_the_history(run):
    path, history = run
    read = History.read(path)
    assert_equal(history, read)
    assert (read.run, read.events, read.end, read.truncated) == (history.run, [], history.end, None)
    assert read.end["steps"] == STEPS
    assert repr(read) == "History(7 steps, 1 epochs)"
    assert_equal(history, History.read(str(path)))


def test_kinds_of_rows(run):
    path, _ = run
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    kinds = [row["kind"] for row in rows]
    assert kinds == [
        "run",
        "step",
        "layers",
        *["step"] * 2,
        "layers",
        *["step"] * 3,
        "layers",
        "step",
        "epoch",
        "end",
    ]
    assert [rows[place]["step"] for place in (1, 2, 4, 5)] == [1, 1, 3, 3]
    assert rows[1]["lr"] == [0.01]


@pytest.mark.parametrize("line_end", [True, False])
def test_a_cut_file_is_read_up_to_its_last_whole_line(run, line_end):
    path, history = run
    data = path.read_bytes()
    lines = data.split(b"\n")
    kept = b"\n".join(lines[:4])
    path.write_bytes(kept + (b"\n" if line_end else b"\n" + lines[4][:40]))
    read = History.read(path)
    assert len(read) == 2
    assert read.truncated == (None if line_end else 5)
    assert read.end is None
    np.testing.assert_array_equal(read.steps["loss"], history.steps["loss"][:2])
    assert repr(read) == f"History(2 steps, 0 epochs{'' if line_end else ', truncated'})"


def test_a_last_line_without_its_end_is_whole(run):
    path, history = run
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert_equal(history, History.read(path))
    assert History.read(path).truncated is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be a run file of onepass.monitor, got an empty file"),
        (b'{"kind": "run", "form', "must hold at least one whole line, got none"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", r"a kind \(run, step, .* a line, got in line 1 '.PNG"),
        (b"loss,lr\n1,2\n", r"got in line 1 'loss,lr'"),
        (b'{"loss": 1}\n', r"got in line 1 '\{\"loss\": 1\}'"),
        (b"[1, 2]\n", r"got in line 1 '\[1, 2\]'"),
        (b'{"kind": "step", "step": 1}\n', "must begin with a line of kind 'run', got 'step'"),
        (b'{"kind": "run", "format": 2, "onepass": "9"}\n', r"must have format 1, got 2 \(written by onepass 9\)"),
        (b'{"kind": "run", "format": 1}\n{"kind": "st\n{"kind": "end"}\n', r"got in line 2 '\{\"kind\": \"st'"),
        (b'{"kind": "run", "format": 1}\n{"kind": "run", "format": 1}\n', r"rows\[1\] must not be of kind 'run'"),
        (b"{}", r"got in line 1 '\{\}'"),
    ],
)
def test_what_is_no_run_file(tmp_path, content, message):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        History.read(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        History.read(tmp_path / "none.jsonl")


def test_rows_by_hand():
    with pytest.raises(TypeError, match=r"History: rows\[0\] must be a dict, got 3"):
        History([3])
    with pytest.raises(ValueError, match=r"History: rows\[0\] must be of kind 'run', got 'step'"):
        History([{"kind": "step"}])
    with pytest.raises(ValueError, match="History: kind must be that of a row of a run file, got 'x'"):
        History([{"kind": "run"}, {"kind": "x"}])
    assert History().steps == {}
    assert len(History()) == 0


def test_columns_that_begin_late_or_have_gaps():
    rows = [
        {"kind": "run", "format": 1},
        {"kind": "step", "step": 1, "loss": "nan", "lr": [1.0, 2.0]},
        {"kind": "step", "step": 2, "loss": "inf", "late": 4, "name": "a"},
        {"kind": "step", "step": 3, "loss": 1.5, "lr": [3.0, "-inf"], "grad_norm": [1.0, 2.0]},
    ]
    steps = History(rows).steps
    np.testing.assert_array_equal(steps["loss"], [math.nan, math.inf, 1.5])
    np.testing.assert_array_equal(steps["lr"], [[1, 2], [math.nan, math.nan], [3, -math.inf]])
    np.testing.assert_array_equal(steps["late"], [math.nan, 4, math.nan])
    np.testing.assert_array_equal(steps["grad_norm"], [[math.nan] * 2, [math.nan] * 2, [1, 2]])
    assert steps["name"].tolist() == [None, "a", None]
    assert steps["step"].dtype == np.int64


def test_pandas(run):
    pytest.importorskip("pandas")
    _, history = run
    frame = history.to_pandas()
    assert frame["loss"].tolist() == history.steps["loss"].tolist()
    assert frame["lr"].shape == (STEPS,)
    assert history.to_pandas("epochs")["val_loss"].tolist() == [2.5]
    assert set(history.to_pandas("layers")["type"]) >= {"Conv2d", "BatchNorm2d", "ReLU", "Linear"}
    with pytest.raises(ValueError, match="table must be one of steps, layers, epochs, got 'rows'"):
        history.to_pandas("rows")


def test_without_pandas(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="needs pandas: pip install pandas"):
        run[1].to_pandas()


def test_a_killed_run_keeps_what_it_had(tmp_path):
    """Killed without a chance to say anything: what was written 50 steps at a time is there."""
    path = tmp_path / "run.jsonl"
    script = """
        import sys, torch
        from onepass.monitor import Monitor
        from onepass.optim import SGD
        model = torch.nn.Linear(2, 1)
        optimizer = SGD(model.parameters(), lr=1e-3)
        with Monitor(model, optimizer, file=sys.argv[1]) as monitor:
            for step in range(120):
                model(torch.ones(4, 2)).sum().backward()
                optimizer.step(zero_grad=True)
                monitor.log(float(step))
            print("ready", flush=True)
            sys.stdin.read()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGKILL)
    child.communicate()
    history = History.read(path)
    assert len(history) >= 100
    assert history.end is None
    np.testing.assert_array_equal(history.steps["loss"], np.arange(len(history)))


def test_slow_steps_are_written_after_a_second(tmp_path, monkeypatch):
    path, sizes, clock = tmp_path / "run.jsonl", [], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def make(params):
        optimizer = OPTIMIZERS["adamw"](params)

        def tick(*_):
            clock[0] += 0.4
            sizes.append(os.path.getsize(path))

        optimizer.register_step_pre_hook(tick)
        return optimizer

    train(make, file=path, layers_every=None)
    grown = [later > before for before, later in pairwise(sizes)]
    assert grown == [False, False, True, False, False, True]
