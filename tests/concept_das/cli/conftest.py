from pathlib import Path

import pytest

from concept_das.cli.parser import main
from tests.concept_das.cli.world import save_world, train


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="package")
def model(world: Path) -> Path:
    return world / "model"


@pytest.fixture(scope="package")
def data(world: Path) -> Path:
    return world / "rows.parquet"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Path:
    """A finished training run."""
    out = tmp_path_factory.mktemp("runs") / "one"
    assert main(train(world, out)) == 0
    return out
