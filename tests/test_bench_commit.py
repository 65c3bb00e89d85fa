"""The commit in a recorded figure: "-dirty" where the code differs from it, and only there."""

from __future__ import annotations

import shutil
import subprocess

import pytest

import onepass
from onepass.bench import machine

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

SOURCE, RESULT = "python/onepass/__init__.py", "benchmarks/results/optim-cpu.json"


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository of its own with the package and one result, committed."""
    for name in [name for name in machine.os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name in (SOURCE, RESULT):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("committed\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "All")
    monkeypatch.setattr(onepass, "__file__", str(tmp_path / SOURCE))
    return tmp_path


def git(folder, *arguments):
    author = ("user.name=test", "user.email=test@example.org")
    settings = (*author, "commit.gpgsign=false", "core.hooksPath=/dev/null")
    options = [word for setting in settings for word in ("-c", setting)]
    done = subprocess.run(["git", "-C", folder, *options, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_clean_checkout(checkout):
    assert machine.commit() == git(checkout, "rev-parse", "HEAD")


@pytest.mark.parametrize("staged", [False, True], ids=["changed", "staged"])
def test_changed_code_is_dirty(checkout, staged):
    (checkout / SOURCE).write_text("changed\n")
    if staged:
        git(checkout, "add", ".")
    assert machine.commit() == git(checkout, "rev-parse", "HEAD") + "-dirty"


@pytest.mark.parametrize("staged", [False, True], ids=["changed", "staged"])
@pytest.mark.parametrize("name", [RESULT, "benchmarks/results/new/tail-cpu.json"], ids=["known", "new"])
def test_results_are_not_dirty(checkout, name, staged):
    """The second `onepass bench` of a session measures the same code as the first."""
    path = checkout / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("changed\n")
    if staged:
        git(checkout, "add", ".")
    assert machine.commit() == git(checkout, "rev-parse", "HEAD")
    (checkout / SOURCE).write_text("changed\n")
    assert machine.commit() == git(checkout, "rev-parse", "HEAD") + "-dirty"


def test_the_working_directory_where_the_package_is_installed_elsewhere(checkout, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(onepass, "__file__", str(tmp_path_factory.mktemp("installed") / "__init__.py"))
    assert machine.commit() is None or machine.commit() != git(checkout, "rev-parse", "HEAD")
    monkeypatch.chdir(checkout)
    assert machine.commit() == git(checkout, "rev-parse", "HEAD")
