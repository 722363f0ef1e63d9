import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from concept_das import demo
from concept_das.evaluation import Evaluation, evaluate
from concept_das.pipeline import TrainedVector, encode_for, train_vector
from concept_das.report import Sample, write_report
from concept_das.training import TrainingConfig
from concept_das.vectors import SteeringVector
from tests.concept_das.helpers import ROWS, tiny_chat, tiny_loaded

SAMPLES = [Sample("1 < 2?", "Yes", "Arr <b>yes</b>", "Aye", "Yes & no")]


def trained_and_measured(
    rank: int, heldout_while_training: bool = True
) -> tuple[TrainedVector, Evaluation]:
    loaded, chat = tiny_loaded(), tiny_chat()
    kept, held = ROWS[:3], ROWS[3:]
    config = TrainingConfig(epochs=2, batch_size=2, rank=rank)
    trained = train_vector(loaded, chat, kept, held if heldout_while_training else [], 1, config)
    rows = encode_for(loaded, chat, held, config)
    return trained, evaluate(loaded.model, chat, trained.vector, rows, multipliers=(1.0, 2.0))


@pytest.mark.parametrize(("rank", "heldout"), [(1, True), (2, False)])
def test_the_page_holds_everything_it_shows(tmp_path: Path, rank: int, heldout: bool) -> None:
    trained, evaluation = trained_and_measured(rank, heldout)
    metrics = {**demo.headline(evaluation), "elicitation_recovery": 0.123}
    path = write_report(tmp_path / "report.html", trained, evaluation, SAMPLES, metrics)
    page = path.read_text()
    images = re.findall(r'<img[^>]*src="(.*?)"', page)
    assert len(images) == 4
    assert all(image.startswith("data:image/png;base64,iVBOR") for image in images)
    assert not re.search(r"(src|href)\s*=\s*\"?(https?:|//|\.|/)", page)
    assert "Arr &lt;b&gt;yes&lt;/b&gt;" in page
    assert "Yes &amp; no" in page
    assert "1 &lt; 2?" in page
    assert "0.12" in page
    assert trained.vector.model.fingerprint in page
    for column in evaluation.table.columns:
        assert column.replace("_", " ") in page


def test_the_page_says_which_method_was_trained(tmp_path: Path) -> None:
    trained, evaluation = trained_and_measured(1)
    other = replace(trained, vector=replace(trained.vector, method="das", concept="Sing & dance"))
    metrics = demo.headline(evaluation)
    page = write_report(tmp_path / "r.html", other, evaluation, [], metrics).read_text()
    assert "method das" in page
    assert "<h1>Sing &amp; dance</h1>" in page


def test_headline_takes_each_direction_at_its_best() -> None:
    _, evaluation = trained_and_measured(1)
    metrics = demo.headline(evaluation)
    for direction, name in (
        ("elicit", "elicitation_recovery"),
        ("suppress", "suppression_recovery"),
    ):
        best = evaluation.table[name].max()
        row = evaluation.table[evaluation.table[name] == best].iloc[0]
        assert metrics[name] == pytest.approx(best)
        assert metrics[f"multiplier_{direction}"] == row["multiplier"]
        assert metrics[f"{name}_at_1"] == pytest.approx(evaluation.table[name][0])
        assert metrics[f"kl_side_effect_{direction}"] == row[f"kl_side_effect_{direction}"]


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("INSTRUCTIONS", 8), ("HELDOUT", 2), ("SAMPLES", 1), ("NEW_TOKENS", 6)):
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "RECIPE", replace(demo.RECIPE, epochs=1, max_response_tokens=6))


def test_the_demo_from_nothing_to_a_report(
    tmp_path: Path, small_demo: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tiny_loaded()
    report = demo.run(loaded, tmp_path / "demo", concept="Talk like a pirate", layer=1)
    assert report == tmp_path / "demo/report.html"
    assert "Talk like a pirate" in report.read_text()
    metrics = json.loads((tmp_path / "demo/metrics.json").read_text())
    assert {"elicitation_recovery", "suppression_recovery", "kl_side_effect", "seconds"} <= set(
        metrics
    )
    vector = SteeringVector.load(tmp_path / "demo/vector", loaded.model)
    assert vector.metrics["elicitation_recovery"] == metrics["elicitation_recovery"]
    assert vector.recipe["rows"] == 6

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("the data and the training were there already")

    monkeypatch.setattr(demo, "make_quadruples", forbidden)
    monkeypatch.setattr("concept_das.training.sum_losses", forbidden)
    demo.run(loaded, tmp_path / "demo", concept="Talk like a pirate", layer=1)
    again = json.loads((tmp_path / "demo/metrics.json").read_text())
    assert {**again, "seconds": 0} == {**metrics, "seconds": 0}
