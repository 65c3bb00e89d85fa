"""README and docs: Python blocks run, commands and links exist, figures are those of benchmarks/results."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tolerance import SHOWN_RTOL

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
if not DOCS.is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)
sys.path.insert(0, str(DOCS))

from _site import doors, results  # noqa: E402
from _site.cases import CASES  # noqa: E402

GUIDES = [README, *sorted(DOCS.rglob("*.md"))]
OTHERS = [
    ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "tests/simt/README.md")
]
PAGES = GUIDES + OTHERS
# Which blocks do not run here, by page; each has a comment with the reason in front of it.
NOT_RUN = {"distributed.md": 3, "monitor.md": 1, "schedules.md": 2}
BLOCK = re.compile(r"(<!-- not run here: .+? -->\n\n)?^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[tuple[bool, str]]:
    """The blocks of one language: whether one is to be run, and its code, with the line numbers of the page."""
    text = page.read_text()
    found = [match for match in BLOCK.finditer(text) if match[2] == language]
    return [(match[1] is None, "\n" * text.count("\n", 0, match.start(3)) + match[3]) for match in found]


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    """In order, in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    # A page puts ours in the place of torch's; this puts torch's back.
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", torch.nn.functional.cross_entropy)
    names = {"__name__": "page"}
    for wanted, code in blocks(page, "python"):
        if wanted:
            exec(compile(code, str(page), "exec"), names)
    if page == README:
        for line in re.findall(r"^  `(.+)`$", page.read_text(), re.MULTILINE):
            names |= {"logits": torch.randn(4, 5), "target": torch.zeros(4, dtype=torch.long)}
            eval(line, names)
    # The plot is what that page is about.
    assert {path.name for path in tmp_path.iterdir()} <= ({"range.png"} if page.stem == "lr_range_test" else set())


def test_classes_without_a_torch_class_of_their_name_are_told():
    """Which classes are no subclass of torch's class of the same name (docs/switching.md)."""
    from onepass import nn, optim
    from onepass.optim import lr_scheduler

    pairs = ((optim, torch.optim), (lr_scheduler, torch.optim.lr_scheduler), (nn, torch.nn))
    ours = [(getattr(own, name), getattr(torchs, name, ())) for own, torchs in pairs for name in own.__all__]
    kinds = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, torch.nn.Module)
    classes = [(kind, theirs) for kind, theirs in ours if isinstance(kind, type) and issubclass(kind, kinds)]
    page = (DOCS / "switching.md").read_text()
    told = re.search(r"Six have none there: (.*?)\.\n", page, re.DOTALL).group(1)
    apart = {kind.__name__ for kind, theirs in classes if not issubclass(kind, theirs)}
    assert apart == set(re.findall(r"`(\w+)`", told))


def test_blocks_that_do_not_run_are_counted():
    left_out = {page.name: sum(not wanted for wanted, _ in blocks(page, "python")) for page in PAGES}
    assert {name: count for name, count in left_out.items() if count} == NOT_RUN


def commands() -> list[str]:
    """Each command of the `sh` blocks, once: a line, with those that it continues on."""
    found = {}
    for page in PAGES:
        for _, code in blocks(page, "sh"):
            for line in code.replace("\\\n", " ").splitlines():
                found.update({line.split("#")[0].strip(): None} if line.strip() else {})
    return list(found)


@pytest.mark.parametrize("command", commands())
def test_commands_exist(command):
    words = shlex.split(command)
    if words[0] == "onepass":
        from onepass.cli.app import app

        # A command of several has the name of one of them after its own.
        names = words[1:3] if words[1] == "visualize" else words[1:2]
        shown = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
        assert shown.exit_code == 0, shown.output
        for option in (word for word in words[2:] if word.startswith("--")):
            assert option in shown.output
        for operation in words[2:3] if words[1] in ("bench", "parity") else ():
            assert operation in shown.output
    elif words[0] == "nox":
        assert f"def {words[2]}(session" in (ROOT / "noxfile.py").read_text()
    elif words[0] == "bash":
        assert (ROOT / words[1]).is_file()
    else:
        assert words[:2] == ["python", "-m"], "a command that this test does not know"
        assert words[2] in ("pip", "pytest")
        extras = re.findall(r"\.\[([\w,]+)\]", command)
        known = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        assert set(",".join(extras).split(",")) - {""} <= set(known)
        options = re.findall(r"cmake\.define\.(\w+)", command)
        build = (ROOT / "CMakeLists.txt").read_text()
        assert all(option in build for option in options)


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for included in re.findall(r"^<!-- include: (\S+) -->$", text, re.MULTILINE):
        text += (page.parent / included).read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


