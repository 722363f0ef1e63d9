from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.steps import Subject
from concept_das.runs.stages import Files, Jobs, Slot
from tests.benchmarks.judges.server import Served, serving
from tests.benchmarks.tiny_model import subject_of
from tests.hub import Hub
from tests.tiny import save_tiny


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model; nothing writes to it."""
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def full_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with what the paper's commands take.

    One for all tests: huggingface_hub keeps in the process which commit a repository is at.
    """
    from tests.benchmarks.release import fill

    folder = tmp_path_factory.mktemp("full-hub")
    with Hub(folder / "hub") as hub:
        yield fill(hub, folder / "content")


@pytest.fixture
def subject(model: Path) -> Subject:
    return subject_of(model)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stage of each job that is run."""
    found: list[str] = []
    run_job = Jobs.run

    def noted(self: Jobs, slot: Slot) -> Files:
        found.append(slot[0])
        return run_job(self, slot)

    monkeypatch.setattr(Jobs, "run", noted)
    return found


@pytest.fixture
def quick_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of an endpoint: no long waits, nothing from outside."""
    pytest.importorskip("openai", reason="asking an endpoint needs openai")
    # The client's first wait, 0.5 s; if it is renamed, the tests are slower, no more.
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def served(quick_client: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A server on loopback to ask, for which there is a key."""
    monkeypatch.setenv("OPENAI_API_KEY", "made-up")
    with serving() as server:
        yield server
