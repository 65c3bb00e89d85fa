"""The pages of trajectories and landscapes, and `onepass visualize`."""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
from typer.testing import CliRunner

from onepass import _page
from onepass.cli.app import app
from onepass.visualize import landscape, trajectories
from page_checks import check

NASTY = "</script><b>&'\""


def test_the_page_of_trajectories(tmp_path):
    path = tmp_path / "a.html"
    runs = trajectories("rosenbrock", {NASTY: "sgd", "b": "adam"}, steps=12, lr={NASTY: "auto", "b": 0.1})
    runs.write_html(path)
    page = check(path.read_text())
    assert page.by_id("step")["max"] == "12"
    assert page.data["window"] == [[-2.0, 2.0], [-1.0, 3.0]]
    assert [one["label"] for one in page.data["paths"]] == [NASTY, "b"]
    assert len(page.data["paths"][0]["losses"]) == 13
    assert len(page.data["paths"][0]["tried"]) == 31
    assert page.data["paths"][1]["rates"] == [0.1] * 12
    assert NASTY in page.text
    assert "(1 - x)^2 + 100 (y - x^2)^2" in page.text
    assert {"play", "step", "speed", "surface", "losses", "rates"} <= {
        attributes.get("id") for _, attributes in page.elements
    }


def test_a_run_that_diverges_has_a_page(tmp_path):
    path = tmp_path / "a.html"
    trajectories("rosenbrock", "sgd", steps=50, lr=1.0).write_html(path)
    page = check(path.read_text())
    assert int(page.by_id("step")["max"]) < 50
    assert page.data["paths"][0]["losses"][-1] is None
    assert "not finite" in page.text


def test_the_page_of_a_landscape(tmp_path):
    path = tmp_path / "a.html"
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    draw = [{name: p + torch.randn_like(p) for name, p in model.state_dict().items()} for _ in range(3)]
    batch = (torch.randn(8, 3), torch.zeros(8, dtype=torch.long))
    for trajectory in (None, draw):
        scene = landscape(model, torch.nn.functional.cross_entropy, [batch], resolution=17, trajectory=trajectory)
        scene.write_html(path)
        page = check(path.read_text())
        assert len(page.data["heights"]) == 17
        assert len(page.data["points"]) == scene.evaluations
        assert len(page.data["path"]) == len(page.data["path_heights"]) == (0 if trajectory is None else 3)
        assert f"{scene.evaluations} of 289 points" in page.text
        assert "running statistics of the model as it is" in page.text
        ids = {attributes.get("id") for _, attributes in page.elements}
        assert ("way" in ids) == (trajectory is not None)


def test_plain_is_strict_json():
    made = _page.plain({"a": [math.nan, math.inf, 1 / 3], "b": torch.ones(2).numpy(), 3: ("x", None, True)})
    assert made == {"a": [None, None, 0.333333], "b": [1.0, 1.0], "3": ["x", None, True]}
    json.dumps(made, allow_nan=False)


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_a_missing_package_is_named(monkeypatch, tmp_path, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    runs = trajectories("ravine", "sgd", steps=2, lr=0.01)
    with pytest.raises(
        ModuleNotFoundError, match=r'needs plotly and jinja2 \(pip install "onepass\[visualize\]"\)'
    ):
        runs.write_html(tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []
    output = tmp_path / "out"
    status, text = run("--on", "ravine", "--optim", "sgd", "--lr", "0.01", "--steps", "2", "-o", output)
    assert status == 2
    assert 'pip install "onepass[visualize]"' in text
    assert not output.exists()
    status, text = run(
        "--on", "ravine", "--optim", "sgd", "--lr", "0.01", "--steps", "2", "--no-html", "-o", output
    )
    assert status == 0
    assert sorted(path.name for path in output.iterdir()) == ["ravine.json", "ravine.png"]


def run(*arguments: object) -> tuple[int, str]:
    """Runs the command; returns its exit status and its output."""
    words = ["visualize", "optimizers", *map(str, arguments)]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200", "TERM": "dumb"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_the_command(tmp_path):
    options = ("--optim", "sgd,lion", "--lr", "sgd=0.01,lion=0.1", "--schedule", "cosine(6)", "--start=-1,0.5")
    status, text = run("--on", "ravine", *options, "--steps", "6", "-o", tmp_path)
    assert status == 0, text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ravine.html", "ravine.json", "ravine.png"]
    written = json.loads((tmp_path / "ravine.json").read_text())
    assert written["start"] == [-1.0, 0.5]
    assert written["schedule"] == "cosine(6)"
    assert [(path["label"], path["lr"]) for path in written["paths"]] == [("sgd", 0.01), ("lion", 0.1)]
    assert "lion" in text
    assert "ravine.html" in text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--on", "x"), "on must be one of rosenbrock, beale"),
        (("--optim", "x"), "optimizers must be of sgd, momentum, nesterov, adam, adamw, lion, got x"),
        (("--lr", "x"), "lr must be a number, auto or name=number, got x"),
        (("--lr", "nan"), "lr must be a number, auto or name=number, got nan"),
        (("--lr", "sgd=0.1,x"), "lr must be a number, auto or name=number, got x"),
        (("--lr", "x=0.1"), "lr must name optimizers of sgd, momentum, adam, adamw, lion, got x"),
        (("--lr=-1",), "lr must be finite and above 0, got -1"),
        (("--schedule", "x"), "schedule: "),
        (("--start", "1"), "start must be two numbers, as in -1.5,2, got 1"),
        (("--start", "1,inf"), "start must be finite"),
        (("--noise", "inf"), "noise must be finite and above 0, got inf"),
    ],
)
def test_wrong_options(tmp_path, options, text):
    status, shown = run(*options, "-o", tmp_path / "out")
    assert status == 2
    assert text in " ".join(shown.split())
    assert not (tmp_path / "out").exists()