FILES = [
    path.relative_to(ROOT).as_posix()
    for folder in ("python", "csrc", "tests", "benchmarks", "cmake", "docs", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.is_file()
]


@each_page
def test_files_that_a_page_names_exist(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("names files of the past")
    ends = r"(?:py|pyi|h|cuh|cu|cpp|cmake|json)"
    for stem, ending, both in re.findall(rf"`([\w./-]+\.)(?:({ends})|{{({ends},{ends})}})`", page.read_text()):
        for named in (stem + one for one in (ending or both).split(",")):
            assert any(f"/{path}".endswith(f"/{named}") for path in FILES), named


def test_pages_that_the_code_names_exist():
    for path in FILES:
        if path.endswith((".py", ".h", ".cuh", ".cu", ".cpp", ".cmake", ".txt")):
            for named in re.findall(r"\bdocs/[\w/-]+\.md\b", (ROOT / path).read_text()):
                assert (ROOT / named).is_file(), f"{path} names {named}"


def test_traps_name_tests():
    tests = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", (DOCS / "traps.md").read_text())
    assert len(named) == len(set(named)) > 20
    assert [name for name in named if f"def {name}(" not in tests] == []


# What is stated and measured


def test_readme_fits_a_screen():
    assert len(README.read_text().splitlines()) <= 100


def test_readmes_figures_are_measured():
    """If this fails after a new measurement: `python docs/_site` writes them."""
    text = README.read_text()
    assert sorted(re.findall(r"<!-- drawn: (\w+) -->", text)) == sorted(results.DRAWN)
    assert results.redraw(text) == text


def test_readmes_figures_are_drawn_from_the_json():
    row = next(
        line for line in README.read_text().splitlines() if line.startswith("| dropout, forward and backward")
    )
    cases = results.load("dropout-cpu")["results"]
    torchs = [case["competitors"]["torch"]["theirs_over_ours"] for case in cases if "torch" in case["competitors"]]
    (train,) = [case["competitors"]["torch"]["theirs_over_ours"] for case in cases if case["case"] == "train"]
    (shown, low, high) = re.search(r"\*\*([\d.]+)\*\*.* ([\d.]+) to ([\d.]+) ", row).groups()
    assert [float(shown), float(low), float(high)] == pytest.approx(
        [train, min(torchs), max(torchs)], rel=SHOWN_RTOL
    )


@pytest.mark.parametrize("name", results.TABLES)
def test_tables_are_drawn(name):
    lines = results.table(name).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) > 2
    assert len({line.count("|") - line.count("\\|") for line in rows}) == 1


def test_pages_name_tables():
    named = {name for page in GUIDES for name in re.findall(r"<!-- results: (\w+) -->", page.read_text())}
    assert named == set(results.TABLES)


def test_every_case_of_a_benchmark_has_words():
    files = sorted(results.FOLDER.glob("*-cpu.json"))
    made = [results.load(path.stem) for path in files]
    cases = {
        case["case"] for run in made if "op" in run for case in run.get("results", ()) if run["op"] != "schedule"
    }
    own_tables = {case for case in cases if case.startswith(("telemetry", "precision"))}
    assert cases - own_tables == set(CASES)


def test_figures_beside_a_result_are_not_typed():
    """A page that cites a file of benchmarks/results draws its figures; decisions keep those of their time."""
    for page in GUIDES:
        if page != README and page.parent.name != "decisions":
            assert not re.search(r"results/[\w-]+\.json", page.read_text()), page


# The API reference


def test_reference_has_every_door():
    named = re.findall(r"automodule:: (\S+)", "".join(page.read_text() for page in (DOCS / "api").glob("*.md")))
    assert sorted(named) == sorted(doors.MODULES)


def test_new_areas_are_doors():
    """A folder of the package is a tool of the command, or has a page in the reference."""
    tools = {"cli", "demo", "lab"}
    areas = {path.parent.name for path in (ROOT / "python" / "onepass").glob("[!_]*/__init__.py")}
    assert {f"onepass.{area}" for area in areas - tools} == {
        name for name in doors.MODULES if name.count(".") == 1
    }


def test_public_names_are_ours():
    names = doors.public_names()
    assert len(names) == len(set(names))
    assert {"onepass.optim.AdamW", "onepass.nn.BatchNorm2d", "onepass.monitor.lr_range_test"} <= set(names)
    assert "onepass.optim.lr_scheduler.LRScheduler" not in names  # torch's own
