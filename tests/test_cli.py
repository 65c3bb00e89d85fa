"""The command `onepass`, and the harnesses behind `onepass bench` and `onepass parity`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

import onepass
from onepass import _freed_memory
from onepass.bench import harness
from onepass.cli.app import app
from onepass.parity import rule
from onepass.parity.harness import Tally
from tolerance import ULPS_ATOL


def run(*arguments: object) -> tuple[int, str]:
    """Runs the command; returns its exit status, and its output without frames and line breaks."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())


def read(path: Path) -> dict:
    """Reads a JSON file, which may not hold NaN or Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{path} holds {constant}")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_python_m_onepass_prints_the_version():
    done = subprocess.run(
        [sys.executable, "-m", "onepass", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"onepass {onepass.__version__}\n"


def test_commands_are_registered():
    status, output = run("--help")
    assert status == 0
    for name in ("info", "demo", "bench", "parity", "schedule", "lr-range", "lab", "report", "visualize"):
        assert f" {name} " in output


VERBS = (
    *(
        "Also",
        "Begin",
        "Change",
        "Clip",
        "Draw",
        "End",
        "Give",
        "Go",
        "Keep",
        "Measure",
        "Multiply",
        "Print",
        "Read",
    ),
    *("Run", "Seed", "Show", "Spread", "Start", "Store", "Take", "Time", "Train", "Use", "Write"),
)


def part_commands(command: typer.core.TyperCommand) -> dict[str, typer.core.TyperCommand]:
    """The commands below a command such as visualize."""
    return getattr(command, "commands", {})


def test_help_begins_with_a_verb():
    """An option reads as an order: "--seed: Seed the weights", not "--seed: Of the weights"."""
    commands = typer.main.get_command(app).commands
    parts = {
        f"{name} {part}": one for name, group in commands.items() for part, one in part_commands(group).items()
    }
    texts = {
        f"{name} {option.name}": option.help
        for name, command in {**commands, **parts}.items()
        for option in command.params
        if option.name != "help"
    }
    assert len(texts) > 40
    assert {name: text for name, text in texts.items() if not (text or "").startswith(VERBS)} == {}
    assert {text[-1] for text in texts.values()} <= {".", "]"}


def test_info_json_has_what_a_report_needs():
    result = CliRunner().invoke(app, ["info", "--json"])
    facts = json.loads(result.output)
    assert facts["onepass"] == onepass.__version__
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert facts["isa"] in facts["isa_compiled"]
    wanted = {
        "compiler",
        "cuda",
        "torch_cuda",
        "openmp_runtime",
        "fast_pointers",
        "cpu",
        "gpus",
        "python",
        "numpy",
    }
    assert wanted <= facts.keys()


def test_info_shows_every_fact():
    facts = json.loads(CliRunner().invoke(app, ["info", "--json"]).output)
    status, output = run("info")
    assert status == 0
    for name in facts:
        assert name.replace("_", " ") in output
    assert facts["cpu"] in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("bench", "nope"),
            "op must be one of optim, tail, batch_norm, norm, dropout, cross_entropy, schedule, augment, monitor, "
            "train, distributed, got nope",
        ),
        (
            ("parity", "nope"),
            "op must be one of optim, tail, batch_norm, norm, dropout, cross_entropy, augment, got nope",
        ),
        (("bench", "optim", "--case", "nope"), "case must be part of one of sgd-4x16M, "),
        (("bench", "optim", "--device", "tpu"), "device must be one of cpu, cuda, got tpu"),
        (("parity", "optim", "--device", "tpu"), "device must be one of cpu, cuda, got tpu"),
        (("parity", "optim", "--backend", "tpu"), "device must be one of cpu, cuda, got tpu"),
        (
            ("parity", "optim", "--dtype", "float64"),
            "dtype must be one of float32, bfloat16, float16, got float64",
        ),
    ],
    ids=["bench-op", "parity-op", "case", "device", "parity-device", "backend", "dtype"],
)
def test_wrong_arguments_name_what_was_wanted(arguments, message):
    status, output = run(*arguments)
    assert status == 2
    assert message in output


def test_bench_writes_figures_and_picture(tmp_path):
    threads = torch.get_num_threads()
    output, plot = tmp_path / "new" / "optim.json", tmp_path / "optim.png"
    cases = ("--case", "sgd-1000x1024", "--case", "overhead-sgd")
    status, text = run("bench", "optim", *cases, "--quick", "--threads", 1, "--output", output, "--plot", plot)
    assert status == 0
    assert "Starting again" not in text
    assert torch.get_num_threads() == threads
    assert plot.read_bytes().startswith(b"\x89PNG")
    written = read(output)
    assert written["threads"] == 1
    assert written["versions"]["torch"] == torch.__version__
    assert {"command", "date", "commit", "machine", "environment"} <= written.keys()
    bandwidth, overhead = written["results"]
    assert (bandwidth["case"], overhead["case"]) == ("sgd-1000x1024", "overhead-sgd")
    # The gradient is read, parameter and momentum are read and written.
    assert bandwidth["bytes_moved"] == 1000 * 1024 * 4 * 5
    assert set(bandwidth["competitors"]) == {"ours", "fused", "foreach", "loop", "stream"}
    assert set(overhead["competitors"]) == {"ours", "fused"}
    for name, figures in bandwidth["competitors"].items():
        assert len(figures["seconds"]) == 3
        assert figures["seconds_50"] == sorted(figures["seconds"])[1]
        assert figures["seconds_20"] <= figures["seconds_50"] <= figures["seconds_80"]
        assert figures["gb_per_s"] == pytest.approx(bandwidth["bytes_moved"] / figures["seconds_50"] / 1e9)
        assert name in text


def test_bench_stream_moves_the_bytes_of_the_step(monkeypatch):
    case = next(case for case in cli_bench_cases() if case.name == "adamw-1000x1024")
    moved = []

    def stream(reads, writes, threads):
        moved.append(sum(a.nbytes for a in reads) + 2 * sum(a.nbytes for a in writes))

    monkeypatch.setattr(onepass._native, "core", type("Core", (), {"probe": staticmethod(stream)}))
    case.setup()["stream"]()
    assert moved == [case.bytes_moved]


def cli_bench_cases() -> list[harness.Case]:
    from onepass.bench import optim

    return optim.cases(torch.device("cpu"))


def test_bench_case_names_differ():
    names = [case.name for case in cli_bench_cases()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("options", "state"), [((), "kept"), (("--malloc", "default"), "default")], ids=str)
def test_bench_keeps_freed_memory_while_it_runs(options, state, tmp_path):
    status, text = run("bench", "optim", "--case", "overhead-sgd", "--quick", "--output", tmp_path / "a", *options)
    assert status == 0
    assert ("Freed memory is kept" in text) == (state == "kept")
    assert read(tmp_path / "a")["malloc"]["freed_memory"] == state
    assert _freed_memory.describe()["freed_memory"] == "default"


def test_bench_says_where_freed_memory_cannot_be_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(_freed_memory._malloc, "allocator", lambda: ("jemalloc", False))
    status, text = run("bench", "optim", "--case", "overhead-sgd", "--quick", "--output", tmp_path / "a")
    assert status == 0
    assert "malloc stays as it is: keep_freed_memory: the process must have glibc's malloc, got jemalloc" in text
    assert read(tmp_path / "a")["malloc"] == {"allocator": "jemalloc", "freed_memory": "default", "settings": {}}


def test_bench_has_no_picture_of_overhead_alone(tmp_path):
    plot = tmp_path / "overhead.png"
    status, output = run("bench", "optim", "--case", "overhead-sgd", "--quick", "--plot", plot)
    assert status == 2
    assert "must have a case with a bandwidth" in output


def test_interleave_begins_each_round_with_the_next():
    order = []
    competitors = {name: lambda name=name: name for name in "abc"}

    def timer(step):
        order.append(step())
        return float(len(order))

    seconds = harness.interleave(competitors, 4, timer)
    assert "".join(order) == "abcbcacababc"
    assert seconds["a"] == [1.0, 6.0, 8.0, 10.0]


def test_ratios_are_taken_within_rounds():
    # The machine was ten times slower in the second round, and slower for the first competitor in the third.
    assert harness.median_ratio([2.0, 20.0, 9.0], [1.0, 10.0, 1.0]) == 2.0
    assert harness.quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert harness.quantile([5.0], 0.8) == 5.0


def test_a_case_is_chosen_by_name_or_part():
    cases = [harness.Case(name, None, 1, dict) for name in ("adam-a", "adam-a-half", "sgd-a")]

    def names(*wanted):
        return [case.name for case in harness.choose(cases, list(wanted))]

    assert names() == ["adam-a", "adam-a-half", "sgd-a"]
    assert names("adam-a") == ["adam-a"]
    assert names("half", "sgd") == ["adam-a-half", "sgd-a"]


def test_a_failing_compiler_is_reported_and_the_others_are_timed():
    def compiled():
        raise RuntimeError("no compiler\nmore")

    case = harness.Case("a", None, 1, lambda: {"ours": lambda: None}, compiled)
    result = harness.measure(case, 2, torch.device("cpu"), with_compile=True)
    assert list(result.times) == ["ours"]
    assert result.notes == ["torch.compile failed: RuntimeError: no compiler"]


def test_parity_holds_and_is_written(tmp_path):
    path = tmp_path / "parity.json"
    status, output = run(
        "parity", "optim", "--steps", 3, "--dtype", "bfloat16", "--dtype", "float32", "--json", path
    )
    assert status == 0, output
    rows = read(path)["rows"]
    assert f"{len(rows)} rows, 0 of them break" in output
    assert {(row["rule"], row["dtype"]) for row in rows} == {
        (rule, dtype) for rule in ("SGD", "Adam", "AdamW", "Lion") for dtype in ("float32", "bfloat16")
    }
    assert {row["tensor"] for row in rows} == {
        "param",
        "momentum_buffer",
        "exp_avg",
        "exp_avg_sq",
        "max_exp_avg_sq",
    }
    assert all(row["ok"] and 1 <= row["worst_step"] <= 3 for row in rows)
    # Ours was measured, not torch's: it rounds once, so in some row its error is below torch's.
    assert any(row["ours_abs"] < row["torch_abs"] for row in rows)


def test_parity_writes_torchs_infinite_errors_as_text(tmp_path):
    path = tmp_path / "parity.json"
    # In float16 a small gradient's square is 0, and torch's plain loop divides by eps, which is 0 as well.
    status, _ = run("parity", "optim", "--steps", 1, "--dtype", "float16", "--json", path)
    assert status == 0
    rows = [row for row in read(path)["rows"] if row["rule"] == "Adam" and row["tensor"] == "param"]
    assert any(row["torch_abs"] == "inf" for row in rows)


@pytest.mark.parametrize("spoiled", ["param", "exp_avg", "exp_avg_sq"])
def test_parity_fails_when_results_are_off(spoiled, tmp_path, monkeypatch):
    path = tmp_path / "parity.json"
    step = onepass.optim.AdamW.step

    @torch.no_grad()
    def off(self, closure=None):
        loss = step(self, closure)
        for param in self.param_groups[0]["params"]:
            (param if spoiled == "param" else self.state[param][spoiled]).mul_(1 + 1e-6)
        return loss

    monkeypatch.setattr(onepass.optim.AdamW, "step", off)
    status, output = run("parity", "optim", "--dtype", "float32", "--json", path)
    assert status == 1
    assert " NO " in output
    broken = {(row["rule"], row["tensor"]) for row in read(path)["rows"] if not row["ok"]}
    assert broken == {("AdamW", spoiled)}


def test_within_allows_twice_torchs_error_and_one_ulp():
    exact = torch.tensor([1.0, 2.0], dtype=torch.float64)
    eps = torch.finfo(torch.float32).eps
    torchs = torch.tensor([1.0, 2.0 + 4 * eps])
    allowed = torch.tensor([1.0 + 9 * eps, 2.0 - 10 * eps])
    assert rule.within(allowed, torchs, exact) == (True, 0, 9 * eps, 9 * eps, 4 * eps)
    beyond = torch.tensor([1.0 + 10 * eps, 2.0])
    verdict = rule.within(beyond, torchs, exact)
    assert not verdict.ok
    assert verdict.worst == 0
    assert verdict.share == 10 / 9


def test_within_takes_nothing_from_torchs_infinite_error():
    exact = torch.tensor([1.0, 1.0], dtype=torch.float64)
    torchs = torch.tensor([torch.inf, 1.0])
    assert not rule.within(torch.tensor([1.0, 1.001]), torchs, exact).ok
    assert not rule.within(torch.tensor([torch.inf, 1.0]), torchs, exact).ok


def test_within_compares_infinities_and_nans_by_kind():
    exact = torch.tensor([torch.inf, torch.nan], dtype=torch.float64)
    right = exact.float()
    verdict = rule.within(right, right, exact)
    assert (verdict.ok, verdict.share) == (True, 0.0)
    assert not rule.within(torch.tensor([torch.inf, 1.0]), right, exact).ok
    assert not rule.within(torch.tensor([-torch.inf, torch.nan]), right, exact).ok


@pytest.mark.parametrize(
    ("ours", "message"),
    [(torch.zeros(3), "must have one shape"), (torch.zeros(2, dtype=torch.float16), "must have torchs' dtype")],
    ids=["shape", "dtype"],
)
def test_within_rejects_what_cannot_be_compared(ours, message):
    with pytest.raises(ValueError, match=message):
        rule.within(ours, torch.zeros(2), torch.zeros(2, dtype=torch.float64))


def test_ulps_are_shown_at_the_scale_of_the_tensor():
    tally = Tally()
    # The element near zero is what two terms left when they cancelled: its unit is that of the large element.
    exact = torch.tensor([1.0, 1e-9], dtype=torch.float64)
    eps = torch.finfo(torch.float32).eps
    tally.add(1, torch.tensor([1.0 + eps, 1e-9 + eps / 2]), torch.tensor([1.0 + eps, 1e-9]), exact)
    row = tally.row("rule", "float32", "defaults", "param")
    assert row.ours_ulp == pytest.approx(1.0, abs=ULPS_ATOL)
    assert row.ok
