"""benchmarks/peers.py, which measures other packages' optimizers, and the tables of docs/peers.md."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "benchmarks" / "peers.json").is_file():
    pytest.skip("needs the source tree", allow_module_level=True)
sys.path.insert(0, str(ROOT / "docs"))
spec = importlib.util.spec_from_file_location("peers", ROOT / "benchmarks" / "peers.py")
peers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(peers)

from _site import markdown, results  # noqa: E402
from _site import peers as tables  # noqa: E402

TORCH = metadata.version("torch").partition("+")[0]
LISTED = peers.peers()


@pytest.mark.parametrize("name", LISTED)
def test_every_version_is_pinned(name):
    peer = LISTED[name]
    pinned = peers.pins(peer)
    assert peer["package"] in pinned
    assert all(version[0].isdigit() for version in pinned.values())
    assert all("==" in one for one in peer["no_deps"])
    assert peer["implementations"]


def test_a_version_that_is_not_the_pinned_one_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(peers, "peers", lambda: {"one": {**LISTED["torch-2.13"], "torch": "0.4"}})
    monkeypatch.setattr(sys, "argv", ["peers.py", "one"])
    assert peers.main() == 1
    assert f"torch must be 0.4, got {metadata.version('torch')}" in capsys.readouterr().err
    monkeypatch.setattr(peers, "peers", lambda: {"one": {**LISTED["torch-2.13"], "no_deps": ["nowhere==1"]}})
    with pytest.raises(peers.PeerError, match=r"nowhere must be installed as 1, got no nowhere|torch must be"):
        peers.measure("one", peers.PARTS, {}, None)
    with pytest.raises(peers.PeerError, match=r"NAME must be one of .*, got two"):
        peers.measure("two", peers.PARTS, {}, None)


def test_a_run_that_writes_nothing_is_recorded(tmp_path, monkeypatch):
    found = peers.run(["bench", "nope"], tmp_path / "out.json")
    assert found["command"] == "onepass bench nope"
    assert found["failed"]
    monkeypatch.setattr(peers, "SECONDS", 0.01)
    assert peers.run(["info"], tmp_path / "out.json")["failed"] == "did not end within 0.01 s"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run of the script on torch's fused SGD, small, and a peer whose module is missing."""
    folder = tmp_path_factory.mktemp("results")
    listed = {
        "torch": {
            **LISTED["torch-2.13"],
            "torch": TORCH,
            "implementations": {
                "torch SGD, fused": ["torch.optim:SGD", "fused=True"],
                "missing SGD": ["nowhere:SGD"],
            },
        }
    }
    patch = pytest.MonkeyPatch()
    patch.setattr(peers, "peers", lambda: listed)
    patch.setattr(peers, "bench", lambda *_: {"failed": "not run here", "command": ""})
    patch.setattr(
        sys, "argv", ["peers.py", "torch", "--steps", "2", "--output", str(folder / "peers" / "torch.json")]
    )
    assert peers.main() == 0
    patch.undo()
    return folder


def test_the_script_records_rows_traps_versions_and_what_did_not_run(measured):
    found = json.loads((measured / "peers" / "torch.json").read_text())
    assert found["installed"] == {"torch": metadata.version("torch")}
    assert {"commit", "machine", "versions", "threads"} <= found.keys()
    fused, missing = found["implementations"].values()
    assert fused["implementation"] == "torch.optim:SGD(fused=True)"
    verdicts = {one["case"]: one["verdict"] for one in fused["parity"]["findings"]}
    assert "wrong, silently" in verdicts.values()
    assert fused["parity"]["rows"]
    assert missing["parity"]["failed"]


