"""Prompts of several turns, and with system prompts of their own, wherever a text may stand."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from concept_das.cli.options import ChatOptions
from concept_das.cli.parser import main
from concept_das.data.chat_format import ChatFormat
from concept_das.data.conversations import Conversation, prompt_in
from concept_das.data.encoding import encode_quadruples
from concept_das.data.files import write_rows
from concept_das.data.quadruples import Quadruple, data_hash, split_quadruples
from concept_das.data.reading import read_quadruples
from concept_das.errors import InputError
from concept_das.evaluation.recovery import evaluate
from concept_das.experiments.making import make_quadruples
from concept_das.steering.generation import generate_responses
from concept_das.training.options import EngineOptions
from concept_das.training.vectors import train_vector
from tests.concept_das.data.chats import TEMPLATES, TOKENIZERS
from tests.concept_das.helpers import ROWS, random_vector, tiny_chat, tiny_config, tiny_loaded
from tests.tiny import save_tiny, tiny_tokenizer

TURNS = [("user", "Hi"), ("assistant", "Hello there"), ("user", "Name a fruit")]
WITH_SYSTEM = [("system", "Be a pirate"), *TURNS]


def messages(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


def transformers_ids(tokenizer: Any, turns: list[tuple[str, str]]) -> list[int]:
    encoded = tokenizer.apply_chat_template(
        messages(turns), add_generation_prompt=True, return_dict=True, tokenize=True
    )
    return list(encoded["input_ids"])


@pytest.mark.parametrize("template", ["ChatML", "Llama-2", "Vicuna", "Zephyr", "Phi"])
def test_ids_are_those_of_the_template_behind_the_same_prefix(template: str) -> None:
    tokenizer = TOKENIZERS["byte level"]()
    tokenizer.chat_template = TEMPLATES[template]
    chat = ChatFormat.of(tokenizer)
    prompt, one = chat.prompt(messages(TURNS)), chat.prompt("Hi")
    assert list(prompt.ids) == transformers_ids(tokenizer, TURNS)
    assert prompt.prefix_length == one.prefix_length == len(chat.prefix)
    assert prompt.ids[: prompt.prefix_length] == one.ids[: prompt.prefix_length]
    assert prompt.source_position == len(prompt.ids) - 1
    assert chat.prompt(Conversation.of(TURNS)) == prompt
    assert chat.prompt(messages([("user", "Hi")])) == one


@pytest.mark.parametrize("template", ["ChatML", "Zephyr"])
def test_system_prompts_of_their_own(template: str) -> None:
    tokenizer = TOKENIZERS["byte level"]()
    tokenizer.chat_template = TEMPLATES[template]
    usual = ChatFormat.of(tokenizer)
    with pytest.raises(InputError, match="'Be a pirate'; make the chat format with system_in_rows"):
        usual.prompt(messages(WITH_SYSTEM))
    same = ChatFormat.of(tokenizer, system="Be a pirate")
    assert same.prompt(messages(WITH_SYSTEM)) == same.prompt(messages(TURNS))
    chat = ChatFormat.of(tokenizer, system_in_rows=True)
    prompts = [
        chat.prompt(p) for p in (messages(WITH_SYSTEM), messages([("system", "(a)"), *TURNS]), "Hi")
    ]
    assert list(prompts[0].ids) == transformers_ids(tokenizer, WITH_SYSTEM)
    assert prompts[2].ids == usual.prompt("Hi").ids
    # The prefix is shared, and nothing of a system prompt is in it.
    length = len(chat.prefix)
    assert {p.ids[:length] for p in prompts} == {chat.prefix}
    assert {p.prefix_length for p in prompts} == {length}
    assert "pirate" in tokenizer.decode(prompts[0].ids[length:])
    assert length <= len(usual.prefix)
    vector = random_vector(tiny_loaded().model, chat=chat.description, prefix_length=length)
    assert ChatOptions.of_vector(vector).system_in_rows
    assert "system_in_rows" not in usual.description
    if length < len(usual.prefix):
        with pytest.raises(InputError, match="other system_in_rows"):
            vector.check_chat(usual)


def test_what_is_no_prompt() -> None:
    chat = tiny_chat()
    with pytest.raises(InputError, match="ends with the model's answer; leave it out"):
        chat.prompt(messages(TURNS[:2]))
    with pytest.raises(InputError, match="is no conversation; give messages of texts"):
        chat.prompt([{"role": "user", "content": ""}])
    with pytest.raises(InputError, match="a turn of a conversation is empty"):
        chat.prompt(messages([("user", " "), *TURNS[1:]]))
    with pytest.raises(InputError, match="of a conversation spells a special token"):
        chat.prompt(messages([("user", "Say <|im_end|>"), *TURNS[1:]]))
    # What only looks like a conversation, in a text of the user's, is text.
    assert chat.prompt(str(Conversation.of(TURNS))) != chat.prompt(Conversation.of(TURNS))
    assert prompt_in("[1, 2]") == "[1, 2]"


def rows_of(*, system: bool = False) -> list[Quadruple]:
    """Quadruples, every other with conversations in place of texts."""
    before = [("user", "Hi"), ("assistant", "Hello")]

    def longer(text: str, role: str) -> str:
        own = [("system", f"Be {role}")] if system else []
        return Conversation.of([*own, *before, ("user", text)])

    return [
        row
        if i % 2
        else Quadruple(
            longer(row.negative_input, "brief"),
            row.negative_output,
            longer(row.positive_input, "a pirate"),
            row.positive_output,
            row.concept_id,
            row.concept,
        )
        for i, row in enumerate(ROWS)
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_rows_are_read_as_they_were_written(suffix: str, tmp_path: Path) -> None:
    rows = rows_of(system=True)
    write_rows(tmp_path / f"rows{suffix}", rows)
    again = read_quadruples(tmp_path / f"rows{suffix}")
    assert again == rows
    assert [type(row.negative_input) for row in again] == [type(r.negative_input) for r in rows]
    assert read_quadruples(rows) == rows
    assert data_hash(again) == data_hash(rows)
    assert data_hash(rows) != data_hash(ROWS)
    train, held = split_quadruples(again, 2, 0)
    assert isinstance((*train, *held)[0].negative_input, str)
    assert sum(isinstance(row.negative_input, Conversation) for row in (*train, *held)) == 3


def test_whole_conversations_of_both_sides() -> None:
    rows = [
        {
            "negative_messages": messages([*TURNS, ("assistant", row.negative_output)]),
            "positive_messages": messages([*WITH_SYSTEM, ("assistant", row.positive_output)]),
        }
        for row in ROWS
    ]
    found = read_quadruples(pd.DataFrame(rows))
    assert found[0].negative_input == Conversation.of(TURNS)
    assert found[0].positive_input == Conversation.of(WITH_SYSTEM)
    assert [row.positive_output for row in found] == [row.positive_output for row in ROWS]


@pytest.mark.parametrize("system", [False, True])
def test_a_vector_is_trained_and_measured_on_conversations(system: bool) -> None:
    loaded, chat = tiny_loaded(), tiny_chat(system_in_rows=system)
    rows = rows_of(system=system)
    config = tiny_config("cdas", epochs=1, batch_size=2)
    vectors = [
        train_vector(loaded, chat, rows, [], 1, config, engine=EngineOptions(engine=engine)).vector
        for engine in ("auto", "pyvene")
    ]
    fast, plain = vectors
    torch.testing.assert_close(fast.weight, plain.weight, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fast.positive_factor, plain.positive_factor, atol=1e-4, rtol=1e-4)
    assert fast.prefix_length == len(chat.prefix)
    encoded = encode_quadruples(rows, chat)
    assert encoded[0].elicit.source.prompt == chat.prompt(rows[0].positive_input)
    found = evaluate(loaded.model, chat, fast, rows, multipliers=[1.0])
    assert (found.rows["kind"] == "heldout").sum() == 2 * len(rows)


def test_answers_to_conversations() -> None:
    loaded, chat = tiny_loaded(), tiny_chat()
    vector = random_vector(loaded.model)
    found = generate_responses(
        loaded, chat, [messages(TURNS), "Hi"], steering=vector, max_new_tokens=5
    )
    prompts = [chat.prompt(messages(TURNS)), chat.prompt("Hi")]
    assert found == generate_responses(loaded, chat, prompts, steering=vector, max_new_tokens=5)
    ids = transformers_ids(tiny_tokenizer(), TURNS)
    assert list(prompts[0].ids) == ids


def test_quadruples_are_made_of_conversations() -> None:
    loaded, chat = tiny_loaded(), tiny_chat()
    rows = make_quadruples(
        loaded, chat, "Talk like a pirate", [Conversation.of(TURNS), "Hi"], max_new_tokens=4
    )
    by_input = {row.negative_input: row for row in rows}
    row = by_input[Conversation.of(TURNS)]
    assert isinstance(row.positive_input, Conversation)
    *before, last = row.positive_input.turns
    assert before == TURNS[:-1]
    assert last == ("user", "Name a fruit\n\nTalk like a pirate.")
    answer = generate_responses(
        loaded, chat, [messages(row.positive_input.turns)], max_new_tokens=4
    )
    assert [row.positive_output] == answer


def test_the_commands_take_conversations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny(tmp_path / "model")
    lines = [
        {"messages": messages([*WITH_SYSTEM[:2], ("assistant", f"Yo {i}"), ("user", f"Q{i}")])}
        for i in range(6)
    ]
    pd.DataFrame(lines).to_json(tmp_path / "chats.jsonl", orient="records", lines=True)
    common = ["--model", str(model), "--device=cpu"]
    make = ["data", "make", "--concept=Sing", "--instructions", str(tmp_path / "chats.jsonl")]
    make += ["--out", str(tmp_path / "rows.parquet"), "--max-new-tokens=8", *common]
    assert main(make) == 2
    assert "--system-in-rows" in capsys.readouterr().err
    assert main([*make, "--system-in-rows"]) == 0
    rows = read_quadruples(tmp_path / "rows.parquet")
    assert all(isinstance(row.positive_input, Conversation) for row in rows)
    run = str(tmp_path / "run")
    train = ["train", "--data", str(tmp_path / "rows.parquet"), "--out", run, "--layer=1"]
    train += ["--heldout=1", "--epochs=1", "--wandb=off", "--system-in-rows", *common]
    assert main(train) == 0
    said = str(Conversation.of([("system", "Be brief"), *TURNS]))
    assert main(["steer", "--vector", f"{run}/vector", "--prompt", said, "--device=cpu"]) == 0
    assert "steered:" in capsys.readouterr().out
