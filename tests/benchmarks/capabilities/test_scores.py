"""Scores under steering: lm-eval's own numbers, and differences that are paired."""

import math
import random
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from benchmarks.capabilities.scores import (
    EVERYDAY,
    TASKS_FOLDER,
    Framing,
    capability_change,
    capability_scores,
    scores_of,
)
from concept_das.errors import InputError, VectorMismatchError
from concept_das.exports import to_lm_eval
from concept_das.methods.prompt import SteeringPrompt
from concept_das.models.blocks import capture, find_site
from concept_das.models.loading import load_model
from concept_das.steering.context import Steering
from concept_das.steering.vector import ModelIdentity
from tests.concept_das.helpers import random_vector, tiny_chat
from tests.tiny import tiny_model, tiny_tokenizer

lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("lm_eval.models.huggingface")

LIMIT = 12


def scores(model=None, tokenizer=None, **options: Any) -> pd.DataFrame:
    options = {"limit": LIMIT, **options}
    return capability_scores(model or tiny_model(), tokenizer or tiny_tokenizer(), **options)


def by_lm_eval(lm, **options: Any) -> pd.DataFrame:
    """The same task by lm-eval alone, called as its users call it."""
    manager = lm_eval.tasks.TaskManager(include_path=str(TASKS_FOLDER), include_defaults=False)
    results = lm_eval.simple_evaluate(
        lm, tasks=[EVERYDAY], task_manager=manager, **{"limit": LIMIT, **options}
    )
    values = results["results"][EVERYDAY]
    return pd.DataFrame(
        {
            "metric": metric,
            "value": values[f"{metric},none"],
            "stderr": values[f"{metric}_stderr,none"],
            "each": [sample[metric] for sample in results["samples"][EVERYDAY]],
        }
        for metric in ("acc", "acc_norm")
    )


def assert_equal(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert found.metric.tolist() == expected.metric.tolist()
    assert found.value.tolist() == expected.value.tolist()
    assert found.stderr.tolist() == expected.stderr.tolist()
    assert [list(each.values()) for each in found.scores] == expected.each.tolist()


@pytest.mark.parametrize("chat", [False, True])
def test_unsteered_is_lm_evals_hf(chat: bool, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # the questions are found from wherever it is called
    hf = lm_eval.models.huggingface.HFLM(pretrained=tiny_model(), tokenizer=tiny_tokenizer())
    options: dict[str, Any] = {"apply_chat_template": chat, "num_fewshot": 1}
    found = scores(**options)
    assert_equal(found, by_lm_eval(hf, fewshot_as_multiturn=chat, **options))
    assert found.task.tolist() == [EVERYDAY] * 2
    assert found.samples.tolist() == [LIMIT] * 2
    assert 0 < found.value[0] < 1  # or equal numbers would say nothing


@pytest.mark.parametrize("operation", ["add", "clamp"])
def test_steered_is_lm_evals_steered_model(operation: str, tmp_path) -> None:
    # Without a template nothing is protected here, as in lm-eval.
    hf_steered = pytest.importorskip("lm_eval.models.hf_steered")
    model = tiny_model()
    vector = random_vector(model, operation=operation)
    path = to_lm_eval(vector, model, tmp_path / "vector.pt", "suppress", 1.5)
    lm = hf_steered.SteeredModel(
        pretrained=model, steer_path=str(path), tokenizer=tiny_tokenizer(), device="cpu"
    )
    found = scores(model, steering=Steering(vector, "suppress", 1.5))
    assert_equal(found, by_lm_eval(lm))
    assert found.scores.tolist() != scores(model).scores.tolist()


def test_adding_nothing_changes_nothing() -> None:
    model = tiny_model()
    nothing = Steering(random_vector(model, operation="add"), multiplier=0.0)
    before, after = scores(model), scores(model, steering=nothing)
    pd.testing.assert_frame_equal(before, after)
    change = capability_change(before, after)
    assert (change[["change", "stderr"]] == 0).all(axis=None)


def test_the_model_is_left_unsteered() -> None:
    model = tiny_model()
    before = scores(model)
    scores(model, steering=Steering(random_vector(model)))
    pd.testing.assert_frame_equal(scores(model), before)


def first_changed(model, tokenizer, steering: Steering, **options: Any) -> int:
    """The first position whose hidden states differ with steering, the same in every prompt."""
    above = find_site(model, 2)
    with capture(model, above) as plain:
        scores(model, tokenizer, limit=4, **options)
    with capture(model, above) as steered:
        scores(model, tokenizer, limit=4, steering=steering, **options)
    firsts = {
        int(position)
        for a, b in zip(plain, steered, strict=True)
        for position in ((a - b).abs().amax(-1) > 1e-4).int().argmax(-1)
    }
    (first,) = firsts
    return first


@pytest.mark.parametrize("shots", [0, 2])
@pytest.mark.parametrize("multiturn", [False, True])
def test_the_chat_templates_prefix_is_not_steered(shots: int, multiturn: bool) -> None:
    model = tiny_model()
    steering = Steering(random_vector(model, prefix_length=3))
    options = {
        "apply_chat_template": True,
        "num_fewshot": shots,
        "fewshot_as_multiturn": multiturn,
    }
    prefix = tiny_chat().prefix
    assert first_changed(model, tiny_tokenizer(), steering, **options) == len(prefix)
    with recorded_ids(model) as calls:
        scores(model, limit=4, **options)
    rows = [row.tolist() for ids in calls for row in ids]
    assert rows
    assert all(tuple(row[: len(prefix)]) == prefix for row in rows)


def test_without_a_template_begin_of_text_alone_is_not_steered() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    steering = Steering(random_vector(model))
    assert first_changed(model, tokenizer, steering) == 0
    begin = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.bos_token_id)]
    )
    assert first_changed(model, tokenizer, steering) == 1


