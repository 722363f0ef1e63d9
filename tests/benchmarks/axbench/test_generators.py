"""A server answers in the model's place: the same tables, and nothing is lost when it fails."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.steps import Answering, Subject
from concept_das.errors import InputError, OutsideError
from concept_das.models.loading import load_model
from concept_das.serving.remote import Remote
from tests.benchmarks.axbench import tiny_axbench as tiny
from tests.benchmarks.axbench.files import write_tiny
from tests.benchmarks.judges.server import Served, error
from tests.benchmarks.tiny_benchmark import copy_without, without_figures
from tests.served import serving_vectors
from tests.tiny import save_tiny

FEW = {"concepts": "0", "methods": "cdas,prompt"}

ANSWERS = 16 + 8 + 8
"""Of a method at two strengths, of one without any, and of the untouched model."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("axbench")
    save_tiny(folder / "model")
    write_tiny(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        tiny.run(folder, folder / "out", **FEW)
        yield folder
    tiny.PRESETS.pop(tiny.PRESET)


@pytest.fixture
def served(root: Path) -> Iterator[Served]:
    loaded = load_model(str(root / "model"), device="cpu")
    with serving_vectors(loaded, {"cdas": root / "out/train.cdas/concept-0/vector"}) as server:
        yield server


def scored(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "select" / "scored.parquet")


def test_a_servers_answers_make_the_same_table_also_after_it_failed(
    root: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = Remote(served.url, max_retries=0)
    monkeypatch.setattr(Subject, "generator", lambda _, name: None if name == "hf" else impatient)
    out = root / "out"
    by_hf, answer, rows = scored(out), served.otherwise, served.requests
    served.otherwise = lambda request: answer(request) if len(rows) <= 12 else error(500)
    with pytest.raises(OutsideError, match="run again when it works"):
        tiny.run(root, out, generator=served.url, **FEW)
    answered = sum(len(path.read_bytes().splitlines()) - 1 for path in out.rglob("rows.jsonl"))
    answered += sum(len(pd.read_parquet(p)) for p in out.glob("generate.unsteered/*/*.parquet"))
    assert answered == 12
    served.otherwise = answer
    rows.clear()
    tiny.run(root, out, generator=served.url, **FEW)
    assert len(rows) == ANSWERS - 12
    pd.testing.assert_frame_equal(scored(out), by_hf)
    assert "Answers by vLLM." in (out / "report" / "report.html").read_text()
    rows.clear()
    tiny.run(root, out, generator=served.url, **FEW)
    assert rows == []


def test_a_vector_that_the_server_lacks_ends_the_run_in_a_sentence(
    root: Path, tmp_path: Path
) -> None:
    copy_without(root / "out", tmp_path / "out", "generate.cdas")
    loaded = load_model(str(root / "model"), device="cpu")
    with serving_vectors(loaded, {}) as server, pytest.raises(InputError) as raised:
        tiny.run(root, tmp_path / "out", generator=server.url, **FEW)
    assert "does not serve the vector of cdas" in str(raised.value)
    assert server.requests == []


def test_methods_that_vllm_cannot_apply_are_answered_by_hf() -> None:
    how = Answering(8, 1.0, generator="vllm")
    assert how.description == {**Answering(8, 1.0).description, "generator": "vllm"}
    for name in ("unsteered", "cdas", "diffmean", "prompt"):
        assert how.of_method(name) == how
    assert how.of_method("loreft") == Answering(8, 1.0)
    (note,) = how.notes(["cdas", "loreft", "lora"])
    assert "generate for loreft, lora, which vLLM cannot apply" in note
    assert Answering(8, 1.0).notes(["loreft"]) == []
    with pytest.raises(InputError, match="unknown generator"):
        Answering(8, 1.0, generator="tgi")
