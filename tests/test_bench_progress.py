"""The progress bar of `onepass bench`: on a terminal only, and never within a timed call."""

from __future__ import annotations

import io

import torch
from rich.console import Console

from onepass.bench import Case, measure
from onepass.cli import progress


def shown(terminal: bool, count: int = 4) -> str:
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=100)
    case = Case("doubling", None, count, lambda: {"ours": lambda: None})
    with progress.Bar("", count, console, in_between=True) as bar:
        bar.begin(case.name)
        measure(case, count, torch.device("cpu"), after_round=bar.advance)
    return written.getvalue()


def test_a_terminal_sees_case_and_rounds(monkeypatch):
    monkeypatch.setattr(progress, "_PAUSE", -1.0)
    text = shown(terminal=True)
    assert "doubling" in text
    assert [f"{n}/4" in text for n in range(5)] == [True] * 5


def test_a_file_sees_nothing():
    assert shown(terminal=False) == ""


def test_it_is_drawn_seldom(monkeypatch):
    monkeypatch.setattr(progress, "_PAUSE", 3600.0)
    drawn = shown(terminal=True, count=50)
    assert "0/50" in drawn
    assert "25/50" not in drawn


def test_nothing_is_drawn_while_a_call_is_timed(monkeypatch):
    """No thread draws by itself: in the time of a call nothing is written."""
    monkeypatch.setattr(progress, "_PAUSE", -1.0)
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=100)
    sizes = []

    def call():
        sizes.append(written.tell())
        torch.ones(300, 300).matmul(torch.ones(300, 300))
        sizes.append(written.tell())

    case = Case("quiet", None, 30, lambda: {"ours": call})
    with progress.Bar("", 30, console, in_between=True) as bar:
        bar.begin(case.name)
        assert bar._progress.live.auto_refresh is False
        measure(case, 30, torch.device("cpu"), after_round=bar.advance)
    assert sizes[::2] == sizes[1::2]
    assert len(set(sizes)) > 20
