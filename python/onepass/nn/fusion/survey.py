"""Looks through a model for batch norms to fuse, and says what each module that calls them has to become."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn
from torch.fx import Graph
from torch.nn.modules.batchnorm import _BatchNorm

from onepass.nn._call.altered import hooked
from onepass.nn.dropout import DropoutModule
from onepass.nn.fusion.block import Recording, Rewritten, code_of, rewritten_class
from onepass.nn.fusion.capture import LIST, Capture, Variant, captured
from onepass.nn.fusion.chain import RELU, chain
from onepass.nn.fusion.guards import original_class
from onepass.nn.fusion.match import Found, found_in, is_norm
from onepass.nn.fusion.report import Place
from onepass.nn.fusion.rewrite import Tails, in_turn, inline_tails, replace, settle
from onepass.nn.sequential import Sequential, runs_in_turn
from onepass.nn.surgery.convert import fusing_class, why_left

__all__ = ["Plan", "Survey"]

_WORDS = {"add": "add", "relu": "ReLU", "dropout": "dropout"}


class Plan(NamedTuple):
    """What a module has to become."""

    name: str
    module: nn.Module
    kind: type[nn.Module]
    chains: bool
    """Whether a container runs more behind its batch norms than a ReLU."""


class Survey:
    """Holds what was found in a model, which stays as it is."""

    def __init__(self, model: nn.Module) -> None:
        self.plans: list[Plan] = []
        # Batch norms and dropouts that have to become ours.
        self.layers: list[tuple[str, nn.Module]] = []
        self._named = list(model.named_modules())
        self._names = {id(module): name for name, module in self._named}
        self._captures: dict[int, Capture] = {}
        self._tails = Tails(self._capture)
        self._outcomes: dict[int, tuple[str, str]] = {}
        for _, module in self._named:
            if isinstance(module, _BatchNorm):
                reason = "" if is_norm(module) else why_left(module)
                self._outcomes[id(module)] = "left", reason or "no forward that is recorded calls it"
        for name, module in self._named:
            if isinstance(module, _BatchNorm) or not any(isinstance(m, _BatchNorm) for m in module.modules()):
                continue
            if isinstance(module, nn.Sequential) and runs_in_turn(module):
                self._look_at_container(name, module)
            elif not type(module).__module__.startswith("torch.nn."):
                self._look_at_block(name, module)

    @property
    def table(self) -> list[Place]:
        """Returns what becomes of each batch norm."""
        norms = [(name, module) for name, module in self._named if isinstance(module, _BatchNorm)]
        return [Place(name, type(module).__name__, *self._outcomes[id(module)]) for name, module in norms]

    def _capture(self, module: nn.Module) -> Capture:
        if id(module) not in self._captures:
            self._captures[id(module)] = captured(module)
        return self._captures[id(module)]

    def _look_at_container(self, name: str, container: nn.Sequential) -> None:
        found = self._find(in_turn(container).graphs[0], container)
        kind: type[nn.Module] | None = type(container)
        if any(one.steps for one in found) and not isinstance(container, Sequential):
            kind, reason = fusing_class(type(container))
            if kind is None:
                found = [Found(one.norm, [], reason.removeprefix("no ReLU: ")) for one in found]
        if kind is not None and any(one.steps for one in found):
            more = any([step.kind for step in one.steps] not in ([], [RELU]) for one in found)
            self.plans.append(Plan(name, container, kind, more))
        self._note(name, container, found)

    def _look_at_block(self, name: str, block: nn.Module) -> None:
        capture = self._capture(block)
        if capture.reason:
            for one in _direct_norms(block):
                self._leave(one, f"{_called(name, block)}: {capture.reason}")
            return
        recordings, all_found = [], []
        for variant in capture.variants:
            recording, found = self._recording(block, variant)
            all_found += found
            if recording is not None:
                recordings.append(recording)
        if recordings and not isinstance(block, Rewritten):
            try:
                kind = rewritten_class(original_class(block), tuple(recordings))
            except Exception as error:  # whatever an __init_subclass__ or a metaclass raises
                reason = f"no class can be derived from {type(block).__name__} ({error})"
                all_found = [Found(one.norm, [], reason) for one in all_found]
            else:
                self.plans.append(Plan(name, block, kind, False))
        self._note(name, block, all_found)

    def _recording(self, block: nn.Module, variant: Variant) -> tuple[Recording | None, list[Found]]:
        """Returns what a variant becomes, None if nothing in it is fused, and what was found."""
        graphs = (_copied(variant.graphs[0]), _copied(variant.graphs[1]))
        mine = Variant(variant.kinds, variant.defaults, graphs, list(variant.guards))
        both: list[Found] = []
        for training in (False, True):
            inline_tails(block, mine, training, self._tails)
            both += self._find(graphs[training], block)
        if not any(one.steps for one in both):
            return None, both
        for training in (False, True):
            replace(graphs[training], self._find(graphs[training], block), chain)
        recording = Recording(
            tuple(variant.kinds),
            tuple(kind == LIST for kind in variant.kinds.values()),
            tuple(variant.defaults.items()),
            code_of(graphs[0]),
            code_of(graphs[1]),
            tuple(mine.guards),
        )
        return recording, both

    def _find(self, graph: Graph, block: nn.Module) -> list[Found]:
        """Returns the chains in a graph, without those that somebody watches."""
        found = settle(found_in(graph, block.get_submodule))
        for one in found:
            norm = block.get_submodule(str(one.norm.target))
            altered = _altered(norm)
            if altered:
                one.steps, one.reason = [], f"it has {altered}"
            for at, step in enumerate(one.steps):
                altered = _altered(block.get_submodule(step.what)) if step.is_module else ""
                if altered:
                    one.steps, one.reason = one.steps[:at], f"the {_WORDS.get(step.kind, step.kind)} has {altered}"
                    break
        return found

    def _note(self, name: str, block: nn.Module, found: list[Found]) -> None:
        for one in found:
            norm = block.get_submodule(str(one.norm.target))
            words = [_WORDS[step.kind] for step in one.steps if step.kind in _WORDS]
            if not words:
                self._leave(norm, f"{_called(name, block)}: {one.reason}")
                continue
            known = self._outcomes[id(norm)][0]
            outcome = f"fused with {', '.join(words)}"
            if known == "left" or len(outcome) > len(known):
                self._outcomes[id(norm)] = outcome, f"in {_called(name, block)}"
            for layer in (norm, *(block.get_submodule(step.what) for step in one.steps if step.is_module)):
                ours = isinstance(layer, (_BatchNorm, nn.Dropout, DropoutModule)) and not why_left(layer)
                if ours and all(layer is not other for _, other in self.layers):
                    self.layers.append((self._names[id(layer)], layer))

    def _leave(self, norm: nn.Module, reason: str) -> None:
        outcome, before = self._outcomes[id(norm)]
        # What a forward that calls it says is better than what a forward around it says.
        if outcome == "left" and is_norm(norm) and (before.startswith("no forward") or "returns" in before):
            self._outcomes[id(norm)] = "left", reason


def _altered(module: Any) -> str:
    if "forward" in module.__dict__:
        return "a forward of its own"
    return hooked(module) or (
        "" if type(module).__module__.startswith(("torch.", "onepass.")) else "another class"
    )


def _direct_norms(block: nn.Module) -> list[nn.Module]:
    """Returns the batch norms that the module's own forward calls, as far as its parts show it."""
    found: list[nn.Module] = []
    parts = list(block.children())
    while parts:
        part = parts.pop()
        if isinstance(part, _BatchNorm):
            found.append(part)
        elif isinstance(part, (nn.ModuleList, nn.ModuleDict)):
            parts.extend(part.children())
    return found


def _called(name: str, module: nn.Module) -> str:
    return f"{name or 'the model itself'} ({original_class(module).__name__})"


def _copied(graph: Graph) -> Graph:
    copy = Graph()
    copy.output(copy.graph_copy(graph, {}))
    return copy
