"""transformers and Lightning take our optimizer and scheduler as they are: the examples of docs/schedules.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs" / "schedules.md"
# Those packages warn of their own code, on import and in a training.
pytestmark = [
    pytest.mark.skipif(not DOCS.exists(), reason="needs the source tree"),
    pytest.mark.filterwarnings("ignore"),
]


def example(word, folder):
    """Runs the example of the docs that imports this package; returns its names."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (code,) = [block for block in blocks if re.search(rf"^(?:import|from) {word}\b", block, re.MULTILINE)]
    names = {"folder": str(folder), "__name__": "example"}
    exec(compile(code, str(DOCS), "exec"), names)
    return names


def test_transformers(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("transformers", reason="needs the extra integrations")
    pytest.importorskip("accelerate", reason="needs the extra integrations")
    names = example("transformers", tmp_path)
    assert names["scheduler"].last_epoch == 8
    assert names["optimizer"].param_groups[0]["lr"] == 0.0
    assert names["trainer"].optimizer.state[next(names["model"].parameters())]["step"] == 8
    saved = tmp_path / "checkpoint-8"
    assert (saved / "scheduler.pt").exists()


def test_lightning(tmp_path):
    pytest.importorskip("lightning", reason="needs the extra integrations")
    fit = example("lightning", tmp_path)["fit"]
    for plateau in (False, True):
        module = fit(plateau)
        scheduler = module.lr_schedulers()
        if plateau:
            assert scheduler.num_bad_epochs == 0
            assert module.optimizers().param_groups[0]["lr"] == pytest.approx(1e-3)
        else:
            assert scheduler.last_epoch == 8
            assert module.optimizers().param_groups[0]["lr"] == 0.0
