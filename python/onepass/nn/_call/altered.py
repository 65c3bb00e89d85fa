"""Finds what others have done to a module that is to be rebuilt: hooks, its own forward, computed weights."""

from __future__ import annotations

from torch import nn

__all__ = ["computed_weight", "hooked", "why_altered"]

# Hooks that see or change an input or output of the module or of its backward pass.
_HOOKS = {
    "_forward_hooks": "forward hooks",
    "_forward_pre_hooks": "forward pre-hooks",
    "_backward_hooks": "backward hooks",
    "_backward_pre_hooks": "backward pre-hooks",
}
# Forward pre-hooks that torch.nn.utils' older functions add, by the names of their classes.
_KNOWN = {
    "WeightNorm": "weight_norm",
    "SpectralNorm": "spectral_norm",
    "BasePruningMethod": "pruning",
}


def hooked(module: nn.Module) -> str:
    """Says which hooks a module has, those of torch.nn.utils by their name; empty if it has none."""
    for attribute, words in _HOOKS.items():
        for hook in getattr(module, attribute).values():
            for kind in type(hook).__mro__:
                if kind.__name__ in _KNOWN and kind.__module__.startswith("torch.nn.utils"):
                    return _KNOWN[kind.__name__]
            return words
    return ""


def computed_weight(module: nn.Module) -> str:
    """Says how a weight, bias or statistic is computed that is not a module's own tensor; empty if all are."""
    parametrizations = module._modules.get("parametrizations")
    if parametrizations is not None:
        names = [name for name, _ in parametrizations.named_children()]
        return f"parametrizations of {', '.join(names)}"
    for name in ("weight", "bias", "running_mean", "running_var"):
        if name in module.__dict__ and module.__dict__[name] is not None:
            return f"a {name} that is not its own {'buffer' if name.startswith('running') else 'parameter'}"
    return ""


def why_altered(module: nn.Module) -> str:
    """Names what makes a module compute something else than its class and tensors say; empty if nothing does."""
    if "forward" in module.__dict__:
        return "a forward of its own"
    return hooked(module) or computed_weight(module)
