from pathlib import Path

import pytest

from benchmarks.judges.options import JudgeOptions
from concept_das.errors import InputError
from tests.benchmarks.judges.made_questions import TEXTS, write_questions


def test_a_local_judge_has_a_name() -> None:
    with pytest.raises(InputError, match="name the chat model that judges with --judge-model"):
        JudgeOptions("local")


def test_a_presets_questions_must_be_pointed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"does not hold: clone stanfordnlp/axbench into the cur"):
        _ = JudgeOptions("api", judge_questions="axbench").axbench
    write_questions(tmp_path / "axbench")
    assert JudgeOptions("api", judge_questions="axbench").axbench == TEXTS
    assert JudgeOptions("api", judge_questions="own").axbench is None
    assert JudgeOptions("api").axbench is None
    named = JudgeOptions("api", judge_questions=str(write_questions(tmp_path)))
    assert named.axbench == TEXTS
    # Their answers are explanations first, and may be longer.
    assert named.endpoint.max_tokens > JudgeOptions("api").endpoint.max_tokens
