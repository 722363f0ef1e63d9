"""AxBench's questions are read from the user's file, which is parsed and never run."""

from pathlib import Path

import pytest

from benchmarks.judges.axbench_questions import ask, digest, read_questions
from benchmarks.judges.ratings import QUESTIONS, Item
from concept_das.errors import InputError
from tests.benchmarks.judges.made_questions import NAMES, TEXTS, write_questions

ITEM = Item("How far is {the} moon?", "Arr, {0} far.", "Pirate talk")


@pytest.mark.parametrize("number", [0, 1])
def test_a_checkout_and_its_file_are_read_without_being_run(tmp_path: Path, number: int) -> None:
    folder = write_questions(tmp_path, number)
    (file,) = folder.rglob("*.py")
    questions = read_questions(folder)
    assert questions == read_questions(file) == TEXTS
    asked = [ask(questions, question, ITEM) for question in QUESTIONS]
    assert asked == [
        "Is there Pirate talk, from 0 to 2?\nArr, {0} far.\n",
        "Is it on How far is {the} moon?, from 0 to 2?\nArr, {0} far.\n",
        "Is it fluent, from 0 to 2?\nArr, {0} far.\n",
    ]


def test_another_wording_has_another_digest(tmp_path: Path) -> None:
    one = read_questions(write_questions(tmp_path / "one"))
    other = read_questions(write_questions(tmp_path / "other", fluency="Fluent, 2? {sentence}"))
    assert digest(one) == digest(dict(reversed(one.items())))
    assert digest(one) != digest(other)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"fluency": "0 to 2"}, "FLUENCY_TEMPLATE is filled with nothing and not with sentence"),
        ({"fluency": "0 to 2 {sentence.format}"}, "is filled with sentence.format"),
        ({"concept": "0 to 2 {sentence}"}, "and not with concept, sentence"),
        ({"concept": "{concept} {sentence}: 0 or 1?"}, "does not ask for a rating up to 2; take"),
        ({"instruct": "2 {instruction} {sentence"}, "INSTRUCTION_RELEVANCE_TEMPLATE is not a"),
    ],
)
def test_other_questions_are_refused(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_questions(write_questions(tmp_path, **changed))


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has none of axbench/evaluators/prompt_templates.py"):
        read_questions(tmp_path)
    with pytest.raises(InputError, match=r"there is no file .*absent.py with the judge's"):
        read_questions(tmp_path / "absent.py")
    file = tmp_path / "file.py"
    file.write_text("a = (")
    with pytest.raises(InputError, match=r"file.py cannot be read as Python"):
        read_questions(file)
    # Only a plain string counts.
    file.write_text(f"{NAMES['concept']} = open('/etc/hostname').read()")
    with pytest.raises(InputError, match=r"has no string UNIDIRECTIONAL.*CONCEPT_RELEVANCE"):
        read_questions(file)
