"""The device check in benchmarks/gpu: stages end in time, none stops another, small runs reach the kernels."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from conftest import Backend
from onepass.bench import OPS

FOLDER = Path(__file__).parent.parent / "benchmarks" / "gpu"


@pytest.fixture
def gpu(monkeypatch):
    """Gives a module of the folder by name."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name):
        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


def python(code, target):
    return [sys.executable, "-c", code, str(target)]


WRITE = "import sys; open(sys.argv[1], 'w').write('{\"rows\": 1}')"


def test_each_stage_has_its_own_end(gpu, monkeypatch, tmp_path):
    """One stage fails after it wrote, one is killed, one's tool is not installed: the rest runs all the same."""
    check = gpu("check")
    monkeypatch.setattr(check, "LEAST_SECONDS", 0.1)

    def planted(folder, rehearse):
        first, second = folder / "parity-optim.json", folder / "bench-optim.json"
        return [
            check.Stage("parity-optim", 60, python(f"{WRITE}; sys.exit(3)", first), first),
            check.Stage("slow", 0.5, python("import time; print('begun', flush=True); time.sleep(60)", "")),
            check.Stage("lacking", 60, ["a-tool-that-is-not-installed"]),
            check.Stage("bench-optim", 60, python(WRITE, second), second),
        ]

    monkeypatch.setattr(check, "stages", planted)
    lines = []
    assert not check.check(tmp_path / "new", True, 9.0, lines.append)
    record = json.loads((tmp_path / "new" / "check.json").read_text())
    assert [(stage["name"], stage["result"], stage["exit_status"]) for stage in record["stages"]] == [
        ("parity-optim", "failed", 3),
        ("slow", "timed out", None),
        ("lacking", "not run", None),
        ("bench-optim", "passed", 0),
    ]
    assert len(lines) == 4
    assert record["stages"][1]["seconds"] < 30
    assert json.loads((tmp_path / "new" / "parity.json").read_text()) == {"optim": {"rows": 1}}
    assert json.loads((tmp_path / "new" / "bench.json").read_text()) == {"optim": {"rows": 1}}


def test_no_stage_is_begun_without_time(gpu, monkeypatch, tmp_path):
    check = gpu("check")
    monkeypatch.setattr(check, "stages", lambda *_: [check.Stage("late", 60, python("", ""))])
    assert not check.check(tmp_path, True, 0.01, lambda _: None)
    assert json.loads((tmp_path / "check.json").read_text())["stages"][0]["result"] == "not run"


@pytest.mark.parametrize("rehearse", [False, True])
def test_stages_reach_every_operation(gpu, tmp_path, rehearse):
    found = gpu("check").stages(tmp_path, rehearse)
    names = {stage.name for stage in found}
    assert {
        f"{kind}-{op}"
        for kind in ("parity", "bench")
        for op in OPS
        if op not in ("schedule", "monitor", "train", "distributed")
    } <= names
    assert {"memcheck", "racecheck", "small-run", "tests"} <= names
    assert ("cuda" in found[1].command) != rehearse


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_small_run_is_finite(gpu, backend: Backend, dtype):
    small = gpu("small_run")
    torch.manual_seed(0)
    parts = (small.steps, small.layers, small.batches)
    for name, call in [run for part in parts for run in part(dtype, backend.device)]:
        assert all(bool(result.isfinite().all()) for result in call()), name
