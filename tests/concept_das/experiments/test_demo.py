import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from concept_das.data.chat_format import Prompt
from concept_das.evaluation import recovery
from concept_das.evaluation.recovery import Evaluation, evaluate, unrelated_turns
from concept_das.experiments import demo
from concept_das.experiments.making import make_quadruples
from concept_das.reports.page import Sample
from concept_das.reports.results import write_report
from concept_das.steering.context import Steering
from concept_das.steering.factors import Latents, measure_latents
from concept_das.steering.generation import generate_responses
from concept_das.steering.vector import SteeringVector
from concept_das.training.loop import TrainingConfig
from concept_das.training.tracking import NoTracker
from concept_das.training.vectors import TrainedVector, train_vector
from tests.concept_das.helpers import (
    ROWS,
    encoded_rows,
    random_vector,
    tiny_chat,
    tiny_loaded,
)
from tests.concept_das.reports.pages import Page
from tests.tiny import tiny_model

SAMPLES = [Sample("1 < 2?", [("elicited", "Arr <b>yes</b>"), ("suppressed", "Yes & no")])]


def trained_and_measured(
    rank: int, heldout_while_training: bool = True
) -> tuple[TrainedVector, Evaluation]:
    loaded, chat = tiny_loaded(), tiny_chat()
    kept, held = ROWS[:3], ROWS[3:]
    config = TrainingConfig(epochs=2, batch_size=2, rank=rank)
    trained = train_vector(loaded, chat, kept, held if heldout_while_training else [], 1, config)
    turns = unrelated_turns(chat, 1)
    return trained, evaluate(
        loaded.model, chat, trained.vector, held, multipliers=(1.0, 2.0), unrelated=turns
    )


def latents_of(vector: SteeringVector) -> Latents:
    model = tiny_model()
    site = vector.site(model)
    return measure_latents(model, site, vector.weight, encoded_rows(3))


@pytest.mark.parametrize(("rank", "heldout"), [(1, True), (2, False)])
def test_the_page_holds_everything_it_shows(tmp_path: Path, rank: int, heldout: bool) -> None:
    trained, evaluation = trained_and_measured(rank, heldout)
    metrics = {**evaluation.headline(), "elicitation_recovery": 0.123, "gap_elicit": 4.567}
    path = write_report(
        tmp_path / "report.html", trained, latents_of(trained.vector), evaluation, SAMPLES, metrics
    )
    page = path.read_text()
    assert len(Page(page).addresses) == 4
    assert "Arr &lt;b&gt;yes&lt;/b&gt;" in page
    assert "Yes &amp; no" in page
    assert "1 &lt; 2?" in page
    assert ">0.12<" in page
    assert "4.57 / " in page
    assert "fair; at multiplier 1: " in page
    assert "no clear effect on the held-out rows (suppress)" in page
    assert "no clear effect on the held-out rows (elicit)" not in page
    assert trained.vector.model.fingerprint in page
    for column in evaluation.table.columns:
        assert column.replace("_", " ") in page


def test_the_page_says_which_method_was_trained(tmp_path: Path) -> None:
    trained, evaluation = trained_and_measured(1)
    other = replace(trained, vector=replace(trained.vector, method="das", concept="Sing & dance"))
    metrics = evaluation.headline()
    path = write_report(
        tmp_path / "r.html", other, latents_of(trained.vector), evaluation, [], metrics
    )
    page = path.read_text()
    assert "method das" in page
    assert "<h1>Sing &amp; dance</h1>" in page


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("INSTRUCTIONS", 8), ("HELDOUT", 2), ("SAMPLES", 1), ("NEW_TOKENS", 6)):
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "MULTIPLIERS", (1.0, 2.0))
    monkeypatch.setattr(recovery, "unrelated_turns", lambda chat, _: unrelated_turns(chat, 1))
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
    assert vector.metrics["gap_elicit"] == metrics["gap_elicit"]
    # The prompts do nothing clear to this random model.
    assert vector.metrics["elicitation_recovery"] is metrics["elicitation_recovery"] is None
    assert "NaN" not in (tmp_path / "demo/metrics.json").read_text()
    assert vector.recipe["rows"] == 6
    assert not list((tmp_path / "demo").glob("*.partial.json"))

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("the data and the training were there already")

    monkeypatch.setattr(demo, "make_quadruples", forbidden)
    monkeypatch.setattr("concept_das.training.loop.sum_losses", forbidden)
    demo.run(loaded, tmp_path / "demo", concept="Talk like a pirate", layer=1)
    again = json.loads((tmp_path / "demo/metrics.json").read_text())
    assert metrics.pop("seconds") > 0
    assert "seconds" not in again  # of the whole demo is not known any more
    assert again.pop("training_seconds") >= metrics.pop("training_seconds") > 0
    assert again == metrics


def test_a_demo_that_fails_closes_its_run(
    tmp_path: Path, small_demo: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Mock(NoTracker)
    monkeypatch.setattr(demo, "open_tracker", lambda *_, **__: tracker)
    monkeypatch.setattr(demo, "evaluate", Mock(side_effect=OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        demo.run(tiny_loaded(), tmp_path / "demo", concept="Talk like a pirate", layer=1)
    tracker.finish.assert_called_once_with()


def test_the_samples_of_the_demo(small_demo: None, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, chat = tiny_loaded(), tiny_chat()
    rows = make_quadruples(loaded, chat, "Shout", ["Hi", "Sing", "Why?"], max_new_tokens=6)
    vector = random_vector(loaded.model)
    calls = []
    original = loaded.model.generate
    monkeypatch.setattr(
        loaded.model, "generate", lambda **kwargs: calls.append(kwargs) or original(**kwargs)
    )
    samples = demo.make_samples(loaded, chat, vector, rows)
    assert len(calls) == 1  # both directions in one batch; the unsteered answers are there already
    assert len(samples) == len(rows) == 3
    for row, sample in zip(rows, samples, strict=True):
        assert sample.instruction == row.negative_input
        neutral, concept = chat.prompt(row.negative_input), chat.prompt(row.positive_input)

        def answer(prompt: Prompt, *strength: Any) -> str:
            steering = Steering(vector, *strength) if strength else None
            (text,) = generate_responses(
                loaded.model, chat, [prompt], steering=steering, max_new_tokens=6
            )
            return text

        assert [text for _, text in sample.answers] == [
            answer(neutral),
            answer(neutral, "elicit"),
            answer(concept),
            answer(concept, "suppress"),
        ]
