"""The whole benchmark on a tiny model: complete, resumed, shared, extended."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import steps
from benchmarks.axbench import stages
from benchmarks.axbench.data import read_texts
from benchmarks.axbench.estimate import counts as estimated
from benchmarks.axbench.judging import probe_of
from benchmarks.judges.options import JudgeOptions
from benchmarks.judges.proxy import fit_probe
from concept_das.errors import InputError, UnfinishedError
from concept_das.runs.stages import Jobs
from tests.benchmarks.axbench import tiny_axbench as tiny
from tests.benchmarks.axbench.files import TINY, write_tiny
from tests.benchmarks.judges.made_questions import write_questions
from tests.benchmarks.judges.server import Served, completion, error
from tests.benchmarks.tiny_benchmark import content, copy_without, without_figures
from tests.tiny import save_tiny

STAGES = ("data", "train.cdas", "factors", "calibrate", "generate.cdas", "judge.cdas")
GATHERED = ("select", "report")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Model, data, and a run in one go."""
    folder = tmp_path_factory.mktemp("axbench")
    save_tiny(folder / "model")
    write_tiny(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        without_figures(patch)
        tiny.run(folder, folder / "whole")
        yield folder
    tiny.PRESETS.pop(tiny.PRESET)


def table(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "report" / "table.csv")


def report(out: Path) -> dict[str, bytes]:
    return content(out / "report")


def test_every_method_is_asked_everything_once(root: Path) -> None:
    scored = pd.read_parquet(root / "whole" / "select" / "scored.parquet")
    counts = scored.groupby(["method", "direction"]).size()
    both = ("elicit", "suppress")
    # 2 concepts, 4 instructions, and multipliers where there are some.
    assert {(m, d): counts[m, d] for m in ("cdas", "diffmean") for d in both} == {
        (m, d): 16 for m in ("cdas", "diffmean") for d in both
    }
    assert all(counts[m, d] == 8 for m in ("prompt", "unsteered") for d in both)
    key = ["method", "concept_id", "direction", "multiplier", "input_id"]
    assert not scored.duplicated(key).any()
    assert set(scored["judge_kind"]) == {"proxy"}
    # The dry run says so beforehand.
    planned = estimated(tiny.PRESETS[tiny.PRESET], 2).set_index("method")["answers"]
    assert planned.to_dict() == scored.groupby("method").size().to_dict()


def test_the_report_has_every_method_and_detection(root: Path) -> None:
    found = table(root / "whole")
    assert set(found["method"]) == {*tiny.METHODS, "unsteered"}
    assert (root / "whole" / "report" / "report.html").exists()
    detection = pd.read_csv(root / "whole" / "report" / "detection.csv")
    assert set(detection["method"]) == {"cdas", "diffmean"}
    assert detection["auroc"].between(0, 1).all()


def test_suppression_is_asked_with_the_concept_in_the_prompt(root: Path) -> None:
    answers = pd.read_parquet(root / "whole/generate.cdas/concept-1/answers.parquet")
    for row in answers.itertuples():
        assert (TINY[1] in row.prompt) == (row.direction == "suppress")
        assert row.instruction_text in row.prompt


def test_nothing_is_done_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(root / "whole")
    monkeypatch.setattr(Jobs, "run", lambda *_: pytest.fail("a job was run again"))
    tiny.run(root, root / "whole")
    assert content(root / "whole") == before


@pytest.mark.parametrize("stage", [*STAGES, *GATHERED])
def test_a_killed_run_goes_on_to_the_same_report(root: Path, tmp_path: Path, stage: str) -> None:
    # Everything before the stage is taken from the whole run, so that the test takes seconds.
    copy_without(root / "whole", tmp_path / "out", stage)
    chance = 3 if stage in STAGES else 2
    assert tiny.start(root, tmp_path / "out", kill=(stage, chance))() == -9
    assert not (tmp_path / "out" / "report" / "done.json").exists()
    tiny.run(root, tmp_path / "out")
    assert report(tmp_path / "out") == report(root / "whole")


@pytest.mark.slow
def test_two_workers_make_the_same_table_though_one_dies_in_each_stage(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("KILLS", str(tmp_path))
    for stage in (*STAGES, *GATHERED):
        (tmp_path / f"{stage}.kill").write_text("3" if stage in STAGES else "2")
    tiny.run_by_workers(root, tmp_path / "out")
    died = {path.stem for path in tmp_path.glob("*.killed")}
    assert died == {*STAGES, *GATHERED}
    assert content(tmp_path / "out") == content(root / "whole")


def test_a_stage_of_one_method_can_run_alone(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tiny.run(root, out, concepts="1", stages="data,train.diffmean")
    assert sorted(path.name for path in out.iterdir()) == ["data", "model.json", "train.diffmean"]
    assert [path.name for path in (out / "data").iterdir()] == ["concept-1"]
    with pytest.raises(InputError, match="judge.unsteered needs data of concept-0"):
        tiny.run(root, out, stages="judge")


def test_an_endpoint_judges_and_is_not_asked_twice(
    root: Path, tmp_path: Path, served: Served
) -> None:
    served.script = [error(429, Retry_After="0"), error(500), completion("no rating")]
    judging = JudgeOptions("api", "a-judge", served.url, tmp_path / "answers.sqlite")
    copy_without(root / "whole", tmp_path / "out", "calibrate")
    tiny.run(root, tmp_path / "out", judging=judging)
    found = table(tmp_path / "out")
    assert set(found["judge"]) == {"api a-judge"}
    elicited = pd.read_parquet(tmp_path / "out" / "select" / "scored.parquet")
    elicited = elicited[elicited["direction"] == "elicit"]
    assert (elicited.loc[elicited["text"].str.strip() != "", "score"] == 2).all()
    assert (found["missing"] == 0).all()
    assert (found.loc[found["direction"] == "suppress", "score"] == 0).all()
    asked = len(served.requests)
    assert {request["model"] for request in served.requests} == {"a-judge"}
    for path in (tmp_path / "out").glob("judge.*"):
        shutil.rmtree(path)
    tiny.run(root, tmp_path / "out", judging=judging)
    assert len(served.requests) == asked
    pd.testing.assert_frame_equal(table(tmp_path / "out"), found)


def test_axbenchs_questions_are_needed_where_a_preset_asks_them(
    root: Path, tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    judging = JudgeOptions("api", "a-judge", served.url, tmp_path / "answers.sqlite")
    tiny.add_preset()
    own = replace(tiny.PRESETS[tiny.PRESET], questions="axbench")
    monkeypatch.setattr(tiny, "add_preset", lambda: tiny.PRESETS.update({tiny.PRESET: own}))
    with pytest.raises(InputError, match="give --judge-questions FOLDER"):
        tiny.run(root, tmp_path / "out", judging=judging)
    assert not (tmp_path / "out").exists()
    copy_without(root / "whole", tmp_path / "out", "calibrate")
    named = replace(judging, judge_questions=str(write_questions(tmp_path / "axbench")))
    tiny.run(root, tmp_path / "out", judging=named, stages="judge.prompt")
    assert all("from 0 to 2?" in text for text in served.texts())


def test_the_proxys_probe_is_trained_on_texts_that_no_method_is(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = root / "whole" / "data" / "concept-0"
    held_out = pd.read_parquet(data / "detection.parquet")
    of_label = held_out.groupby("label")["response"].apply(list)
    trained = set(pd.read_parquet(data / "quadruples.parquet")["positive_output"])
    probe = probe_of(data)
    assert probe == fit_probe(of_label["positive"], of_label["negative"])
    # Without such texts it is the training file's outputs, which is said.
    shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns("detection.parquet"))
    texts = read_texts(tmp_path / "data")
    with caplog.at_level("WARNING"):
        other = probe_of(tmp_path / "data")
    assert other == fit_probe(texts.with_concept, texts.without_concept)
    assert trained <= set(texts.with_concept)
    assert "the outputs that the methods train on" in caplog.text


def test_ratings_that_the_endpoint_failed_to_give_are_asked_for_again(
    root: Path, tmp_path: Path, served: Served
) -> None:
    retried = [error(500, Retry_After_Ms="1")] * 9
    served.script = [completion("Rating: [[2]]"), *retried]
    judging = JudgeOptions("api", "a-judge", served.url, tmp_path / "answers.sqlite", 1)
    out = tmp_path / "out"
    shutil.copytree(root / "whole", out)
    few = {"stages": "judge.unsteered", "methods": "cdas", "judging": judging}
    with pytest.raises(UnfinishedError, match=r"^judge.unsteered of concept-0 is left open: http"):
        tiny.run(root, out, **few)
    assert (out / "judge.unsteered/concept-1/done.json").exists()
    assert not (out / "judge.unsteered/concept-0/done.json").exists()
    asked = len(served.requests)
    tiny.run(root, out, **few)
    (failed,) = served.texts()[asked:]
    assert failed == served.texts()[1]
    ratings = pd.read_parquet(out / "judge.unsteered/concept-0/ratings.parquet")
    assert ratings["concept"].notna().all()


def test_judging_needs_neither_the_model_nor_its_library_versions(
    root: Path, tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(root / "model", tmp_path / "model")
    shutil.copytree(root / "data", tmp_path / "data")
    judging = JudgeOptions("api", "a-judge", served.url, tmp_path / "answers.sqlite")
    out = tmp_path / "out"
    few = {"concepts": "1", "methods": "diffmean", "judging": judging}
    tiny.run(tmp_path, out, stages="data,train,factors,generate", **few)
    shutil.rmtree(tmp_path / "model")
    monkeypatch.setattr("benchmarks.steps.version", lambda _library: "another")
    monkeypatch.setattr("concept_das.cli.options.ModelOptions.load", lambda *_: pytest.fail("load"))
    tiny.run(tmp_path, out, stages="judge,select,report", **few)
    assert set(table(out)["method"]) == {"diffmean", "unsteered"}


def test_suppression_can_be_left_out(root: Path, tmp_path: Path) -> None:
    few = {"concepts": "1", "methods": "diffmean,prompt", "suppression": False}
    tiny.run(root, tmp_path / "out", **few)
    assert set(table(tmp_path / "out")["direction"]) == {"elicit"}
    answers = pd.read_parquet(tmp_path / "out/generate.unsteered/concept-1/answers.parquet")
    assert len(answers) == 4
    assert "Suppression was left out." in (tmp_path / "out/report/summary.md").read_text()


def test_a_method_with_longer_responses_is_added_and_the_others_stay(
    root: Path, tmp_path: Path, ran: list[str]
) -> None:
    few = {"concepts": "1", "stages": "data,train,generate"}
    tiny.run(root, tmp_path / "out", methods="cdas", **few)
    before = list(ran)
    longer = {"diffmean": {"max_response_tokens": 30}}
    tiny.run(root, tmp_path / "out", methods="cdas,diffmean", changes=longer, **few)
    assert ran[len(before) :] == ["train.diffmean", "generate.diffmean"]


@pytest.mark.parametrize("edit", ["the model's weights", "the scores' rules"])
def test_work_of_other_weights_or_rules_is_done_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[str], edit: str
) -> None:
    shutil.copytree(root / "whole", tmp_path / "out")
    if edit == "the model's weights":
        known = steps.whole_digest
        monkeypatch.setattr(steps, "whole_digest", lambda *given: f"{known(*given)} but one byte")
        tiny.run(root, tmp_path / "out", stages="data,train.diffmean,calibrate", concepts="0:2")
        assert ran == ["data", "data", "train.diffmean", "train.diffmean", "calibrate"]
        return
    known_sources = stages.sources_of

    def other(*modules: str) -> str:
        return "edited" if "benchmarks.axbench.scores" in modules else known_sources(*modules)

    monkeypatch.setattr(stages, "sources_of", other)
    tiny.run(root, tmp_path / "out")
    assert ran == ["select"]  # to the same files, so that the report stays


def test_neutral_responses_by_an_endpoint(root: Path, tmp_path: Path, served: Served) -> None:
    served.otherwise = lambda _request: completion("A plain answer.")
    judging = JudgeOptions(judge_url=served.url, judge_cache=tmp_path / "answers.sqlite")
    out = tmp_path / "out"
    tiny.run(root, out, neutral="api", stages="data", concepts="1", judging=judging)
    rows = pd.read_parquet(out / "data" / "concept-1" / "quadruples.parquet")
    assert set(rows["negative_output"]) == {"A plain answer."}
    assert rows["positive_output"].str.startswith("Aye").all()
    assert len(served.requests) == len(rows) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concepts": "7"}, "the data have no concept 7; they have 0 to 1"),
        ({"methods": "cdas,lora"}, "'lora' is named twice or not in tiny"),
        ({"changes": {"reps": {"epochs": 1}}}, "changes name 'reps'"),
        ({"stages": "rate"}, "there is no stage 'rate'; there are data, train, factors"),
    ],
)
def test_bad_input_stops_before_any_work(root, tmp_path, options, message) -> None:
    with pytest.raises(InputError, match=message):
        tiny.run(root, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
