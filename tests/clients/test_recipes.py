"""Programs of docs/distributed.md for Lightning, accelerate and transformers, word for word on two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clients.programs import client
from distributed_recipes import program

_SECONDS = 180


@pytest.mark.parametrize(
    ("name", "kind"), [("lightning", "DTensor"), ("accelerate", "DTensor"), ("transformers", "Parameter")]
)
def test_programs_of_the_page(name, kind, tmp_path):
    client(name)
    script = f"train_{name}.py"
    (tmp_path / script).write_text(program(script))
    path = os.pathsep.join(entry for entry in sys.path if entry)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, str(Path(__file__).with_name("launch.py")), script, kind],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    assert sorted(path.name for path in tmp_path.glob("*.done")) == ["rank-0.done", "rank-1.done"]


def test_lightnings_first_strategy_refuses_the_cpu():
    """The page says so."""
    lightning = client("lightning")
    with pytest.raises(ValueError, match="requires a GPU accelerator"):
        lightning.Trainer(accelerator="cpu", devices=2, strategy=lightning.pytorch.strategies.FSDPStrategy())
