"""How and when figures were made: what stands under each table."""

from __future__ import annotations

from typing import Any

from _site.markdown import load

__all__ = ["source"]


def source(*names: str) -> str:
    """How and when the figures were made, a line for each file, or for all that were made alike."""
    links: dict[str, list[str]] = {}
    for name in names:
        made = load(name)
        facts = [made["machine"]["cpu"], f"{made['machine']['cores']} cores"]
        facts += [f"threads: {made['threads']}"] if "threads" in made else []
        facts += [made["versions"][key] for key in ("isa",) if key in made["versions"]]
        facts += [f"torch {made['versions']['torch']}"] if "torch" in made["versions"] else []
        commit, _, dirty = made["commit"].partition("-")
        facts += [malloc(made)] if "op" in made else []
        facts += [made["date"][:10], f"commit `{commit[:7]}`" + ("-dirty" if dirty else "")]
        links.setdefault(", ".join(facts), []).append(f"[{name}.json](../benchmarks/results/{name}.json)")
    return "\n\n".join(f"Source: {', '.join(files)}. {facts}." for facts, files in links.items())


def malloc(made: dict[str, Any]) -> str:
    """Which of the two states of malloc a run of `onepass bench` was in."""
    # Older files have what the command started again with.
    default = "kept" if made["environment"].get("MALLOC_MMAP_MAX_") == "0" else "default"
    state = made["malloc"]["freed_memory"] if "malloc" in made else default
    if made["op"] == "train":
        return "default malloc, and freed memory kept where the table says so"
    return "freed memory kept" if state == "kept" else "default malloc"
