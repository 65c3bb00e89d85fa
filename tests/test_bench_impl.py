"""`onepass bench --impl`: who joins which case, who is compared with torch first, and who is not timed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from onepass.bench import Case, Entrant, Entry, batch_norm, cross_entropy, dropout, harness, measure, optim
from onepass.bench.caches import IN_TURN
from onepass.bench.entrants import entrants_of
from test_cli import read, run

CPU = torch.device("cpu")
LAYER_TIMES = ("ours", "torch", "stream", *(f"{one} ({IN_TURN})" for one in ("ours", "torch")))
HERE = "bench_entrants"
# Small shapes of each operation: what is tested is who competes, not how fast.
BATCH = (4, 6, 5, 5)
NAMED = ("bench", "optim", "--quick", "--rounds", 1, "--threads", 1)


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def entrant(name: str, stands_for: str, **more) -> Entrant:
    import bench_entrants

    return Entrant(name, getattr(bench_entrants, name), stands_for, **more)


def small_optim(rule: str = "adamw", dtype: torch.dtype = torch.float32) -> Case:
    return optim._bandwidth_case("small", optim.RULES[rule], optim.Shape("", 5, 77, 1), dtype, CPU)


def test_a_right_one_is_timed_and_the_figures_are_written(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    output, plot = tmp_path / "new.json", tmp_path / "new.png"
    names = [f"{HERE}:RightAdamW(weight_decay=0.1)", "torch.optim:AdamW(fused=True)"]
    impls = [word for name in names for word in ("--impl", name)]
    status, text = run(*NAMED, "--case", "adamw-1000x1024", *impls, "--output", output, "--plot", plot)
    assert status == 0, text
    (result,) = read(output)["results"]
    for name in names:
        figures = result["competitors"][name]
        assert figures["difference"] < 1e-5
        assert figures["theirs_over_ours"] > 0
        assert figures["gb_per_s"] == pytest.approx(result["bytes_moved"] / figures["seconds_50"] / 1e9)
        assert figures["share_of_stream"] > 0
        assert name in text
    assert result["faults"] == {}
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_only_fitting_cases_run_unless_others_are_named(tmp_path, monkeypatch):
    cases = [
        Case(name, None, 1, lambda: {"ours": lambda: None}, stands_for=rule, join=join)
        for name, rule, join in (
            ("a", "adamw", lambda entrant: Entry(lambda: lambda: None, lambda: ("param", 0.0))),
            ("b", "sgd", lambda entrant: None),
            ("c", None, None),
        )
    ]
    monkeypatch.setattr(optim, "cases", lambda device: cases)
    output = tmp_path / "out.json"
    for named, wanted in ((), ["a"]), (("--case", "a", "--case", "c"), ["a", "c"]):
        assert run(*NAMED, *named, "--impl", "torch.optim:AdamW", "--output", output)[0] == 0
        assert [one["case"] for one in read(output)["results"]] == wanted
    status, text = run(*NAMED, "--case", "b", "--impl", "torch.optim:AdamW")
    assert status == 2
    assert "--impl must fit one of the cases b, got torch.optim:AdamW, which stands for adamw" in text


@pytest.mark.parametrize("name", ["LazyAdamW", "LastAdamW", "NotFiniteAdamW"])
def test_a_wrong_optimizer_is_not_timed(name):
    result = measure(small_optim(), 1, CPU, entrants=[entrant(name, "adamw")])
    assert set(result.times) == {"ours", "fused", "foreach", "loop", "stream"}
    assert result.faults[name].how == "wrong"
    assert "param differs from torch's by " in result.faults[name].text


def test_the_wrong_one_is_in_table_and_file_and_ends_with_1(tmp_path):
    output = tmp_path / "out.json"
    impls = ("--impl", f"{HERE}:LazyAdamW", "--impl", f"{HERE}:RaisingAdamW", "--impl", f"{HERE}:RightAdamW")
    status, text = run(*NAMED, "--case", "overhead-adamw", *impls, "--output", output)
    assert status == 1
    assert f"{HERE}:LazyAdamW wrong" in text
    assert f"{HERE}:LazyAdamW is not timed: wrong: param differs from torch's by 1, allowed are 0.001" in text
    assert f"{HERE}:RaisingAdamW is not timed: raised: " in text
    (result,) = read(output)["results"]
    assert result["faults"][f"{HERE}:LazyAdamW"]["how"] == "wrong"
    told = result["faults"][f"{HERE}:RaisingAdamW"]
    assert told["how"] == "raised"
    # The place, and the first line of the message.
    assert told["text"].endswith("in step: RuntimeError: no kernel")
    assert "bench_entrants.py, line " in told["text"]
    assert set(result["competitors"]) == {"ours", "fused", f"{HERE}:RightAdamW"}


def test_one_that_raises_in_a_timed_call_leaves_and_the_others_go_on():
    result = measure(small_optim(), 5, CPU, entrants=[entrant("TiringAdamW", "adamw")])
    assert result.faults["TiringAdamW"].text.endswith("RuntimeError: tired")
    assert "TiringAdamW" not in result.times
    assert {len(times.seconds) for times in result.times.values()} == {5}


def test_without_a_place_for_faults_the_error_goes_on():
    with pytest.raises(ZeroDivisionError):
        harness.interleave({"a": lambda: 1 / 0}, 1, lambda step: 0.0)


def test_one_that_writes_to_its_gradients_spoils_no_others(monkeypatch):
    seen = []
    case = small_optim()
    original = optim._tensors
    monkeypatch.setattr(optim, "_tensors", lambda *args: seen.append(original(*args)) or seen[-1])
    measure(case, 1, CPU, entrants=[entrant("DirtyAdamW", "adamw")])
    shared, own = seen
    assert all(grad.isfinite().all() for grad in shared)
    assert all(grad.isnan().all() for grad in own)


def test_an_argument_that_torch_has_changes_both():
    """Otherwise another weight decay would count as wrong."""
    for kwargs in ({"weight_decay": 0.5}, {"amsgrad": True}, {"lr": 0.5}, {"foreach": True}):
        one = entrant("RightAdamW", "adamw", kwargs=kwargs)
        assert measure(small_optim(), 1, CPU, entrants=[one]).faults == {}, kwargs


@pytest.mark.parametrize("rule", ["sgd", "adam", "lion"])
def test_every_rule_takes_its_own_kind(rule):
    kind = optim.plain_class(optim.RULES[rule].kind)
    right, lazy = Entrant("right", kind, rule), Entrant("other", torch.optim.Adagrad, rule)
    result = measure(small_optim(rule), 1, CPU, entrants=[right, lazy])
    assert "right" in result.times
    assert result.faults["other"].how == "wrong"


def test_sixteen_bits_are_compared_more_loosely():
    case = small_optim(dtype=torch.bfloat16)
    found = measure(case, 1, CPU, entrants=[entrant("RightAdamW", "adamw", kwargs={"fused": True})])
    assert found.faults == {}
    assert measure(case, 1, CPU, entrants=[entrant("LazyAdamW", "adamw")]).faults["LazyAdamW"].how == "wrong"


def test_a_tolerance_lets_a_lossy_one_run():
    case = Case(
        "a",
        None,
        1,
        lambda: {"ours": lambda: None},
        stands_for="adamw",
        join=lambda entrant: Entry(lambda: lambda: None, lambda: ("param", 0.01)),
    )
    for tolerance, faults in ((0.001, {"LazyAdamW"}), (0.02, set())):
        found = measure(case, 1, CPU, entrants=[entrant("LazyAdamW", "adamw", tolerance=tolerance)])
        assert set(found.faults) == faults
    assert found.times["LazyAdamW"].difference == 0.01


LAYERS = {
    "batch_norm": lambda **more: batch_norm._case(batch_norm.Work("small", BATCH, **more), CPU),
    "dropout": lambda **more: dropout._case(dropout.Work("small", (64, 512), **more), CPU),
    "cross_entropy": lambda **more: cross_entropy._case(cross_entropy.Work("small", (64, 10), 0.1, **more), CPU),
}


@pytest.mark.parametrize(
    ("op", "name", "wrong"),
    [
        ("batch_norm", "BatchNorm2d", None),
        ("batch_norm", "batch_norm", None),
        ("batch_norm", "ForgetfulBatchNorm2d", "running_mean"),
        ("dropout", "dropout", None),
        ("dropout", "unscaled_dropout", "output|gradient"),
        ("dropout", "shy_dropout", "keep rate"),
        ("dropout", "DetachedDropout", "gradient"),
        ("cross_entropy", "cross_entropy", None),
        ("cross_entropy", "plain_cross_entropy", "gradient 0"),
    ],
)
def test_layers_and_losses(op, name, wrong):
    result = measure(LAYERS[op](), 1, CPU, entrants=[entrant(name, op)])
    assert (name in result.times) == (wrong is None)
    for fault in result.faults.values():
        assert re.match(f"({wrong}) differs from torch's by ", fault.text)


@pytest.mark.parametrize("op", ["batch_norm", "dropout", "cross_entropy"])
def test_torchs_own_modules_join(op):
    kind = {"batch_norm": "BatchNorm2d", "dropout": "Dropout", "cross_entropy": "CrossEntropyLoss"}[op]
    result = measure(LAYERS[op](), 1, CPU, entrants=[Entrant("module", getattr(torch.nn, kind), op)])
    assert result.faults == {}
    assert "module" in result.times


@pytest.mark.parametrize(
    ("op", "name", "more"),
    [
        ("batch_norm", "BatchNorm2d", {"relu": True}),
        ("batch_norm", "BatchNorm2d", {"residual": True}),
        ("dropout", "dropout", {"residual": True}),
        ("dropout", "dropout", {"inplace": True, "backward": False}),
        ("dropout", "dropout", {"function": "alpha_dropout"}),
        ("cross_entropy", "cross_entropy", {"two_labels": True}),
    ],
)
def test_one_that_lacks_a_part_of_the_work_does_not_join(op, name, more):
    result = measure(LAYERS[op](**more), 1, CPU, entrants=[entrant(name, op)])
    assert name not in result.times
    assert result.faults == {}


def test_a_layer_of_other_dimensions_does_not_join():
    one = Entrant("BatchNorm1d", torch.nn.BatchNorm1d, "batch_norm")
    assert set(measure(LAYERS["batch_norm"](), 1, CPU, entrants=[one]).times) == {*LAYER_TIMES}
    images = dropout._case(dropout.Work("small", (8, 64, 5, 5), function="dropout2d"), CPU)
    two = [Entrant(name, getattr(torch.nn, name), "dropout") for name in ("Dropout", "Dropout2d")]
    found = measure(images, 1, CPU, entrants=two)
    assert (found.faults, set(found.times)) == ({}, {*LAYER_TIMES, "Dropout2d"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tail", "--impl", "torch.optim:AdamW"), "--impl must come with an operation whose cases take"),
        (("optim", "--kwargs", "fused=True"), "--kwargs must come with --impl, got no --impl"),
        (("optim", "--as", "adamw"), "--as must come with --impl, got no --impl"),
        (("optim", "--tolerance", "0.5"), "--tolerance must come with --impl, got no --impl"),
        (("optim", "--impl", "torch.optim"), "--impl must be module:Name, as torch.optim:AdamW, got torch.optim"),
        (("optim", "--impl", "nowhere:AdamW"), "there is no module nowhere"),
        (("optim", "--impl", "bench_entrants:Other"), "--as must say what bench_entrants:Other computes"),
        (("optim", "--impl", "torch.optim:AdamW(0.1)"), "must be module:Name or module:Name(argument=value, ...)"),
        (("optim", "--impl", "torch.optim:AdamW(lr=)"), "must be module:Name or module:Name(argument=value, ...)"),
        (("optim", "--impl", "torch.optim:AdamW(fused=true)"), "must have True with a capital"),
        (
            ("optim", "--impl", "torch.optim:AdamW(lr=1)", "--kwargs", "eps=1"),
            "--kwargs must come with one --impl without parentheses",
        ),
        (
            ("optim", "--impl", "torch.optim:AdamW", "--impl", "torch.optim:AdamW"),
            "--impl must differ from the others, got torch.optim:AdamW twice",
        ),
    ],
)
def test_wrong_options_are_refused(arguments, message, monkeypatch):
    monkeypatch.setattr("onepass.cli.bench.measure", lambda *_: pytest.fail("has begun to work"))
    status, text = run("bench", *arguments, "--quick")
    assert status == 2
    assert message in text


def test_texts_become_entrants():
    rules = ("adam", "adamw")
    one, two = entrants_of(
        ["torch.optim:AdamW(betas=(0.5, 0.9), fused=True)", f"{HERE}:Mystery"], [], None, rules, 0.5
    )
    assert (one.name, one.stands_for) == ("torch.optim:AdamW(betas=(0.5, 0.9), fused=True)", "adamw")
    assert one.kwargs == {"betas": (0.5, 0.9), "fused": True}
    assert (two.name, two.stands_for, two.tolerance) == (f"{HERE}:Mystery", "adamw", 0.5)
    (given,) = entrants_of([f"{HERE}:Other"], ["lr=0.5"], "adam", rules)
    assert (given.name, given.stands_for, given.kwargs) == (f"{HERE}:Other(lr=0.5)", "adam", {"lr": 0.5})
    # It has no betas, and gets none.
    assert given.known({"lr": 1.0, "betas": (0.9, 0.99)}) == {"lr": 0.5}
    assert sys.modules[HERE].Other is given.implementation
