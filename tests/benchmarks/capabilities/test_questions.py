"""The everyday task: its questions can be scored, and lm-eval finds them from anywhere."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.capabilities.scores import EVERYDAY, TASKS_FOLDER

FOLDER = TASKS_FOLDER / EVERYDAY
SUBJECTS = 8


def read(split: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / f"{split}.jsonl").read_text().splitlines()]


def plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


@pytest.mark.parametrize("split", ["test", "fewshot"])
def test_every_question_has_four_different_options_and_one_answer(split: str) -> None:
    for row in read(split):
        assert set(row) == {"id", "subject", "question", "options", "answer"}
        assert len({plain(option) for option in row["options"]}) == 4, row["id"]
        assert row["answer"] in range(4)
        for text in (row["question"], *row["options"]):
            assert text == text.strip() != "", row["id"]
        assert row["question"][-1] in "?.", row["id"]


def test_the_answers_positions_are_balanced_at_every_limit_of_four() -> None:
    answers = [row["answer"] for row in read("test")]
    assert Counter(answers) == dict.fromkeys(range(4), 30)
    assert all(set(answers[i : i + 4]) == set(range(4)) for i in range(0, 120, 4))


def test_the_subjects_take_turns() -> None:
    subjects = [row["subject"] for row in read("test")]
    assert set(Counter(subjects).values()) == {15}
    first = subjects[:SUBJECTS]
    assert len(set(first)) == SUBJECTS
    assert subjects == first * 15


def test_no_question_or_id_occurs_twice_or_in_both_splits() -> None:
    rows = read("test") + read("fewshot")
    assert len(rows) == 128
    assert len({plain(row["question"]) for row in rows}) == 128
    assert len({row["id"] for row in rows}) == 128


@pytest.mark.slow  # it reads the index of all of lm-eval's tasks
def test_lm_evals_own_command_finds_it_from_another_folder(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    command = [sys.executable, "-m", "lm_eval", "--model", "hf"]
    command += ["--model_args", f"pretrained={model}", "--device", "cpu", "--limit", "8"]
    command += ["--include_path", str(TASKS_FOLDER), "--tasks", EVERYDAY, "--num_fewshot", "2"]
    command += ["--output_path", "out"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (written,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(written.read_text())
    assert results["n-samples"][EVERYDAY] == {"original": 120, "effective": 8}
    assert results["n-shot"][EVERYDAY] == 2
    assert {"acc,none", "acc_stderr,none", "acc_norm,none"} <= set(results["results"][EVERYDAY])
