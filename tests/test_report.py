"""onepass.report and `onepass report`: the page of a run file, whole, broken off, empty or foreign."""

from __future__ import annotations

import dataclasses
import json
import sys
import types

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from onepass.cli.app import app
from onepass.monitor import History, Monitor
from onepass.nn import CrossEntropyLoss
from onepass.optim import AdamW
from onepass.report import write_report
from onepass.report._charts import POINTS, thinned
from page_checks import check

HEAD = {"kind": "run", "format": 1, "onepass": "0.1.0", "torch": "2.13.0", "model": {"class": "<i>Net</i>"}}
NASTY = "</script><img src=x>"

# The page gives numbers with six digits.
PAGE_RTOL = 1e-5


def step_of(number, **values):
    return {"kind": "step", "step": number, "epoch": 0, "loss": 1.0 / number, "lr": [0.1], **values}


def lines(*rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def report(*arguments):
    words = ["report", *map(str, arguments)]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200", "TERM": "dumb"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    """A run of two groups, with layers and epochs."""
    path = tmp_path_factory.mktemp("run") / "run.jsonl"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
        )
        inputs, targets = torch.randn(32, 4), torch.arange(32) % 3
    groups = [
        {"params": model[0].parameters()},
        {"params": [*model[1].parameters(), *model[3].parameters()], "lr": 0.1},
    ]
    optimizer, loss_of = AdamW(groups, lr=0.01), CrossEntropyLoss(return_stats=True)
    with Monitor(model, optimizer, file=path, layers_every=5) as monitor:
        for epoch in range(3):
            for _ in range(10):
                loss, stats = loss_of(model(inputs), targets)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                monitor.log(loss=loss, stats=stats, **{NASTY: float(epoch)})
            monitor.log_epoch(train_loss=1.0, val_loss=2.0, val_accuracy=0.5, val_calibration_error=0.1)
    return path


def test_a_run_has_all_tabs_and_curves(run_file, tmp_path):
    path = tmp_path / "report.html"
    assert write_report(run_file, path) == []
    page = check(path.read_text())
    tabs = [a["aria-controls"] for _, a in page.elements if a.get("role") == "tab"]
    assert tabs == [f"panel-{name}" for name in ("curves", "findings", "schedule", "norms", "calibration", "run")]
    charts = {chart["title"]: chart for tab in page.data["tabs"].values() for chart in tab}
    assert {"loss", "accuracy", "learning rate", "gradient norm", "parameter norm", "update norm"} <= charts.keys()
    assert {"update over parameter norm", "confidence and accuracy", "expected calibration error"} <= charts.keys()
    assert NASTY in charts
    history = History.read(run_file)
    first = charts["loss"]["curves"][0]
    assert first["x"] == list(range(1, 31))
    assert first["y"] == pytest.approx(history.steps["loss"], rel=PAGE_RTOL)
    assert [curve["name"] for curve in charts["loss"]["curves"][1:]] == [
        "training, by epoch",
        "validation, by epoch",
    ]
    assert [curve["group"] for curve in charts["learning rate"]["curves"]] == [0, 1]
    assert charts["learning rate"]["curves"][1]["y"] == [0.1] * 30
    ids = {a.get("id") for _, a in page.elements}
    assert {chart["id"] for chart in charts.values()} <= ids
    assert {"group", "quantity", "log-loss", "smooth-curves", "smooth-norms", "smooth-calibration"} <= ids
    assert {"running_distance", "dead_channels", "grad_norm"} <= page.data["layers"].keys()
    assert "Sequential, run.jsonl" in page.text
    assert "30 recorded steps, 3 epochs" in page.text


def test_texts_are_escaped(tmp_path):
    path, run = tmp_path / "report.html", tmp_path / f"{'a&b'}.jsonl"
    event = {"kind": "event", "step": 1, "name": NASTY, "text": NASTY}
    layer = {"kind": "layers", "step": 1, "layers": {NASTY: {"type": "Linear", "grad_norm": 1.0}}}
    run.write_text(lines(HEAD, step_of(1, **{NASTY: 2.0}), event, layer))
    write_report(run, path)
    text = path.read_text()
    page = check(text)
    assert NASTY not in text
    assert page.text.count(NASTY) == 2
    assert "Training report: <i>Net</i>, a&b.jsonl" in page.text
    assert page.data["layers"]["grad_norm"][0]["name"] == NASTY
    write_report(run, path, NASTY)
    assert check(path.read_text()).text.count(NASTY) == 4


def test_a_file_that_breaks_off(tmp_path):
    run, path = tmp_path / "run.jsonl", tmp_path / "report.html"
    run.write_text(lines(HEAD, step_of(1), step_of(2), step_of(3))[:-20])
    status, text = report(run, "-o", path)
    assert status == 0
    wanted = "The file breaks off in the middle of line 4: it was read up to the line before."
    assert wanted in text
    assert "The run has no end: it was stopped, or it still goes on." in text
    page = check(path.read_text())
    assert wanted in page.text
    assert page.data["tabs"]["curves"][0]["curves"][0]["x"] == [1, 2]


def test_a_run_without_steps(tmp_path):
    run, path = tmp_path / "run.jsonl", tmp_path / "report.html"
    run.write_text(lines(HEAD))
    assert write_report(run, path) == ["The run has no step yet."]
    page = check(path.read_text())
    assert page.data["tabs"] == {"curves": [], "schedule": [], "norms": [], "calibration": []}
    assert page.text.count("The run has no such numbers.") == 4
    assert "The run has no step that could be judged." in page.text


def test_losses_that_are_not_finite(tmp_path):
    run, path = tmp_path / "run.jsonl", tmp_path / "report.html"
    rows = [step_of(i, grad_norm=[1.0]) for i in range(1, 9)]
    for i, loss in ((4, "nan"), (6, "inf")):
        rows[i]["loss"] = loss
    rows[6]["grad_norm"] = ["inf"]
    run.write_text(lines(HEAD, *rows, {"kind": "end", "steps": 8, "seconds": 1.0}))
    assert write_report(run, path) == ["The loss is not finite in 2 of 8 steps, first in step 5."]
    page = check(path.read_text())
    assert page.data["not_finite"] == [5, 7]
    assert page.data["tabs"]["curves"][0]["curves"][0]["y"][4] is None
    assert page.data["tabs"]["norms"][0]["curves"][0]["y"][6] is None


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "path must be a run file of onepass.monitor, got an empty file"),
        (b"hello\n", "path must be a run file of onepass.monitor, a JSON object of a kind"),
        (b'{"a": 1}\n', "got in line 1"),
        (b"\xff\xfe\x00\x01", "got in line 1"),
        (b'{"kind": "run", "format": 99}\n', "path must have format 1, got 99"),
        (b'{"kind": "step", "step": 1}\n', "path must begin with a line of kind 'run', got 'step'"),
        (b'{"kind": "run", "fo', "path must hold at least one whole line, got none"),
        (b'{"kind": "landscape", "format": 1}\n', "got in line 1"),
    ],
)
def test_files_that_are_no_run(tmp_path, content, text):
    run, path = tmp_path / "run.jsonl", tmp_path / "report.html"
    run.write_bytes(content)
    status, shown = report(run, "-o", path)
    assert status == 2
    assert text in shown
    assert str(run) in shown
    assert not path.exists()


def test_wrong_arguments(tmp_path):
    with pytest.raises(TypeError, match="run must be a History or the path of a run file, got 3"):
        write_report(3, tmp_path / "a.html")
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "none.jsonl", tmp_path / "a.html")
    status, text = report(tmp_path / "none.jsonl")
    assert status == 2
    assert "none.jsonl" in text
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(monkeypatch, tmp_path, run_file):
    for name in [name for name in sys.modules if name.split(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    status, text = report(run_file, "-o", tmp_path / "a.html")
    assert status == 2
    assert 'needs plotly and jinja2 (pip install "onepass[visualize]")' in text
    assert list(tmp_path.iterdir()) == []


def test_long_curves_keep_their_spikes():
    values = np.sin(np.arange(100_000) / 1000)
    values[[31_234, 70_000]] = 50.0, -50.0
    values[500:700] = np.nan
    x, y = thinned(np.arange(1, 100_001), values)
    assert len(x) == len(y) <= POINTS + 10
    assert x == sorted(x)
    assert y[x.index(31_235)] == 50.0
    assert y[x.index(70_001)] == -50.0
    assert None in y
    assert all(value is None or value == values[place - 1] for place, value in zip(x, y, strict=True))
    assert thinned(np.arange(3), np.array([1.0, np.inf, 3.0])) == ([0, 1, 2], [1.0, None, 3.0])


@dataclasses.dataclass
class Part:
    """A finding, a piece of its evidence or a cure."""

    name: str = ""
    confidence: str = ""
    text: str = ""
    code: str = ""
    evidence: tuple = ()
    cures: tuple = ()


def test_findings_are_shown(monkeypatch, tmp_path):
    found = [
        Part(
            "plateau",
            "high",
            evidence=(Part(text=NASTY),),
            cures=(Part(text="Wait.", code="wait(<5>)"), Part(text="No.")),
        ),
        Part("dead_units", "low"),
    ]
    module = types.SimpleNamespace(diagnose=lambda history: found if len(history) == 1 else [])
    monkeypatch.setitem(sys.modules, "onepass.monitor.diagnosis", module)
    write_report(History([HEAD, step_of(1)]), tmp_path / "a.html")
    page = check((tmp_path / "a.html").read_text())
    for text in ("1. plateau", "confidence: high", NASTY, "Wait.", "wait(<5>)", "2. dead units", "Findings (2)"):
        assert text in page.text
    write_report(History([HEAD, step_of(1), step_of(2)]), tmp_path / "a.html")
    assert "No rule found anything to point out." in check((tmp_path / "a.html").read_text()).text


def test_an_installation_without_a_diagnosis(monkeypatch, tmp_path):
    def missing(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("onepass.report._findings.importlib", types.SimpleNamespace(import_module=missing))
    write_report(History([HEAD, step_of(1)]), tmp_path / "a.html")
    assert "This installation has no diagnosis." in check((tmp_path / "a.html").read_text()).text
