"""Tables of docs/peers.md, drawn from benchmarks/results/peers/*.json, which `nox -s peers` writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from _site.cases import CASES
from _site.markdown import FOLDER, grid, percent, ratio

RIGHT, WRONG, AS_TORCH, REFUSES = "right", "wrong, silently", "as torch", "refuses"


def load_all() -> list[dict[str, Any]]:
    """All files of peers, torch's first."""
    paths = sorted(
        (FOLDER / "peers").glob("*.json"), key=lambda path: (not path.stem.startswith("torch-"), path.stem)
    )
    return [{**json.loads(path.read_text()), "file": path.name} for path in paths]


def _versions(peer: dict[str, Any]) -> str:
    return peer["installed"][peer["package"]]


def implementations() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each implementation: what it is called in the tables, its entry, and its peer."""
    for peer in load_all():
        for label, entry in peer["implementations"].items():
            name, comma, more = label.partition(",")
            yield f"{name} {_versions(peer).partition('+')[0]}{comma}{more}", entry, peer


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def what_ran() -> str:
    """A row for each file: packages, versions, machine, date, commit."""
    rows = []
    for peer in load_all():
        commit, _, dirty = peer["commit"].partition("-")
        rows.append(
            [
                f"[{peer['peer']}](../benchmarks/results/peers/{peer['file']})",
                ", ".join(f"{package} {version}" for package, version in peer["installed"].items()),
                "<br>".join(f"`{entry['implementation']}`" for entry in peer["implementations"].values()),
                f"{peer['machine']['cpu']}, {peer['threads']} threads",
                peer["date"][:10],
                f"`{commit[:7]}`" + ("-dirty" if dirty else ""),
            ]
        )
    return grid(["run", "versions", "implementations", "machine", "date", "commit"], rows)


def _ran(entry: dict[str, Any]) -> bool:
    return "failed" not in entry["parity"]


def trap_sums() -> str:
    """How many traps each implementation passes, falls into, or refuses."""
    rows = []
    for name, entry, _ in implementations():
        if not _ran(entry):
            rows.append([name, "", "", "", "", _cell(entry["parity"]["failed"])])
            continue
        verdicts = [finding["verdict"] for finding in entry["parity"]["findings"]]
        rows.append([name, *(str(verdicts.count(one)) for one in (RIGHT, WRONG, AS_TORCH, REFUSES)), ""])
    heads = ["implementation", RIGHT, WRONG, "wrong, as torch's loop is", REFUSES, "did not run"]
    return grid(heads, rows) if any(row[-1] for row in rows) else grid(heads[:-1], [row[:-1] for row in rows])


def traps() -> str:
    """A row for each trap in which somebody is wrong or refuses."""
    found: dict[str, dict[str, list[str]]] = {}
    asks: dict[str, str] = {}
    for name, entry, _ in implementations():
        for finding in entry["parity"].get("findings", ()):
            asks[finding["case"]] = finding["what"]
            found.setdefault(finding["case"], {}).setdefault(finding["verdict"], []).append(name)
    rows = [
        [f"`{case}`", _cell(asks[case]), *("<br>".join(by.get(verdict, ())) for verdict in (WRONG, REFUSES))]
        for case, by in found.items()
        if WRONG in by or REFUSES in by
    ]
    return grid(["trap", "what is asked", WRONG, REFUSES], rows)


def accuracy() -> str:
    """The accuracy of each implementation, by the rule of docs/numerics.md."""
    rows = []
    for name, entry, _ in implementations():
        measured = [row for row in entry["parity"].get("rows", ()) if row["tensor"] == "param"]
        if not measured:
            continue
        cells = []
        for dtype in ("float32", "bfloat16", "float16"):
            some = [row for row in measured if row["dtype"] == dtype]
            shares = [float(row["share_of_limit"]) for row in some]
            held = sum(row["ok"] for row in some)
            cells += [f"{held} of {len(some)}", _share(max(shares)) if shares else ""]
        rows.append([name, *cells])
    heads = ["implementation"]
    for dtype in ("float32", "bfloat16", "float16"):
        heads += [f"{dtype}: options within the limit", "largest error / limit"]
    return grid(heads, rows)


def _share(value: float) -> str:
    return "infinite" if value == float("inf") else f"{value:.2f}" if value < 10 else f"{value:.3g}"


def refused() -> str:
    """The options that an implementation refuses in float32, with its error."""
    rows = []
    for name, entry, _ in implementations():
        for refusal in entry["parity"].get("refusals", ()):
            if refusal["dtype"] == "float32":
                rows.append([name, refusal["options"], _cell(refusal["error"])])
    return grid(["implementation", "options", "error"], rows)


def _timed(cell: Callable[[dict[str, Any], str], str]) -> tuple[list[str], list[list[str]]]:
    """A row for each implementation, a column for each size."""
    cases: dict[str, None] = {}
    for _, _, peer in implementations():
        cases.update(dict.fromkeys(case["case"].partition("-")[2] for case in peer["bench"].get("results", ())))
    rows = []
    for name, entry, peer in implementations():
        by_size = {case["case"].partition("-")[2]: case for case in _own_cases(entry, peer)}
        rows.append([name, *(cell(by_size[s], entry["implementation"]) if s in by_size else "" for s in cases)])
    return [CASES[f"adamw-{size}"].removeprefix("AdamW, ") for size in cases], rows


def _own_cases(entry: dict[str, Any], peer: dict[str, Any]) -> list[dict[str, Any]]:
    """The cases that the implementation took part in."""
    name = entry["implementation"]
    return [
        case
        for case in peer["bench"].get("results", ())
        if name in case["competitors"] or name in case.get("faults", {})
    ]


def speed() -> str:
    """The time of each implementation divided by onepass's in the same run."""

    def cell(case: dict[str, Any], name: str) -> str:
        fault = case["faults"].get(name)
        if fault is not None:
            return _cell(f"{fault['how']}: {fault['text']}")
        return ratio(case["competitors"][name]["theirs_over_ours"])

    heads, rows = _timed(cell)
    for row, (_, entry, peer) in zip(rows, implementations(), strict=True):
        shares = [
            case["competitors"][entry["implementation"]]["difference"]
            for case in _own_cases(entry, peer)
            if entry["implementation"] in case["competitors"]
        ]
        row.append(f"{max(shares):.1g}" if shares else "")
    columns = ["implementation", *(f"{head}: time / onepass" for head in heads), "difference from torch's result"]
    return grid(columns, rows)


def bandwidth() -> str:
    """The share of the bandwidth that each implementation reaches, and onepass in the same run."""

    def cell(case: dict[str, Any], name: str) -> str:
        shares = [case["competitors"].get(one, {}).get("share_of_stream") for one in (name, "ours")]
        return " / ".join(percent(share) for share in shares) if shares[0] is not None else ""

    heads, rows = _timed(cell)
    return grid(["implementation / onepass", *heads], rows)
