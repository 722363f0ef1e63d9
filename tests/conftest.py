"""Every test runs offline, on one thread, with fixed seeds."""

import os

# Before anything imports transformers or wandb, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.utils.collect_env

from tests.hub import Hub

# Tiny matrices: more threads only get in each other's way.
torch.set_num_threads(1)

# lm-eval describes the machine with every score, for which torch runs pip and other programs.
torch.utils.collect_env.get_pretty_env_info = str


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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes file systems of so many KB; skips the test where the user may not."""
    mounted: list[Path] = []

    def make(kilobytes: int) -> Path:
        folder = tmp_path / f"disk-{kilobytes}"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("this user cannot mount a small file system")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)
