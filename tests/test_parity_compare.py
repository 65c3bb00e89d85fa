"""What `onepass parity` adds to its tables: refused arguments, comparison with an earlier file, the plot."""

from __future__ import annotations

import json
import unittest

import pytest
import torch

import onepass.parity
from onepass.cli.progress import Bar
from onepass.parity.case import AS_TORCH, REFUSES, RIGHT, WRONG, Case, Inapplicable, Refused, Wrong, asked
from onepass.parity.compare import Change, changes
from test_parity_traps import run

SGD = ("parity", "optim", "--impl", "torch.optim:SGD", "--kwargs", "foreach=False")
SHORT = ("--dtype", "float32", "--steps", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("optim", "--impl", "torch.optim"), "--impl must be module:Name, as torch.optim:AdamW, got torch.optim"),
        (
            ("optim", "--impl", "torch.optim:RAdam"),
            "--as must say what torch.optim.radam:RAdam computes, one of",
        ),
        (("optim", "--impl", "torch.optim:SGD", "--as", "radam"), "--as must be one of sgd, adam, adamw, lion"),
        (("optim", "--impl", "torch.optim:SGD", "--kwargs", "fused"), "--kwargs must be name=value, got fused"),
        (("optim", "--kwargs", "fused=True"), "kwargs must come with --impl, got no --impl"),
        (("optim", "--as", "adam"), "as must come with --impl, got no --impl"),
        (("optim", "--strict"), "strict must come with --impl, got no --impl"),
        (("dropout", "--impl", "torch.nn:Dropout", "--as", "adam"), "as must come with optim, got dropout"),
        (("tail", "--impl", "torch.optim:SGD"), "impl must come with optim, batch_norm, dropout or cross_entropy"),
        (("optim", "--compare", "nowhere.json"), "compare must be a file that onepass parity --json wrote"),
        (("optim", "--plot", "picture.nope"), "plot must end in one of"),
    ],
)
def test_wrong_arguments_name_what_was_wanted(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, output = run("parity", *arguments)
    assert status == 2
    assert message in output


def test_a_file_of_another_operation_is_refused(tmp_path):
    file = tmp_path / "old.json"
    file.write_text(json.dumps({"op": "dropout", "rows": []}))
    status, output = run(*SGD, "--compare", file)
    assert status == 2
    assert "compare must be a file of the operation optim" in output


def test_compare_prints_what_changed(tmp_path):
    old, plot = tmp_path / "old.json", tmp_path / "plot.png"
    assert run(*SGD, *SHORT, "--json", old, "--plot", plot)[0] == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "Nothing changed" in run(*SGD, *SHORT, "--compare", old)[1]
    written = json.loads(old.read_text())
    next(one for one in written["findings"] if one["case"] == "nesterov")["verdict"] = WRONG
    written["rows"][0] |= {"share_of_limit": 1.5, "ok": False}
    del written["rows"][1]
    old.write_text(json.dumps(written))
    output = run(*SGD, *SHORT, "--compare", old)[1]
    assert "better nesterov wrong, silently right" in output
    assert "better sgd float32 defaults: param 150 % of the limit, broken" in output
    assert output.count(" new ") == 2  # the heading of a column, and the row that was not there


def test_changes_know_directions():
    def file(share, ok=True, verdict=RIGHT, **more):
        row = {"rule": "sgd", "dtype": "float32", "options": "defaults", "tensor": "param"}
        findings = [{"case": "closure", "verdict": verdict}]
        return {"rows": [{**row, "share_of_limit": share, "ok": ok}], "findings": findings, **more}

    def kinds(old, new):
        return [change.kind for change in changes(old, new)]

    assert kinds(file(0.5), file(0.52)) == []
    assert kinds(file(0.5), file(0.6)) == ["worse"]
    assert kinds(file(0.6), file(0.5)) == ["better"]
    assert kinds(file(0.95), file(1.04, ok=False)) == ["worse"]
    assert kinds(file("inf", ok=False), file("inf", ok=False)) == []
    assert kinds(file(0.5), file(0.5, verdict=REFUSES)) == ["worse"]
    assert kinds(file(0.5, verdict=WRONG), file(0.5, verdict=REFUSES)) == ["better"]
    refusal = {"rule": "sgd", "dtype": "float32", "options": "nesterov", "error": "TypeError: no"}
    new = Change("new", "sgd float32 nesterov: refused", "", "TypeError: no")
    assert changes(file(0.5), file(0.5, refusals=[refusal])) == [new]
    assert kinds(file(0.5), {"rows": [], "findings": []}) == ["gone", "gone"]


def case_of(error=None, torchs=None, **options):
    def body(what):
        def run():
            if what is not None:
                raise what

        return run

    return Case("name", "Asks nothing.", "nowhere", body(error), body(torchs), **options)


def test_a_case_has_a_verdict():
    assert case_of().run().verdict == RIGHT
    assert case_of(Wrong("off")).run().verdict == WRONG
    assert case_of(Wrong("off"), Wrong("off")).run().verdict == AS_TORCH
    assert case_of(Wrong("off"), Refused("no")).run().verdict == WRONG
    assert case_of(Refused("no")).run().verdict == REFUSES
    assert case_of(Inapplicable("no")).run().verdict == "does not apply"
    with pytest.raises(ZeroDivisionError):  # an error of the harness is no refusal
        case_of(ZeroDivisionError()).run()


def test_a_case_is_a_test():
    case_of().check()
    case_of(Wrong("off"), Wrong("off")).check()
    for case in (
        case_of(Wrong("off by 3")),
        case_of(Wrong("off by 3"), Wrong(""), strict=True),
        case_of(Refused("off by 3"), required=True),
    ):
        with pytest.raises(AssertionError, match="off by 3"):
            case.check()
    for error in (Refused("no"), Inapplicable("no")):
        with pytest.raises(unittest.SkipTest, match="no"):
            case_of(error).check()
    assert case_of().__name__ == "name"


def test_a_case_leaves_torchs_random_numbers():
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    next(iter(onepass.parity.check_dropout(torch.nn.Dropout))).run()
    assert torch.equal(torch.rand(1), wanted)


def test_whatever_an_implementation_raises_is_a_refusal():
    with pytest.raises(Refused, match="KeyError: 'lr'"), asked():
        raise KeyError("lr")


def test_the_bar_is_not_shown_without_a_terminal(capsys):
    with Bar("work", 3) as bar:
        assert list(bar.over(range(3))) == [0, 1, 2]
        with bar.paused():
            pass
    assert capsys.readouterr() == ("", "")
