from pathlib import Path

import pytest

from benchmarks.judges.options import JudgeOptions
from concept_das.cli.options import ModelOptions
from concept_das.errors import InputError
from tests.benchmarks.judges.made_questions import TEXTS, write_questions


def test_a_local_judge_has_a_name() -> None:
    with pytest.raises(InputError, match="name the chat model that judges with --judge-model"):
        JudgeOptions("local")


def test_each_process_has_its_local_judge_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(ModelOptions, "load", lambda options: asked.append(options.device))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert JudgeOptions("local", "judge").model.kind == "local"
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "3")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "4")
    assert JudgeOptions("local", "judge").model.kind == "local"
    assert asked == [None, "cuda:1"]


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
