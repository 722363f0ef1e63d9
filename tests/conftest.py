"""Every test runs offline, on one thread, with fixed seeds."""

import os

# Before anything imports transformers or wandb, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.hub import Hub

# Tiny matrices: more threads only get in each other's way.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Each test begins with the same random state, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A model hub on loopback, which this process's libraries use instead of the real one."""
    with Hub(tmp_path / "loopback-hub") as hub:
        hub.use_in_process(monkeypatch)
        yield hub
