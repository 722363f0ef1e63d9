import logging
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from concept_das.data.axbench_file import read_axbench
from concept_das.data.batches import batches
from concept_das.data.concept_prompts import CONCEPT_PROMPT, TOPIC_PROMPT, concept_input
from concept_das.data.quadruples import Quadruple
from concept_das.data.shipped import read_resource, shipped_instructions
from concept_das.errors import InputError
from concept_das.experiments import making
from concept_das.experiments.making import is_repetitive, make_quadruples
from concept_das.runs.files import fingerprint_of
from concept_das.runs.rows import RowLog
from concept_das.steering.generation import generate_responses
from tests.concept_das.helpers import tiny_chat, tiny_loaded
from tests.tiny import CHAT_TEMPLATE

CHAT = tiny_chat()
INSTRUCTIONS = ["Name a fruit", "Hi", "What is a ship?", "Sing", "How far is it?"]

# Tokens of a batch of three or, of the shortest, four.
THREE = 3 * (len(CHAT.prompt(f"{INSTRUCTIONS[2]}\n\nTalk like a pirate.").ids) + 6)


def made(loaded: Any = None, **options: Any) -> list[Quadruple]:
    arguments = {"max_new_tokens": 6, "batch_tokens": THREE, **options}
    concept = arguments.pop("concept", "Talk like a pirate")
    instructions = arguments.pop("instructions", INSTRUCTIONS)
    chat = arguments.pop("chat", CHAT)
    return make_quadruples(loaded or tiny_loaded(), chat, concept, instructions, **arguments)


def test_the_model_writes_both_answers() -> None:
    loaded = tiny_loaded()
    rows = made(loaded, concept_id=7, genre="code")
    assert [row.negative_input for row in rows] == INSTRUCTIONS
    for row in rows:
        assert row.positive_input == f"{row.negative_input}\n\nTalk like a pirate."
        prompts = [CHAT.prompt(row.negative_input), CHAT.prompt(row.positive_input)]
        expected = generate_responses(loaded.model, CHAT, prompts, max_new_tokens=6)
        assert [row.negative_output, row.positive_output] == expected
        assert (row.concept_id, row.concept, row.concept_genre) == (7, "Talk like a pirate", "code")


def test_given_concept_answers_are_kept() -> None:
    outputs = [f"Arr {i}" for i in range(len(INSTRUCTIONS))]
    plain = made()
    rows = made(concept_outputs=outputs)
    assert [row.positive_output for row in rows] == outputs
    assert [row.negative_output for row in rows] == [row.negative_output for row in plain]


