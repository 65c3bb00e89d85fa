"""`onepass schedule`, `onepass lr-range`, `onepass demo --schedule` and `onepass bench schedule`."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from onepass.cli.app import app
from onepass.demo.data import Data, mnist
from onepass.demo.report import figures
from onepass.demo.train import OURS, TORCH, Plan, contenders, train
from onepass.optim.schedules import parse


@pytest.fixture(scope="module")
def few():
    digits = mnist()
    parts = (digits.train_images, digits.train_labels, digits.validation_images, digits.validation_labels)
    return Data(*(part[::10] for part in parts))


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


def test_schedule_shows_draws_and_writes(tmp_path):
    text = "warmup(5) >> cosine(20, floor=0.1)"
    picture, written = tmp_path / "new" / "s.png", tmp_path / "s.json"
    done = invoke("schedule", text, "--lr", 0.5, "--rows", 6, "--plot", picture, "--output", written)
    assert done.exit_code == 0, done.output
    assert f"{text}, 25 steps" in done.output
    assert "0.05" in done.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    rates = json.loads(written.read_text())["rates"]
    assert len(rates) == 26
    assert (rates[0], rates[5], rates[25]) == (0.0, 0.5, pytest.approx(0.05))


def test_schedule_without_an_end(tmp_path):
    written = tmp_path / "s.json"
    assert "exponential(0.99), no end" in invoke("schedule", "exponential(0.99)", "--output", written).output
    assert len(json.loads(written.read_text())["rates"]) == 1000
    invoke("schedule", "exponential(0.99)", "--steps", 3, "--output", written)
    assert json.loads(written.read_text())["rates"] == pytest.approx([1, 0.99, 0.9801])


def test_schedule_points_at_what_is_wrong():
    done = invoke("schedule", "warmup(5) >> cosin(9)")
    assert done.exit_code == 2
    assert "\n  warmup(5) >> cosin(9)\n               ^^^^^\n" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cosine(1e12)",), "steps must be at most 10000000, got 1e+12"),
        (("cosine(9)", "--steps", 10**12), "steps must be at most 10000000, got 1e+12"),
        (("exponential(3)",), "text must have factors that a number can hold, got exponential(3)"),
        (("cosine(%s)" % ("9" * 400),), "int too large"),
        (("cosine(9)", "--lr", "inf"), "lr must be finite, got inf"),
        (("cosine(9)", "--lr", "nan"), "Invalid value for '--lr'"),
        (("cosine(9)", "--plot", "x.xyz"), "plot must end in one of"),
        (("cosine(9)", "--plot", "/dev/null/x.png"), "plot must be a place that can be written"),
        (("cosine(9)", "--output", "/dev/null/x.json"), "output must be a place that can be written"),
    ],
)
def test_schedule_refuses(arguments, message):
    done = invoke("schedule", *arguments)
    assert done.exit_code == 2, done.output
    assert message in done.output


def test_demo_refuses(tmp_path):
    for arguments, message in (
        (("--lr", "inf"), "lr must be finite, got inf"),
        (("--lr", "nan"), "Invalid value for '--lr'"),
        (("--seed", 2**70), "Invalid value for '--seed'"),
        (("--output", "/dev/null/x"), "output must be a place that can be written"),
    ):
        done = invoke("demo", "--output", tmp_path, *arguments)
        assert done.exit_code == 2, done.output
        assert message in done.output


def test_lr_range_without_a_suggestion(tmp_path, monkeypatch, few):
    monkeypatch.setattr("onepass.cli.demo.mnist", lambda: few)
    small = ("--steps", 10, "--seeds", 1, "--batch-size", 40, "--threads", 1, "--output", tmp_path)
    done = invoke("lr-range", "--min-lr", 1e-30, "--max-lr", 1e-29, *small)
    assert done.exit_code == 0, done.output
    assert "There is no suggestion" in done.output
    assert json.loads((tmp_path / "lr_range.json").read_text())["suggestion"] is None
    refused = invoke("lr-range", "--min-lr", 1e-30, "--max-lr", 1e-29, *small, "--output", "/dev/null/x")
    assert refused.exit_code == 2, refused.output
    assert "output must be a place that can be written" in refused.output


def test_lr_range(tmp_path, monkeypatch, few):
    monkeypatch.setattr("onepass.cli.demo.mnist", lambda: few)
    folder = tmp_path / "out"
    small = ("--steps", 12, "--seeds", 2, "--batch-size", 40, "--grid", 2, "--epochs", 1, "--threads", 1)
    done = invoke("lr-range", "--min-lr", 1e-4, "--max-lr", 1.0, *small, "--output", folder)
    assert done.exit_code == 0, done.output
    assert "steepest" in done.output
    assert "(suggested)" in done.output
    written = json.loads((folder / "lr_range.json").read_text())
    assert len(written["curves"]) == 2
    assert len(written["grid"]) == 3
    assert written["suggestion"] in [one["lr"] for one in written["grid"]]
    assert (folder / "lr_range.png").read_bytes().startswith(b"\x89PNG")


def test_lr_range_refuses(tmp_path, monkeypatch, few):
    monkeypatch.setattr("onepass.cli.demo.mnist", lambda: few)
    done = invoke("lr-range", "--min-lr", 1.0, "--max-lr", 0.5, "--output", tmp_path / "out")
    assert done.exit_code == 2
    assert "max_lr must be finite and above min_lr 1.0, got 0.5" in done.output
    assert not (tmp_path / "out").exists()


def test_demo_takes_a_schedule(tmp_path, monkeypatch, few):
    monkeypatch.setattr("onepass.cli.demo.mnist", lambda: few)
    text = "warmup(4) >> linear(16)"
    arguments = ("--epochs", 2, "--batch-size", 40, "--threads", 1, "--lr", 0.01, "--output", tmp_path)
    done = invoke("demo", *arguments, "--schedule", text, "--device", "cpu")
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / "demo.json").read_text())
    assert written["schedule"] == text
    rates = parse(text).preview(20, 0.01)
    for one in written["trainings"].values():
        assert one["lrs"] == pytest.approx(rates)
    refused = invoke("demo", *arguments, "--schedule", "cosin(3)")
    assert refused.exit_code == 2
    assert "got cosin" in refused.output


def test_demo_without_a_schedule_has_torchs_cosine(few):
    import torch

    plan = Plan(1, 40, 0, torch.device("cpu"))
    runs = train(few, plan, contenders("sgd", 0.02))
    shown = figures(runs)["trainings"]
    assert shown[TORCH]["lrs"] == shown[OURS]["lrs"]
    assert shown[OURS]["lrs"] == pytest.approx(parse("cosine(10)").preview(10, 0.02))


def test_bench_schedule(tmp_path):
    written = tmp_path / "bench.json"
    case = ("--case", "StepLR-1", "--case", "OneCycleLR-465-each")
    done = invoke("bench", "schedule", *case, "--quick", "--output", written)
    assert done.exit_code == 0, done.output
    results = json.loads(written.read_text())["results"]
    assert [sorted(result["competitors"]) for result in results] == [["ours", "torch"]] * len(results)
    assert {"StepLR-1", "OneCycleLR-465-each"} <= {result["case"] for result in results}
