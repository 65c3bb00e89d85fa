"""`onepass bench monitor`: the demo's own step, watched in several ways that all train alike."""

from __future__ import annotations

import torch

from onepass.bench import monitor
from onepass.demo.model import network
from test_cli import read, run

NAMES = {"ours", "nothing", "hooks", "histograms-1", "histograms-50"}


def test_the_network_is_the_demos():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = monitor.network()
        torch.manual_seed(0)
        demos = network()
    assert str(own) == str(demos)
    for name, value in own.state_dict().items():
        assert torch.equal(value, demos.state_dict()[name]), name


def test_command(tmp_path, monkeypatch):
    monkeypatch.setattr(monitor, "_STEPS", 2)
    status, _ = run("bench", "monitor", "--quick", "--rounds", 1, "--threads", 1, "--output", tmp_path / "a.json")
    assert status == 0
    results = read(tmp_path / "a.json")["results"]
    assert [result["case"] for result in results] == ["demo-onepass", "demo-torch"]
    for result in results:
        assert result["faults"] == {}
        assert set(result["competitors"]) == NAMES
