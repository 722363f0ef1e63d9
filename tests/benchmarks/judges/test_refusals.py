"""A language model's verdicts on refusals."""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

import benchmarks.safety.stages as stages
from benchmarks.detectors.labelled import agreement, labelled_refusals
from benchmarks.judges.options import JudgeOptions
from benchmarks.judges.refusals import RefusalJudge, parse_verdict, question
from benchmarks.refusal.__main__ import main
from concept_das.errors import InputError
from tests.benchmarks.judges.server import Reply, Served, completion
from tests.benchmarks.safety.pipeline import SMALL, fake_scores


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        ("Refusal: [[yes]]", True),
        ("It helps.\n**Refusal:** no", False),
        ("refusal: [No].", False),
        ("Refusal: [[yes]] at first.\nRefusal: [[no]]", False),
        ("Refusal: [[maybe]]", None),
        ("Refusal: nothing", None),
        ("yes", None),
        ("", None),
    ],
)
def test_verdicts_are_read(answer: str, verdict: bool | None) -> None:
    assert parse_verdict(answer) is verdict


def test_a_request_that_looks_like_a_field_stays_as_it_is() -> None:
    text = question("Fill in $reply", "I cannot ${request}")
    assert "<request>\nFill in $reply\n</request>" in text
    assert "<reply>\nI cannot ${request}\n</reply>" in text


def judge(served: Served, tmp_path: Path) -> RefusalJudge:
    return RefusalJudge(JudgeOptions("api", "a-judge", served.url, tmp_path / "answers.sqlite"))


def test_an_unreadable_answer_is_asked_for_again(served: Served, tmp_path: Path) -> None:
    served.script = [completion("Well."), completion("Refusal: [[yes]]")]
    served.otherwise = lambda _request: completion("Well.")
    replies = [("a", "I will not."), ("a", "I will not."), ("b", " ")]
    assert judge(served, tmp_path).verdicts(replies) == [True, True, False]
    assert len(served.requests) == 2
    assert judge(served, tmp_path).verdicts([("c", "Hm.")]) == [None]
    assert len(served.requests) == 2 + 3


def test_the_proxy_does_not_judge_refusals() -> None:
    with pytest.raises(InputError, match="choose --judge api or local"):
        RefusalJudge(JudgeOptions("proxy"))


def said_of(text: str) -> Reply:
    """Yes, no or neither, by the request alone."""
    number = sum(map(ord, text.split("</request>", maxsplit=1)[0])) % 3
    return completion(["Refusal: [[yes]]", "Refusal: [[no]]", "Hm."][number])


def verdicts_of(prompts: Sequence[str]) -> list[bool | None]:
    replies = [json.loads(said_of(question(prompt, "Hm.")).body) for prompt in prompts]
    return [parse_verdict(reply["choices"][0]["message"]["content"]) for reply in replies]


def test_judged_rates_are_the_reported_ones_and_those_by_phrases_second(
    served: Served, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "capability_scores", fake_scores)
    served.otherwise = lambda request: said_of(request["messages"][0]["content"])
    arguments = [
        f"--model={model}",
        f"--out={tmp_path / 'out'}",
        *SMALL,
        "--methods=diffmean",
        "--judge=api",
        "--judge-model=a-judge",
        f"--judge-url={served.url}",
        f"--judge-cache={tmp_path / 'answers.sqlite'}",
    ]
    assert main(arguments) == 0
    table = pd.read_csv(tmp_path / "out" / "report" / "table.csv")
    prompts = json.loads((tmp_path / "out" / "data" / "prompts.json").read_text())
    for name, kind, counted in (
        ("suppression", "harmful", False),
        ("elicitation", "harmless", True),
    ):
        assert (table[f"{name}_total"] == 3).all()
        known = [verdict for verdict in verdicts_of(prompts[kind]) if verdict is not None]
        assert 0 < len(known) < 3
        assert set(table[f"{name}_judged_total"]) == {len(known)}
        assert set(table[f"{name}_judged_count"]) == {known.count(counted)}
    summary = (tmp_path / "out" / "report" / "summary.md").read_text()
    assert "by the judge a-judge" in summary
    # Reported first, beside the published numbers, and checked against labelled answers.
    assert summary.index("suppression judged") < summary.index("## By phrases")
    assert "measured suppression_judged" in summary
    assert "told by phrases alone" not in summary
    labelled = labelled_refusals()
    said = verdicts_of([one.prompt for one in labelled])
    row = agreement("judge a-judge", labelled, said)
    assert f"| judge a-judge | {row['agreement']} | {row['missed']} |" in summary
    assert "| phrases | 26% (56/217; 20% to 32%) | 92 of 112 | 69 of 105 |" in summary
