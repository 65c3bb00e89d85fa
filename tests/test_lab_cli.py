"""The command `onepass lab`: the list, a run, and what it refuses."""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import json
import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import onepass.cli.lab
from onepass import lab
from onepass.cli.app import app
from onepass.lab import data, statistics


def run(*arguments: object, columns: int = 200) -> tuple[int, str]:
    """Runs the command; returns its exit status, and its output without frames and line breaks."""
    environment = {"COLUMNS": str(columns), "TERM": "dumb"}
    result = CliRunner().invoke(app, ["lab", *map(str, arguments)], env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The lab with a zero-grad of a few steps, in an empty folder."""
    tiny = dataclasses.replace(lab.find("zero-grad"), steps=8, width=4)
    monkeypatch.setattr(onepass.cli.lab, "find", lambda name: tiny)
    monkeypatch.chdir(tmp_path)
    return tiny


def test_without_a_name_it_lists_claims():
    status, output = run()
    assert status == 0
    for name in lab.EXPERIMENTS:
        assert name in output
        assert lab.find(name).said("Claim")[:30] in output


def test_a_run_writes_table_verdict_picture_and_json(small):
    status, output = run("zero-grad", "--seeds", 2, "--threads", 1)
    assert status == 0
    written = json.loads(Path("onepass-lab/zero-grad.json").read_text(), parse_constant=pytest.fail)
    assert Path("onepass-lab/zero-grad.png").read_bytes().startswith(b"\x89PNG")
    assert written["seeds"] == [0, 1]
    assert written["settings"]["steps"] == 8
    assert written["threads"] == 1
    assert written["versions"]["torch"] == torch.__version__
    assert {"commit", "machine", "command", "date"} <= written.keys()
    result = lab.Result.from_json(written)
    assert f"Verdict: {result.verdict} (2 seeds)." in output
    for title in ("Claim", "Criterion", "Limits"):
        assert f"{title}: {small.said(title)}" in output
    for check in result.checks:
        assert check.text in output
    assert "±" in output


def test_files_go_where_they_are_asked_for(small):
    status, _ = run("zero-grad", "--seeds", 1, "--output", "a/b.json", "--picture", "c/d.svg")
    assert status == 0
    assert {path.as_posix() for path in Path().rglob("*.*")} == {"a/b.json", "c/d.svg"}


def test_one_seed_is_said_to_show_nothing(small):
    status, output = run("zero-grad", "--seeds", 1)
    assert status == 0
    assert "Verdict: not shown here (1 seeds)." in output
    assert "One seed gives no interval, so nothing is shown; use --seeds 2 or more." in output


@pytest.mark.parametrize(("options", "count"), [((), 4), (("--long",), 8), (("--long", "--seeds", 2), 2)])
def test_numbers_of_seeds(small, options, count):
    assert run("zero-grad", *options)[0] == 0
    assert len(json.loads(Path("onepass-lab/zero-grad.json").read_text())["seeds"]) == count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope",), "name must be one of activations, batch-norm-rates, .*, got nope"),
        (("--seeds", 3), r"seeds must come with a name \(activations, .*\), got no name"),
        (("--long",), "long must come with a name .*, got no name"),
        (("--output", "a.json"), "output must come with a name .*, got no name"),
        (("zero-grad", "--seeds", 0), "Invalid value for '--seeds': .*greater than or equal to 1"),
        (("zero-grad", "--picture", "a.nope"), "picture must end in one of .*png.*, got a.nope"),
        (("zero-grad", "--output", "file/a.json"), "output must be a place that can be written, got file/a.json"),
    ],
)
def test_wrong_arguments_name_what_was_wanted(small, arguments, message):
    Path("file").write_text("")
    status, output = run(*arguments)
    assert status == 2
    assert re.search(message, output), output
    assert [path.name for path in Path().iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("package", "call", "name"),
    [
        ("scipy.stats", lambda: statistics.estimate([1.0, 2.0]), "scipy"),
        ("sklearn.datasets", data.digits8.__wrapped__, "scikit-learn"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, package, call, name):
    found = importlib.import_module

    def import_module(wanted, *rest):
        if wanted == package:
            raise ModuleNotFoundError(f"No module named '{package}'")
        return found(wanted, *rest)

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(
        ModuleNotFoundError, match=rf'the package {name} \(pip install "onepass\[lab\]"\), got: No'
    ):
        call()


def test_the_command_reports_a_missing_package(small, monkeypatch):
    def run_without(*_):
        raise ModuleNotFoundError("lab: the images must come from the package scikit-learn")

    monkeypatch.setattr(onepass.cli.lab, "run", run_without)
    status, output = run("zero-grad")
    assert status == 2
    assert "the images must come from the package scikit-learn" in output


def test_a_list_needs_no_package(monkeypatch):
    """Neither scipy nor scikit-learn is imported to list claims or to read a result."""
    real = builtins.__import__

    def refuse(name, *rest, **options):
        if name.partition(".")[0] in ("scipy", "sklearn", "mlxtend"):
            raise AssertionError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert run()[0] == 0
