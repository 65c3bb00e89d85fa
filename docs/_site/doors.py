"""What is public: the modules that a program imports from, and the names in them."""

import importlib

# The doors of the package: what a program imports from.
MODULES = (
    "onepass",
    "onepass.optim",
    "onepass.optim.functional",
    "onepass.optim.lr_scheduler",
    "onepass.optim.schedules",
    "onepass.nn",
    "onepass.nn.functional",
    "onepass.augment",
    "onepass.monitor",
    "onepass.monitor.callbacks",
    "onepass.visualize",
    "onepass.report",
    "onepass.parity",
    "onepass.bench",
)


def public_names() -> list[str]:
    """Every class and function of ours that a door of the package names in ``__all__``."""
    names = []
    for module in MODULES:
        door = importlib.import_module(module)
        for name in door.__all__:
            if getattr(getattr(door, name), "__module__", "torch").split(".")[0] == "onepass":
                names.append(f"{module}.{name}")
    return names
