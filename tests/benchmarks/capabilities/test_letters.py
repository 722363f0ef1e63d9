"""The paper's multiple choice in letters, on made rows in the data sets' own form."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.capabilities.scores import TASKS_FOLDER, capability_scores
from tests.concept_das.helpers import tiny_chat
from tests.tiny import tiny_model, tiny_tokenizer

pytest.importorskip("lm_eval.models.huggingface")

FOLDER = TASKS_FOLDER / "concept_das_letters"
ROWS: dict[str, list[dict[str, Any]]] = {
    "truthfulqa": [
        {
            "question": f"Is {i} odd?",
            "mc1_targets": {"choices": [f"right {i}", "wrong", "also wrong"], "labels": [1, 0, 0]},
        }
        for i in range(8)
    ],
    "tinymmlu": [
        {"question": f"What is {i}?", "choices": ["a", "b", f"{i}", "d"], "answer": 2}
        for i in range(8)
    ],
    "tinyarc": [
        {
            "question": f"Which is {i}?",
            "choices": {"text": ["x", f"{i}", "z"], "label": ["1", "2", "3"]},
            "answerKey": "2",
        }
        for i in range(8)
    ],
}


@pytest.fixture
def task(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A task of this project, read from a file in place of the hub."""
    name = request.param
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS[name]))
    files = {split: str(rows) for split in ("test", "validation", "dev")}
    lines = [
        f"include: {FOLDER / f'concept_das_{name}.yaml'}",
        f"task: local_{name}",
        "dataset_path: json",
        "dataset_name: null",
        f"dataset_kwargs: {json.dumps({'data_files': files})}",
    ]
    file = tmp_path / f"local_{name}.yaml"
    file.write_text("\n".join(lines))
    return str(file)


@pytest.mark.parametrize("task", list(ROWS), indirect=True)
def test_the_options_have_letters_and_one_of_them_is_right(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    tokenizer = tiny_tokenizer()
    render = type(tokenizer).apply_chat_template

    def record(self: Any, conversation: Any, **options: Any) -> Any:
        asked.append(conversation[-1]["content"])
        return render(self, conversation, **options)

    monkeypatch.setattr(type(tokenizer), "apply_chat_template", record)
    found = capability_scores(
        tiny_model(), tokenizer, [task], apply_chat_template=True, chat=tiny_chat()
    )
    assert found["samples"].tolist() == [8]
    assert found["stderr"].notna().all()
    assert 0 <= found["value"].iloc[0] <= 1
    questions = [text for text in asked if text.startswith("Question: ")]
    assert all("\n\nOptions:\nA. " in text and text.endswith("\n\nAnswer:") for text in questions)


@pytest.mark.parametrize("task", ["truthfulqa"], indirect=True)
def test_truthfulqa_has_three_other_questions_as_examples(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[list[dict[str, str]]] = []
    tokenizer = tiny_tokenizer()
    render = type(tokenizer).apply_chat_template

    def record(self: Any, conversation: Any, **options: Any) -> Any:
        turns.append(conversation)
        return render(self, conversation, **options)

    model = tiny_model()
    monkeypatch.setattr(type(tokenizer), "apply_chat_template", record)
    for shots, count in (({"other": 5}, 3), (1, 1)):
        turns.clear()
        options = {"num_fewshot": shots, "limit": 1, "apply_chat_template": True}
        capability_scores(model, tokenizer, [task], chat=tiny_chat(), **options)
        chats = [chat for chat in turns if chat[-1]["content"].startswith("Question: Is")]
        assert chats
        for chat in chats:
            users = [turn["content"] for turn in chat if turn["role"] == "user"]
            answers = [turn["content"] for turn in chat if turn["role"] == "assistant"]
            assert len(users) == len(set(users)) == count + 1
            assert len(answers) == count
            assert {answer.strip() for answer in answers} <= set("ABC")


def test_the_right_option_of_truthfulqa_is_not_always_the_first() -> None:
    from datasets import Dataset

    from benchmarks.capabilities.tasks.concept_das_letters.letters import truthfulqa

    rows = truthfulqa(Dataset.from_list(ROWS["truthfulqa"]))
    for row in rows:
        letter = row["letters"][row["answer"]]
        assert f"\n{letter}. right " in row["query"]
    assert len(set(rows["answer"])) == 3
    again = truthfulqa(Dataset.from_list(ROWS["truthfulqa"]))
    assert again["query"] == rows["query"]
