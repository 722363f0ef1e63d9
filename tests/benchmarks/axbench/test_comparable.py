"""Each difference that keeps a run from standing beside published scores is said."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.axbench.comparable import changed_methods, differences
from benchmarks.axbench.presets import PRESETS
from benchmarks.judges.options import JudgeOptions
from benchmarks.steps import Answering, Subject
from concept_das.cli.options import ChatOptions, ModelOptions
from tests.benchmarks.judges.made_questions import write_questions

PRESET = PRESETS["gemma-2-2b-l10"]
DATA = SimpleNamespace(concept_ids=range(500), instruction_count=805, has_contrastive=True)


@pytest.fixture
def papers(tmp_path: Path) -> dict[str, Any]:
    return {
        "preset": PRESET,
        "subject": Subject(ModelOptions(model=PRESET.model), ChatOptions()),
        "data": DATA,
        "judging": JudgeOptions("api", judge_questions=str(write_questions(tmp_path))),
        "answering": Answering(PRESET.new_tokens, PRESET.temperature, top_k=PRESET.top_k),
    }


def test_the_papers_own_settings_differ_in_nothing(papers: dict[str, Any]) -> None:
    assert differences(**papers) == []


def test_every_difference_is_named(papers: dict[str, Any]) -> None:
    judging = papers["judging"]
    for changed, said in (
        ({"subject": Subject(ModelOptions(model="gpt2"), ChatOptions())}, "the model is gpt2"),
        (
            {"subject": replace(papers["subject"], chat_options=ChatOptions(chat_template="{}"))},
            "the chat template is another",
        ),
        ({"judging": replace(judging, judge_model="gpt-5")}, "the judge is gpt-5"),
        ({"judging": JudgeOptions("proxy")}, "proxy ratings"),
        ({"judging": replace(judging, judge_questions="own")}, "questions are this project's"),
        ({"answering": replace(papers["answering"], top_k=None)}, "sampled at temperature 1, not"),
        ({"answering": replace(papers["answering"], new_tokens=32)}, "answers of 32 tokens"),
        ({"data": SimpleNamespace(**vars(DATA) | {"concept_ids": range(10)})}, "10 concepts"),
        ({"data": SimpleNamespace(**vars(DATA) | {"instruction_count": 9})}, "9 instructions"),
        ({"data": SimpleNamespace(**vars(DATA) | {"has_contrastive": False})}, "neutral"),
    ):
        (found,) = differences(**papers | changed)
        assert said in found


def test_methods_with_other_settings_are_told_apart() -> None:
    own = {name for name in PRESET.methods if name in ("prompt", "cdas_loreft")}
    assert set(changed_methods(PRESET, {})) == own
    assert set(changed_methods(PRESET, {"cdas": {"epochs": 3}})) == {*own, "cdas"}
    assert changed_methods(PRESET, {"all": {"epochs": 3}}) == list(PRESET.methods)
