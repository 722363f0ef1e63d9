"""The model under test, training a method and asking prompts as jobs."""

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.steps import Answering, Asked, Subject, answer, train_method, trained_vector
from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.methods.settings import TrainingConfig
from concept_das.runs.rows import RowLog
from concept_das.runs.stages import Job, Piece
from concept_das.steering.context import Steering
from concept_das.training.options import DEFAULT_ENGINE
from tests.benchmarks.tiny_model import subject_of
from tests.concept_das.helpers import ROWS, random_vector
from tests.tiny import save_tiny

HOW = Answering(new_tokens=8, temperature=1.0, seed=3, batch_tokens=400)


def asked(subject: Subject) -> list[Asked]:
    vector = random_vector(subject.loaded.model)
    strong = Steering(vector, "elicit", 2.0)
    found = [
        Asked(f"{name}/{i}", row.negative_input, steering, f"{i}", {"name": name, "place": i})
        for name, steering in (("plain", None), ("again", None), ("strong", strong))
        for i, row in enumerate(ROWS)
    ]
    return found


def texts(table: pd.DataFrame, name: str) -> list[str]:
    return table.loc[table["name"] == name, "text"].tolist()


def test_prompts_that_share_noise_differ_by_their_steering_alone(subject, tmp_path) -> None:
    table = answer(subject, asked(subject), RowLog(tmp_path / "rows.jsonl", "a"), HOW, "test")
    assert table["prompt"].tolist() == [row.negative_input for row in ROWS] * 3
    assert texts(table, "plain") == texts(table, "again")
    assert texts(table, "plain") != texts(table, "strong")


def test_answers_are_the_same_after_an_interruption(subject, tmp_path) -> None:
    prompts = asked(subject)
    whole = answer(subject, prompts, RowLog(tmp_path / "whole.jsonl", "a"), HOW, "test")
    path = tmp_path / "rows.jsonl"
    some = [one for i, one in enumerate(prompts) if i % 3]
    answer(subject, some, RowLog(path, "a"), HOW, "test")
    resumed = answer(subject, prompts, RowLog(path, "a"), HOW, "test")
    pd.testing.assert_frame_equal(resumed, whole)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    answer(subject, prompts, RowLog(path, "a"), HOW, "test")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


@pytest.mark.parametrize("layers", [(), (1, 2)])
def test_a_trained_method_is_read_again(subject, tmp_path, layers) -> None:
    job = Job("train", (Piece("concept-3"),), tmp_path / "train", "f" * 64, {})
    job.scratch.mkdir(parents=True)
    config = TrainingConfig(epochs=2, batch_size=2, layers=layers)
    train_method(job, subject, ROWS, 1, config, DEFAULT_ENGINE)
    vector = trained_vector(job.folder, subject)
    assert (vector.method, vector.concept, vector.layers) == ("cdas", "Pirate", layers or (1,))
    steps = pd.read_json(job.folder / "history.jsonl", lines=True)
    assert steps["step"].max() == 6


def saved(folder: Path, seed: int) -> Subject:
    return subject_of(save_tiny(folder, seed=seed), system="Be brief.")


def test_a_folder_is_told_by_its_weights(tmp_path: Path) -> None:
    before = saved(tmp_path, 0).description
    assert before["weights"] is not None
    assert saved(tmp_path, 0).description == before
    (tmp_path / "card.json").write_text("{}")
    assert saved(tmp_path, 0).description == before
    assert saved(tmp_path, 1).description["weights"] != before["weights"]


def test_an_edited_template_file_is_another_chat(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text("{{ messages }}")
    options = ChatOptions(chat_template=str(tmp_path / "chat.jinja"))

    def described() -> dict[str, Any]:
        return Subject(ModelOptions(model="a/b"), options).description

    before = described()
    assert described() == before
    (tmp_path / "chat.jinja").write_text("{{ messages }}!")
    assert described() != before


def test_the_description_loads_nothing_and_holds_what_results_depend_on() -> None:
    subject = Subject(ModelOptions(model="google/gemma-2-2b-it", revision="abc"), ChatOptions())
    found = subject.description
    assert (found["model"], found["revision"], found["weights"]) == (
        "google/gemma-2-2b-it",
        "abc",
        None,
    )
    assert "loaded" not in vars(subject)


def test_it_is_loaded_once_with_its_chat(tmp_path: Path) -> None:
    subject = saved(tmp_path, 0)
    assert subject.loaded is subject.loaded
    assert subject.chat.system == "Be brief."
