"""The model under test, and what results say of it."""

from pathlib import Path

from benchmarks.steps import Subject
from concept_das.cli.options import ChatOptions, ModelOptions
from tests.benchmarks.tiny_model import save_tiny, subject_of


def saved(folder: Path, seed: int) -> Subject:
    return subject_of(save_tiny(folder, seed), system="Be brief.")


def test_a_folder_is_told_by_its_weights(tmp_path: Path) -> None:
    before = saved(tmp_path, 0).description
    assert before["weights"] is not None
    assert saved(tmp_path, 0).description == before
    (tmp_path / "card.json").write_text("{}")
    assert saved(tmp_path, 0).description == before
    assert saved(tmp_path, 1).description["weights"] != before["weights"]


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