@contextmanager
def recorded_ids(model) -> Iterator[list[torch.Tensor]]:
    """The token ids of every call of the model inside the block."""
    calls: list[torch.Tensor] = []
    handle = model.register_forward_pre_hook(lambda _module, args: calls.append(args[0]))
    yield calls
    handle.remove()


def test_examples_are_of_the_fewshot_split_and_the_same_everywhere() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    with recorded_ids(model) as calls:
        scores(model, tokenizer, num_fewshot=3, limit=4)
    texts = [tokenizer.decode(row) for ids in calls for row in ids]
    start = (
        "Question: What is 9 times 3?\nAnswer: 27\n\n"
        "Question: What is the capital of Austria?\nAnswer: Vienna\n\n"
    )
    assert all(text.startswith(start) for text in texts)
    assert all(text.count("Question:") == 4 for text in texts)


@pytest.mark.parametrize(("shots", "multiturn"), [(0, False), (2, True), (2, False)])
def test_a_framing_stands_around_every_turn(shots: int, multiturn: bool) -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    options: dict[str, Any] = {
        "apply_chat_template": True,
        "num_fewshot": shots,
        "fewshot_as_multiturn": multiturn,
        "limit": 1,
    }

    def texts(framing: Framing) -> list[str]:
        with recorded_ids(model) as calls:
            scores(model, tokenizer, framing=framing, **options)
        texts = [tokenizer.decode(row) for ids in calls for row in ids]
        return [re.sub(r"(<\|im_end\|>)*$", "", text) for text in texts]  # padding

    framing = Framing("Now: ", "I think.\n")
    plain, framed = texts(Framing()), texts(framing)
    turns = 1 + (shots if multiturn else 0)
    user, assistant = "<|im_start|>user\n", "<|im_start|>assistant\n"
    for before, after in zip(plain, framed, strict=True):
        assert before.count(user) == before.count(assistant) == turns
        expected = before.replace(user, user + framing.before_question)
        assert after == expected.replace(assistant, assistant + framing.before_answer)