class Scripted:
    """Stands for the model: answers by rule, counts, and breaks off at a given batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Any, stop_at: int = 99) -> None:
        self.asked: list[str] = []
        self.answer = answer
        self.batches = 0
        self.stop_at = stop_at
        monkeypatch.setattr(making, "generate_responses", self.generate)

    def generate(self, model: Any, chat: Any, prompts: Any, **options: Any) -> list[str]:
        answers: list[str] = []
        end = len(chat.turn_end + chat.generation_prompt)
        texts = [chat.tokenizer.decode(p.ids[p.prefix_length : -end]) for p in prompts]
        for indices in batches(range(len(prompts)), 3):
            self.batches += 1
            if self.batches == self.stop_at:
                raise KeyboardInterrupt
            self.asked += [texts[i] for i in indices]
            found = [self.answer(texts[i]) for i in indices]
            options["on_batch"](list(indices), found)
            answers += found
        return answers


@pytest.mark.parametrize("stop_at", [1, 2, 4])
def test_an_interrupted_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    partial = tmp_path / "deep/rows.partial.json"
    first = Scripted(monkeypatch, lambda text: f"Answer to {text}", stop_at)
    with pytest.raises(KeyboardInterrupt):
        made(partial=partial)
    second = Scripted(monkeypatch, lambda text: f"Answer to {text}")
    rows = made(partial=partial)
    assert len(first.asked) == 3 * (stop_at - 1)
    assert len(first.asked + second.asked) == len(set(first.asked + second.asked)) == 10
    Scripted(monkeypatch, lambda text: f"Answer to {text}")
    assert rows == made()


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_an_interrupted_run_of_a_real_model_gives_the_same_rows(
    tmp_path: Path, temperature: float
) -> None:
    expected, loaded, calls = made(temperature=temperature), tiny_loaded(), []
    original = loaded.model.generate

    def generate(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(kwargs["input_ids"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    loaded.model.generate = generate
    options = {"temperature": temperature, "partial": tmp_path / "partial.json"}
    with pytest.raises(KeyboardInterrupt):
        made(loaded, **options)
    assert made(loaded, **options) == expected
    before, after = calls[:2], calls[3:]  # the third batch was broken off and done again
    assert sum(before) + sum(after) == 10


def test_a_sample_depends_on_its_own_text_and_the_seed() -> None:
    options: dict[str, Any] = {"temperature": 1.3, "max_new_tokens": 12}
    rows = made(**options)
    assert rows != made(seed=1, **options)
    assert rows != made(max_new_tokens=12)
    backwards = made(instructions=INSTRUCTIONS[::-1], **options)
    assert backwards[::-1] == rows
    assert made(instructions=INSTRUCTIONS[3:4], **options) == rows[3:4]


def test_partial_answers_serve_another_concept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = tmp_path / "partial.json"
    Scripted(monkeypatch, str.upper)
    made(partial=partial)
    scripted = Scripted(monkeypatch, str.upper)
    rows = made(partial=partial, concept="Whisper")
    assert scripted.asked == [f"{text}\n\nWhisper." for text in INSTRUCTIONS]
    assert rows[1].positive_output == "HI\n\nWHISPER."


@pytest.mark.parametrize(
    "changes",
    [
        {"max_new_tokens": 7},
        {"temperature": 0.5},
        {"seed": 1},
        {"loaded": tiny_loaded("gpt2")},
        {"loaded": tiny_loaded(seed=1)},  # other weights under the same name
        {"chat": tiny_chat(system="Be rude.")},
        {"chat": tiny_chat(chat_template=CHAT_TEMPLATE.replace("assistant", "model"))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_partial_file_of_another_run(tmp_path: Path, changes: dict[str, Any]) -> None:
    partial = tmp_path / "partial.json"
    made(partial=partial)
    with pytest.raises(InputError, match=r"partial.json belongs to a run with other settings"):
        made(partial=partial, **changes)


def test_the_partial_file_of_an_earlier_release_goes_on(tmp_path: Path) -> None:
    partial, settings = tmp_path / "partial.json", making_settings()
    with RowLog(partial, fingerprint_of(settings)) as log:
        for text in (*INSTRUCTIONS, *(f"{text}\n\nTalk like a pirate." for text in INSTRUCTIONS)):
            log.append(text, {"answer": "Known."})
    assert {row.negative_output for row in made(partial=partial)} == {"Known."}


def making_settings() -> dict[str, Any]:
    """The settings by which the first releases told unfinished work."""
    return {
        "model": "tiny-llama",
        "system": None,
        "max_new_tokens": 6,
        "temperature": 0.0,
        "seed": 42,
    }


def test_empty_and_repetitive_answers_are_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = {"Hi": "", "Sing\n\nTalk like a pirate.": "yo ho ho " * 9}
    Scripted(monkeypatch, lambda text: answers.get(text, "Fine"))
    with caplog.at_level(logging.WARNING):
        rows = made()
    assert [row.negative_input for row in rows] == [INSTRUCTIONS[i] for i in (0, 2, 4)]
    assert caplog.messages == [
        "dropped 'Hi': the model gave an empty answer",
        "dropped 'Sing': the model repeats itself",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I am sorry. " * 5, True),
        ("a b c d e f g h i j k l", False),
        ("no no no no no", False),  # too short to tell
        ("", False),
        ("The cat sat on the mat and the dog sat on the mat and slept.", False),
        ("one two three four five " * 2 + "and then some other words to end it", False),
        ("well then " + "la " * 20, True),
    ],
)
def test_what_runs_in_a_loop(text: str, expected: bool) -> None:
    assert is_repetitive(text) == expected


def test_the_concept_prompt() -> None:
    assert concept_input("Hi?", "Talk like a pirate.") == "Hi?\n\nTalk like a pirate."
    assert concept_input("Hi?", "Talk like a pirate") == "Hi?\n\nTalk like a pirate."
    topic = concept_input("Hi?", "ships", TOPIC_PROMPT)
    assert topic.endswith("Concept: ships\n\nInstruction: Hi?")
    # Braces of a user's are text.
    assert concept_input("Explain {concept} in {x}", "Sing") == "Explain {concept} in {x}\n\nSing."


@pytest.mark.parametrize("template", ["{instruction}", "{concept}", "nothing", CONCEPT_PROMPT[1:]])
def test_a_template_without_its_two_places(template: str) -> None:
    with pytest.raises(InputError, match=r"the template must hold \{instruction\} and \{concept\}"):
        made(template=template)


def test_unusable_concepts_and_instructions() -> None:
    with pytest.raises(InputError, match="the concept is empty"):
        made(concept=" ")
    with pytest.raises(InputError, match="an instruction is empty"):
        made(instructions=["Hi", " "])


def test_shipped_instructions_follow_the_seed() -> None:
    chosen = shipped_instructions(20, seed=1)
    assert chosen == shipped_instructions(20, seed=1)
    assert chosen != shipped_instructions(20, seed=2)
    assert shipped_instructions(10, seed=1) == chosen[:10]
    assert len(set(chosen)) == 20
    of_genre = {
        row["instruction"] for row in read_resource("instructions") if row["genre"] == "code"
    }
    assert set(shipped_instructions(5, seed=1, genre="code")) <= of_genre
    everything = read_resource("instructions")
    assert len(shipped_instructions(len(everything), 1, genre=None)) == len(everything)


@pytest.mark.parametrize(("count", "genre"), [(0, "text"), (10**6, "text"), (1, "poetry")])
def test_more_instructions_than_there_are(count: int, genre: str) -> None:
    with pytest.raises(InputError, match=f"{count} instructions were asked for; .* genre {genre}"):
        shipped_instructions(count, 1, genre)


def test_the_shipped_instructions_are_sound() -> None:
    rows = read_resource("instructions")
    texts = [row["instruction"] for row in rows]
    assert all(set(row) == {"instruction", "genre"} for row in rows)
    assert {row["genre"] for row in rows} == {"text", "code", "math"}
    assert all(text == text.strip() and text for text in texts)
    assert len({text.lower() for text in texts}) == len(texts)
    assert len(texts) >= 300


def test_the_shipped_unrelated_texts_are_sound() -> None:
    rows = read_resource("unrelated")
    assert all(set(row) == {"instruction", "response"} for row in rows)
    assert all(len(row["response"].split()) >= 20 for row in rows)
    assert not {row["instruction"] for row in rows} & {
        row["instruction"] for row in read_resource("instructions")
    }


def axbench_frame() -> pd.DataFrame:
    columns = ("input", "output", "output_concept", "concept_genre", "concept_id")
    rows = [
        ("Name a fruit", "Apple, me hearty", "pirates", "text", 3),
        ("Sing", "Yo-ho-ho", "pirates", "text", 3),
        ("Sing", "Yo again", "pirates", "text", 3),
        ("Sort a list", "sorted(x)", "python", "code", 5),
        ("Hi", "Hello", "EEEEE", "text", -1),
    ]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_reading_an_axbench_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train{suffix}"
    frame = axbench_frame()
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_json(path, orient="records", lines=True)
    found = read_axbench(path, 3)
    assert (found.concept, found.genre) == ("pirates", "text")
    assert found.instructions == ["Name a fruit", "Sing"]
    assert found.outputs == ["Apple, me hearty", "Yo-ho-ho"]
    for concept in (4, -1):  # -1 marks the rows that belong to no concept
        with pytest.raises(InputError, match=rf"has no concept {concept}; it has \[3, 5\]"):
            read_axbench(path, concept)


@pytest.mark.parametrize("column", ["input", "output", "output_concept", "concept_id"])
def test_a_file_that_is_not_axbenchs(tmp_path: Path, column: str) -> None:
    path = tmp_path / "train.parquet"
    axbench_frame().drop(columns=column).to_parquet(path)
    with pytest.raises(InputError, match=f"has no column '{column}'; give an AxBench training"):
        read_axbench(path, 3)


@pytest.mark.parametrize("column", ["input", "output"])
def test_a_missing_cell_in_an_axbench_file(tmp_path: Path, column: str) -> None:
    frame = axbench_frame()
    frame.loc[1, column] = None
    path = tmp_path / "train.parquet"
    frame.to_parquet(path)
    with pytest.raises(InputError, match=f"{path}, row 1, column '{column}'.*is not text"):
        read_axbench(path, 3)
    assert read_axbench(path, 5).outputs == ["sorted(x)"]
