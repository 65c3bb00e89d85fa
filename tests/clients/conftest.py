"""Runs the tests of clients only where they are asked for by name: `pytest tests/clients`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# No client uses the network or starts threads that outlive a fork.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TOKENIZERS_PARALLELISM="false",
    DO_NOT_TRACK="1",
    CUDA_VISIBLE_DEVICES="",
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leaves this folder alone unless the command line names it or a file in it."""
    named = [(config.invocation_params.dir / argument.split("::")[0]).resolve() for argument in config.args]
    return None if any(path.is_relative_to(HERE) for path in named) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ignores what clients warn of; what onepass warns of is an error here, too."""
    ours = "SGD|Adam|AdamW|clip_grad|convert|revert|fold|[A-Za-z]+LR|ReduceLROnPlateau|ChainedScheduler|BatchNorm"
    for item in items:
        if Path(item.path).is_relative_to(HERE):
            item.add_marker(pytest.mark.filterwarnings(rf"error:({ours})\b"), append=False)
            item.add_marker(pytest.mark.filterwarnings("ignore"), append=False)


from clients.programs import Watch, prepare_torchvision, watched  # noqa: E402  # reads the variables set above

prepare_torchvision()


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Counts the calls of the core in this test."""
    with watched() as counts:
        yield counts