def test_a_framing_needs_the_template() -> None:
    with pytest.raises(InputError, match="set apply_chat_template"):
        scores(framing=Framing("Now: "))


def test_a_wrong_vector_or_task_is_named(monkeypatch) -> None:
    # Reading the index of all of lm-eval's tasks takes seconds.
    index = partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(
        lm_eval.tasks, "TaskManager", lambda include_path, **_: index(include_path=include_path)
    )
    with pytest.raises(VectorMismatchError):
        scores(steering=Steering(random_vector(tiny_model(seed=1))))
    with pytest.raises(InputError, match="^lm-eval has no task 'no_such_task'; [^\n]*$"):
        scores(tasks=[EVERYDAY, "no_such_task"])


def test_a_steering_prompt_is_refused() -> None:
    model = tiny_model()
    texts = {"elicit": "Shout."}
    prompt = SteeringPrompt(model=ModelIdentity.of(model), texts=texts, ids={"elicit": (5, 6)})
    with pytest.raises(InputError, match="put into the text"):
        scores(model, steering=Steering(prompt))


def test_lm_eval_is_optional(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InputError, match="pip install"):
        scores()


def logged(values: dict[str, list[Any]], filter_name: str = "none") -> list[dict[str, Any]]:
    """Samples as lm-eval logs them."""
    return [
        {"doc_id": i, "doc_hash": f"d{i}", "prompt_hash": "p", "filter": filter_name}
        | dict(zip(values, each, strict=True))
        for i, each in enumerate(zip(*values.values(), strict=True))
    ]


def test_filters_groups_and_metrics_that_are_no_means() -> None:
    results = {
        "results": {
            "maths": {
                "alias": "maths",
                "sample_len": 2,
                "match,strict": 0.0,
                "match_stderr,strict": 0.0,
                "match,loose": 0.5,
                "match_stderr,loose": 0.5,
            },
            "words": {"perplexity,none": math.e, "perplexity_stderr,none": "N/A", "acc,none": 1.0},
            "all": {"alias": "all", "acc,none": 0.75, "acc_stderr,none": 0.25},
            "a": {"acc,none": 1.0, "acc_stderr,none": "N/A"},
            "b": {"acc,none": 2 / 3, "acc_stderr,none": 1 / 3},
        },
        "group_subtasks": {"all": ["a", "inner"], "inner": ["b"]},
        "samples": {
            "maths": logged({"match": [0.0, 0.0]}, "strict") + logged({"match": [1, 0]}, "loose"),
            "words": logged({"perplexity": [-1.0, -1.0], "acc": [1.0, 1.0]}),
            "a": logged({"acc": [1.0]}),
            "b": logged({"acc": [1.0, 0.0, 1.0]}),
        },
    }
    table = scores_of(results).set_index(["task", "metric"])
    assert table.samples.to_dict() == {
        ("maths", "match,strict"): 2,
        ("maths", "match,loose"): 2,
        ("words", "perplexity"): 2,
        ("words", "acc"): 2,
        ("all", "acc"): 4,
        ("a", "acc"): 1,
        ("b", "acc"): 3,
    }
    assert list(table.scores["maths", "match,loose"].values()) == [1, 0]
    assert list(table.scores["all", "acc"].values()) == [1, 1, 0, 1]
    assert table.scores["words", "perplexity"] == {}
    assert np.isnan(table.stderr["words", "perplexity"])
    assert table.stderr["all", "acc"] == 0.25


def table(**tasks: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "task": task,
            "metric": "acc",
            "value": float(np.mean(each)),
            "stderr": 9.0,
            "samples": len(each),
            "scores": {str(i): score for i, score in enumerate(each)},
        }
        for task, each in tasks.items()
    )