def test_the_script_times_all_implementations_in_one_run(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(peers, "run", lambda arguments, output: seen.append(arguments) or {})
    peer = LISTED["torch-2.13"]
    peers.bench(peer, tmp_path, 2, ["1000x1024"])
    (arguments,) = seen
    assert [arguments[i + 1] for i, one in enumerate(arguments) if one == "--impl"] == [
        peers.name_in_bench(one) for one in peer["implementations"].values()
    ]
    assert [arguments[i + 1] for i, one in enumerate(arguments) if one == "--case"] == [
        "adamw-1000x1024",
        "sgd-1000x1024",
    ]


def test_one_part_is_measured_again_and_the_rest_is_kept(measured, tmp_path, monkeypatch):
    output = tmp_path / "torch.json"
    before = json.loads((measured / "peers" / "torch.json").read_text())
    output.write_text(json.dumps(before))
    entries = {label: ["torch.optim:SGD", "fused=True"] for label in before["implementations"]}
    listed = {"torch": {**LISTED["torch-2.13"], "torch": TORCH, "implementations": entries}}
    monkeypatch.setattr(peers, "peers", lambda: listed)
    monkeypatch.setattr(peers, "bench", lambda *_: {"results": []})
    monkeypatch.setattr(peers, "parity", lambda *_: pytest.fail("was asked for the times only"))
    monkeypatch.setattr(sys, "argv", ["peers.py", "torch", "--only", "bench", "--output", str(output)])
    assert peers.main() == 0
    found = json.loads(output.read_text())
    assert found["bench"] == {"results": []}
    assert [one["parity"] for one in found["implementations"].values()] == [
        one["parity"] for one in before["implementations"].values()
    ]
    # Of other versions nothing is kept.
    output.write_text(json.dumps({**before, "installed": {"torch": "0.4"}}))
    assert peers.main() == 0
    parts = json.loads(output.read_text())["implementations"].values()
    assert [one["parity"] for one in parts] == [peers.NOT_RUN] * 2


def test_tables_are_drawn_from_the_files(measured, monkeypatch):
    monkeypatch.setattr(tables, "FOLDER", measured)
    found = json.loads((measured / "peers" / "torch.json").read_text())
    verdicts = [one["verdict"] for one in found["implementations"]["torch SGD, fused"]["parity"]["findings"]]
    name = f"torch SGD {TORCH}, fused"
    sums = tables.trap_sums().splitlines()
    assert f"| {name} | {verdicts.count('right')} | {verdicts.count('wrong, silently')} |" in sums[2]
    assert sums[3].startswith(f"| missing SGD {TORCH} |  |  |  |  | ")
    traps = tables.traps()
    assert traps.count(name) == verdicts.count("wrong, silently") + verdicts.count("refuses")
    assert f"| {name} |" in tables.accuracy()
    assert "torch SGD" in tables.speed()
    assert metadata.version("torch") in tables.what_ran()


def test_a_wrong_one_has_no_time(monkeypatch):
    case = {
        "case": "adamw-1000x1024",
        "competitors": {
            "ours": {"share_of_stream": 0.5},
            "a": {"theirs_over_ours": 2.0, "difference": 1e-7, "share_of_stream": 0.25},
        },
        "faults": {"b": {"how": "wrong", "text": "param differs | much"}},
    }
    entries = {"A": {"implementation": "a", "parity": {}}, "B, x": {"implementation": "b", "parity": {}}}
    peer = {"implementations": entries, "bench": {"results": [case]}, "installed": {"p": "1.0"}, "package": "p"}
    monkeypatch.setattr(tables, "load_all", lambda: [peer])
    lines = tables.speed().splitlines()
    assert lines[2] == "| A 1.0 | 2.00 | 1e-07 |"
    assert lines[3] == "| B 1.0, x | wrong: param differs \\| much |  |"
    assert tables.bandwidth().splitlines()[2:] == ["| A 1.0 | 25 % / 50 % |", "| B 1.0, x |  |"]


def test_the_page_shows_every_table():
    text = (ROOT / "docs" / "peers.md").read_text()
    assert all(f"<!-- results: {name} -->" in text for name in results.TABLES if name.startswith("peers_"))


def test_every_peer_has_a_file_of_its_pinned_versions_from_a_clean_commit():
    for name, peer in LISTED.items():
        found = json.loads((markdown.FOLDER / "peers" / f"{name}.json").read_text())
        assert found["peer"] == name
        assert {package: one.partition("+")[0] for package, one in found["installed"].items()} == peers.pins(peer)
        assert set(found["implementations"]) == set(peer["implementations"])
        parts = [found, found["bench"], *(entry["parity"] for entry in found["implementations"].values())]
        assert not any(part.get("commit", "").endswith("-dirty") for part in parts)
