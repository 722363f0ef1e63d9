"""What holds for every test: offline, one thread, fixed seeds."""

import os

# Before anything imports transformers or wandb, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch

# Tiny matrices: more threads only get in each other's way.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Each test begins with the same random state, whatever ran before it."""
    torch.manual_seed(0)