def test_the_change_and_its_error_are_those_of_the_paired_differences() -> None:
    before, after = table(t=[1.0, 1.0, 0.0, 1.0]), table(t=[0.0, 1.0, 1.0, 0.0])
    (row,) = capability_change(before, after).to_dict("records")
    # The differences are -1, 0, 1, -1: mean -1/4, sum of squared deviations 11/4.
    assert (row["unsteered"], row["steered"], row["change"]) == (0.75, 0.5, -0.25)
    assert row["stderr"] == pytest.approx(math.sqrt(11 / 4 / 3) / 2)
    assert row["samples"] == 4
    # A change that is the same everywhere is certain, however uncertain both scores are.
    (row,) = capability_change(table(t=[0.0, 5.0]), table(t=[1.0, 6.0])).to_dict("records")
    assert (row["change"], row["stderr"]) == (1.0, 0.0)


def test_the_order_of_rows_and_questions_is_of_no_account() -> None:
    before, after = table(t=[1.0, 0.0, 0.0], u=[0.0, 1.0]), table(t=[0.0, 0.0, 1.0], u=[1.0, 1.0])
    shuffled = after.iloc[::-1].copy()
    shuffled["scores"] = [dict(random.sample([*s.items()], len(s))) for s in shuffled.scores]
    pd.testing.assert_frame_equal(
        capability_change(before, after), capability_change(before, shuffled)
    )


def test_what_is_no_mean_has_a_change_without_an_error() -> None:
    before, after = table(t=[2.0, 4.0]), table(t=[3.0, 9.0])
    for frame in (before, after):
        frame["scores"] = [{}]
    (row,) = capability_change(before, after).to_dict("records")
    assert row["change"] == 3.0
    assert math.isnan(row["stderr"])


def test_only_the_same_questions_in_the_same_words_are_compared() -> None:
    with pytest.raises(InputError, match="^u is not scored"):
        capability_change(table(t=[1.0], u=[1.0]), table(t=[1.0]))
    with pytest.raises(InputError, match="^t was not asked the same questions"):
        capability_change(table(t=[1.0, 0.0]), table(t=[1.0]))
    with pytest.raises(InputError, match="num_fewshot"):
        capability_change(scores(), scores(num_fewshot=1))
    with pytest.raises(InputError, match="apply_chat_template"):
        capability_change(scores(), scores(apply_chat_template=True))


@pytest.mark.slow
def test_the_packaged_model_is_above_chance_and_below_perfection() -> None:
    loaded = load_model("smollm2-135m", device="cpu")
    found = capability_scores(loaded.model, loaded.tokenizer)
    assert found.samples.tolist() == [120, 120]
    assert (found.value > 0.25 + 3 * found.stderr).all()
    assert (found.value < 1 - 3 * found.stderr).all()


def test_the_package_that_lm_evals_tiny_tasks_need_is_named() -> None:
    message = r"tinyMMLU needs the package tinyBenchmarks, .*or take concept_das_tinymmlu"
    with pytest.raises(InputError, match=message):
        scores(tasks=["tinyMMLU"])


def test_a_chat_formats_template_is_used_with_its_system_prompt() -> None:
    model, tokenizer = tiny_model(), tiny_tokenizer()
    chat = tiny_chat(system="Be terse.", chat_template=tokenizer.chat_template.replace("user", "u"))
    with recorded_ids(model) as calls:
        scores(model, tokenizer, limit=2, apply_chat_template=True, chat=chat)
    texts = [tokenizer.decode(row) for ids in calls for row in ids]
    assert all(text.startswith("<|im_start|>system\nBe terse.<|im_end|>") for text in texts)
    steering = Steering(random_vector(model, prefix_length=3))
    first = first_changed(model, tokenizer, steering, apply_chat_template=True, chat=chat)
    assert first == len(chat.prefix) > len(tiny_chat().prefix)
    # The tokenizer itself is left as it was.
    assert tokenizer.chat_template == tiny_tokenizer().chat_template
