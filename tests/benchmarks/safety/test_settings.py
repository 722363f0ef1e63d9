from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.capabilities.scores import Framing
from benchmarks.presets import chat_of
from benchmarks.refusal.presets import PRESETS
from benchmarks.safety.run import RunOptions
from benchmarks.safety.settings import Choices, Settings
from benchmarks.steps import Subject
from concept_das.cli.options import ChatOptions, ModelOptions
from concept_das.errors import InputError
from concept_das.training.options import DEFAULT_ENGINE

PRESET = PRESETS["organism"]
SUBJECT = Subject(ModelOptions(model="nowhere"), ChatOptions())


def settings(**choices: Any) -> Settings:
    return Settings(PRESET, Choices(**choices), SUBJECT, DEFAULT_ENGINE, Framing())


def test_without_choices_it_is_the_preset() -> None:
    found = settings()
    assert tuple(found.configs) == PRESET.default
    assert found.layer == PRESET.recipe.layer
    assert [piece.key for piece in found.pieces] == ["seed-42"]
    for name in PRESET.default:
        assert found.configs[name] == PRESET.recipe.configs[name]
        assert found.multipliers(name) == PRESET.strengths[name].multipliers
    assert found.rule == "interpolate"
    assert found.answering.temperature == 0
    sources = {row["setting"]: row["source"] for row in found.sources()}
    assert not any(source.startswith("changed") for source in sources.values())


def test_choices_take_the_presets_place_and_are_told_as_such() -> None:
    found = settings(
        methods="cdas,lora",
        changes={"all": {"epochs": 2}, "lora": {"layers": [1, 2]}},
        layer=3,
        multipliers=[1.0, 4.0],
        rule="paper",
        seeds=[1, 2],
        new_tokens=7,
        tasks=["mmlu"],
    )
    assert (found.configs["cdas"].epochs, found.configs["lora"].layers) == (2, (1, 2))
    assert found.multipliers("cdas") == found.multipliers("lora") == (1.0, 4.0)
    assert [piece.inputs for piece in found.pieces] == [{"seed": 1}, {"seed": 2}]
    assert found.answering.new_tokens == 7
    rows = {row["setting"]: row for row in found.sources()}
    assert rows["layer"]["value"] == "3"
    assert rows["rule of clamps"]["value"] == "paper"
    assert rows["cdas multipliers"]["value"] == "1 4"
    assert rows["capabilities"]["value"] == "mmlu"
    assert all(row["source"].startswith("changed by hand; ") for row in rows.values())


def test_layers_are_pieces_of_the_first_seed() -> None:
    found = settings(methods="cdas,diffmean,loreft,prompt", layers=[2, 4], seeds=[7, 8])
    assert tuple(found.configs) == ("cdas", "diffmean")
    assert found.layer is None
    inputs = {piece.key: piece.inputs for piece in found.pieces}
    assert inputs == {"layer-2": {"seed": 7, "layer": 2}, "layer-4": {"seed": 7, "layer": 4}}
    with pytest.raises(InputError, match="none of the methods acts at one block"):
        settings(methods="loreft", layers=[2])


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"seeds": []}, "at least one of the seeds"),
        ({"seeds": [1, 1]}, r"seeds holds \[1, 1\]; give each of them once"),
        ({"multipliers": [-1.0]}, "multipliers must be above 0"),
        ({"new_tokens": 0}, "new_tokens is 0; it must be at least 1"),
        ({"changes": {"bipo": {"epochs": 2}}}, "changes name 'bipo'"),
    ],
)
def test_impossible_choices_are_named(choices: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(**choices)


def test_a_limit_leaves_something(tmp_path: Path) -> None:
    for name in ("rows", "tests"):
        with pytest.raises(InputError, match=f"{name} is 0; it must be at least 1"):
            RunOptions(tmp_path, **{name: 0})


def test_a_methods_own_decoding_is_used_and_told() -> None:
    preset = PRESETS["llama-3.1-8b"]
    subject = Subject(ModelOptions(model="nowhere"), chat_of(ChatOptions(), preset.recipe))
    found = Settings(preset, Choices(), subject, DEFAULT_ENGINE, Framing())
    assert found.answering_of("cdas") == found.answering_of("unsteered") == found.answering
    assert found.answering_of("reps").description == {
        **found.answering.description,
        **{"temperature": 1.0, "top_k": 50, "top_p": 0.9},
    }
    rows = {row["setting"]: row for row in found.sources()}
    assert rows["reps answers"]["value"] == "sampled at temperature 1, top-k 50, top-p 0.9"
    assert rows["chat template"]["source"] == preset.recipe.chat_source
    other = replace(
        subject, chat_options=chat_of(ChatOptions(chat_template="tokenizer"), preset.recipe)
    )
    changed = Settings(preset, Choices(), other, DEFAULT_ENGINE, Framing()).sources()
    assert {
        "setting": "chat template",
        "value": "the tokenizer's",
        "source": "changed by hand",
    } in changed


def test_a_users_template_goes_before_the_presets() -> None:
    recipe = PRESETS["phi-3.5-mini"].recipe
    assert chat_of(ChatOptions(), recipe).chat_template == recipe.chat_template
    assert chat_of(ChatOptions(chat_template="mine.jinja"), recipe).chat_template == "mine.jinja"
    assert chat_of(ChatOptions(chat_template="tokenizer"), recipe).chat_template is None
    assert chat_of(ChatOptions(), PRESET.recipe) == ChatOptions()


def test_the_papers_numbers_of_examples_come_with_its_tasks() -> None:
    def of(name: str, **choices: Any) -> Settings:
        return Settings(PRESETS[name], Choices(**choices), SUBJECT, DEFAULT_ENGINE, Framing())

    assert of("llama-3.1-70b").tasks == {"mmlu": 5, "concept_das_truthfulqa": 3}
    assert of("llama-3.1-8b", tasks=["mmlu", "gsm8k"]).tasks == {"mmlu": 5, "gsm8k": None}
    assert of("organism").tasks == {"concept_das_everyday": None}
    assert of("phi-3.5-mini", tasks=[]).tasks == {}


def test_the_tokens_of_diffmean_are_named() -> None:
    def told(**changes: Any) -> dict[str, str]:
        rows = settings(methods="diffmean", changes=changes).sources()
        (row,) = (row for row in rows if row["setting"] == "diffmean")
        return row

    assert told()["value"] == "means over all tokens"
    changed = told(diffmean={"means": "source_token"})
    assert changed["value"] == "means at the source token"
    assert changed["source"].startswith("changed by hand; ")
