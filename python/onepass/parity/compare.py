"""What changed between two JSON files of `onepass parity`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Change", "changes"]

# Shares of the limit that differ by less say nothing: other instruction sets round otherwise.
_FACTOR, _LEAST = 1.1, 0.02


@dataclass(frozen=True)
class Change:
    """Holds what one row or case was and is."""

    kind: str
    """``better``, ``worse``, ``new`` or ``gone``."""
    what: str
    old: str
    new: str


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Lists what changed: rows and cases that are new or gone, better or worse.

    A row is better or worse if its verdict changed, or its share of the limit by more than a tenth.

    Args:
        old: Content of an earlier file.
        new: Content of the present one.
    """
    found = [*_rows(old, new), *_findings(old, new)]
    order = ("worse", "gone", "better", "new")
    return sorted(found, key=lambda change: order.index(change.kind))


def _rows(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, after = (
        {f"{r['rule']} {r['dtype']} {r['options']}: {r['tensor']}": r for r in one.get("rows", ())}
        for one in (old, new)
    )
    before |= {_refused(one): one for one in old.get("refusals", ())}
    after |= {_refused(one): one for one in new.get("refusals", ())}
    for name in [*after, *(name for name in before if name not in after)]:
        was, now = before.get(name), after.get(name)
        if was is None or now is None:
            yield Change("new" if was is None else "gone", name, _share_text(was), _share_text(now))
        elif "share_of_limit" in was and "share_of_limit" in now:
            kind = _direction(was, now)
            if kind:
                yield Change(kind, name, _share_text(was), _share_text(now))


def _refused(refusal: Mapping[str, Any]) -> str:
    return f"{refusal['rule']} {refusal['dtype']} {refusal['options']}: refused"


def _direction(was: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if was["ok"] != now["ok"]:
        return "better" if now["ok"] else "worse"
    old, new = float(was["share_of_limit"]), float(now["share_of_limit"])
    if old == new or abs(new - old) < _LEAST:
        return ""
    if new > old * _FACTOR:
        return "worse"
    return "better" if old > new * _FACTOR else ""


def _share_text(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    if "error" in row:
        return str(row["error"])
    return f"{100 * float(row['share_of_limit']):.0f} % of the limit{'' if row['ok'] else ', broken'}"


def _findings(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, after = ({one["case"]: one for one in side.get("findings", ())} for side in (old, new))
    for name in [*after, *(name for name in before if name not in after)]:
        was, now = before.get(name, {}).get("verdict", ""), after.get(name, {}).get("verdict", "")
        if not was or not now:
            yield Change("gone" if was else "new", name, was, now)
        elif was != now:
            better = now == "right" or was.startswith("wrong")
            yield Change("better" if better else "worse", name, was, now)
