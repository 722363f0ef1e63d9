from collections.abc import Iterator

import pytest

from tests.benchmarks.judges.server import Served, serving


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
def served(quick_client: None) -> Iterator[Served]:
    """A server on loopback to ask."""
    with serving() as server:
        yield server
