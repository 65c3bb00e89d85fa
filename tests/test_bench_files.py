"""Cases of a user's own: a file given by its path, and `onepass.bench.Case` itself."""

from __future__ import annotations

import doctest
import shutil
from pathlib import Path

import pytest
import torch

import onepass.bench
from onepass.bench import Case, Prepared, measure
from test_cli import read, run

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "docs" / "examples" / "my_cases.py"
HEAD = "from onepass.bench import Case\n"
GOOD = HEAD + (
    "def nothing():\n    pass\n\ndef cases(device):\n"
    "    return [Case('a', 4000, 3, lambda: {'ours': nothing, 'b': nothing}), Case('c', None, 3, dict)]\n"
)


def written(folder: Path, text: str, name: str = "my_cases.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="needs the source tree")
def test_the_page_shows_the_example_file():
    assert f"```python\n{EXAMPLE.read_text()}```" in (ROOT / "docs" / "bench.md").read_text()


@pytest.mark.skipif(not EXAMPLE.is_file(), reason="needs the source tree")
def test_the_example_runs_with_all_features(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    shutil.copy(EXAMPLE, tmp_path)
    impl = "torch.nn.functional:rms_norm"
    quick = ("bench", "my_cases.py", "--case", "256", "--quick", "--impl", impl)
    status, text = run(*quick, "--output", "mine.json", "--plot", "mine.png")
    assert status == 0, text
    found = read(tmp_path / "mine.json")
    assert found["op"] == "my_cases.py"
    (case,) = found["results"]
    assert case["case"] == "rms_norm-256x512"
    assert set(case["competitors"]) == {"ours", "torch", impl, "stream"}
    assert all(one["share_of_stream"] > 0 for one in case["competitors"].values())
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    status, text = run(*quick, "--compare", "mine.json")
    assert status == 0, text
    assert "new/old" in text
    status, text = run(*quick[:-2], "--impl", "torch.nn.functional:layer_norm", "--as", "rms_norm")
    assert status == 1
    assert "layer_norm is not timed: wrong: output differs from torch's by " in text


def test_a_file_imports_what_lies_next_to_it(tmp_path):
    written(tmp_path, GOOD, "cases_beside.py")
    path = written(tmp_path, "from cases_beside import cases\n")
    assert run("bench", path, "--case", "a", "--quick")[0] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "must be a file, got a path where none is"),
        ("x = 1\n", "must define a function cases(device), got none"),
        ("cases = 3\n", "must define a function cases(device), got none"),
        ("def cases(device):\n    return 3\n", "cases must return a list, got int"),
        ("def cases(device):\n    return []\n", "cases must return at least one Case, got none"),
        ("def cases(device):\n    return [1]\n", "cases must return a list of onepass.bench.Case, got int at 0"),
        (GOOD.replace("'c'", "'a'"), "cases must have different names, got a twice"),
        ("import nowhere\n", "line 1, in <module>: ModuleNotFoundError: No module named 'nowhere'"),
        ("x = 1\ndef cases(device):\n    return 1 / 0\n", "line 3, in cases: ZeroDivisionError: division by zero"),
        ("x = 1\ndef cases(:\n", "line 2: SyntaxError: invalid syntax"),
        ("def cases():\n    pass\n", "TypeError: cases() takes 0 positional arguments but 1 was given"),
        (
            HEAD + "def cases(device):\n    return [Case('', 1, 1, dict)]\n",
            "line 3, in cases: ValueError: Case: name",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(text, message, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "my_cases.py" if text is None else written(tmp_path, text)
    status, output = run("bench", path, "--quick")
    assert status == 2
    assert message in output
    assert "my_cases.py" in output


def test_an_error_in_setup_ends_the_command_with_its_line(tmp_path):
    text = HEAD + "def setup():\n    return {'ours': missing}\n\n"
    text += "def cases(device):\n    return [Case('a', None, 1, setup)]\n"
    status, output = run("bench", written(tmp_path, text), "--quick")
    assert status == 1
    assert "case a: " in output
    assert "line 3, in setup: NameError: name 'missing' is not defined" in output


def test_cases_that_were_measured_are_kept_when_a_later_one_ends_the_run(tmp_path):
    text = GOOD + "\ndef fails():\n    raise OSError\n\nfine = cases\n"
    text += "def cases(device):\n    return [*fine(device), Case('d', None, 3, fails)]\n"
    path = written(tmp_path, text)
    assert run("bench", path, "--case", "a", "--case", "d", "--quick", "--output", tmp_path / "out.json")[0] == 1
    assert [one["case"] for one in read(tmp_path / "out.json")["results"]] == ["a"]


def test_setup_must_make_functions(tmp_path):
    status, output = run("bench", written(tmp_path, GOOD), "--case", "c", "--quick")
    assert status == 1
    assert "TypeError: Case c: setup must return a dict of functions, at least one, got {}" in output


def test_a_competitor_that_raises_is_reported_and_the_others_are_timed(tmp_path):
    text = HEAD + "def bad():\n    raise OSError('no')\n\ndef cases(device):\n"
    text += "    return [Case('a', None, 1, lambda: {'ours': lambda: None, 'bad': bad})]\n"
    output = tmp_path / "out.json"
    status, shown = run("bench", written(tmp_path, text), "--quick", "--output", output)
    assert status == 1
    assert "bad is not timed: raised: " in shown
    assert "line 3, in bad: OSError: no" in shown
    assert set(read(output)["results"][0]["competitors"]) == {"ours"}


def test_a_case_without_ours_has_times_and_no_ratios():
    result = measure(Case("a", 4000, 3, lambda: {"b": lambda: None}), 3, torch.device("cpu"))
    assert set(result.times) == {"b", "stream"}
    assert result.times["b"].theirs_over_ours is None
    assert result.times["b"].share_of_stream is not None


def test_what_prepares_a_call_is_not_timed():
    order = []
    both = Prepared(lambda: order.append("prepare"), lambda: order.append("run"))
    measure(Case("a", None, 2, lambda: {"ours": both}), 2, torch.device("cpu"))
    assert order == ["prepare", "run"] * 5


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, None, 1, dict), TypeError, "Case: name must be a str, got int"),
        (("", None, 1, dict), ValueError, "Case: name must not be empty"),
        (("a", 0, 1, dict), ValueError, "Case: bytes_moved must be at least 1, got 0"),
        (("a", 1.5, 1, dict), TypeError, "Case: bytes_moved must be an int or None, got float"),
        (("a", None, 0, dict), ValueError, "Case: rounds must be at least 1, got 0"),
        (("a", None, None, dict), TypeError, "Case: rounds must be an int, got NoneType"),
        (("a", None, True, dict), TypeError, "Case: rounds must be an int, got bool"),
        (("a", None, 1, {}), TypeError, "Case: setup must be callable, got dict"),
        (("a", None, 1, None), TypeError, "Case: setup must be callable, got NoneType"),
        (("a", None, 1, dict, 3), TypeError, "Case: compiled must be callable, got int"),
    ],
)
def test_a_wrong_case_is_refused(arguments, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        Case(*arguments)


@pytest.mark.parametrize("name", [name for name in onepass.bench.__all__ if name not in ("OPS", "OURS", "STREAM")])
def test_examples_of_docstrings_run(name):
    found = doctest.DocTestFinder(recurse=False).find(getattr(onepass.bench, name), name, globs={})
    assert found[0].examples
    output: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for example in found:
        runner.run(example, out=output.append)
    assert runner.failures == 0, "".join(output)
