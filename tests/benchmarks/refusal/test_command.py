"""The whole benchmark on a tiny model."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import benchmarks.safety.stages as stages
from benchmarks.refusal.__main__ import main
from benchmarks.refusal.case import REFUSAL
from concept_das.models.loading import load_model
from tests.benchmarks.safety.pipeline import SMALL, fake_scores, killed_at, rows_of
from tests.benchmarks.tiny_benchmark import content, copy_without, without_figures
from tests.served import serving_vectors

METHODS = "--methods=cdas,diffmean,prompt"


@pytest.fixture(scope="module", autouse=True)
def _neither_lm_eval_nor_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "capability_scores", fake_scores)
        without_figures(patch)
        yield


def command(model: Path, out: Path, *more: str) -> list[str]:
    return [f"--model={model}", f"--out={out}", *SMALL, *(more or (METHODS,))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    assert main(command(model, out)) == 0
    return out


def test_the_table_has_every_method_seed_and_multiplier(finished: Path) -> None:
    table = pd.read_csv(finished / "report" / "table.csv", dtype={"layers": str})
    rows = table[["method", "seed", "multiplier"]].fillna(-1).to_numpy().tolist()
    assert rows == [
        ["unsteered", -1, -1],
        *([name, seed, m] for name, seed in (("cdas", 42), ("diffmean", -1)) for m in (0.5, 1)),
        ["prompt", -1, 1],  # text has no strength
    ]
    for name in ("suppression", "elicitation"):
        assert (table[f"{name}_total"] == 3).all()
        assert np.allclose(table[name], table[f"{name}_count"] / 3)
        assert (
            (table[f"{name}_low"] <= table[name]) & (table[name] <= table[f"{name}_high"])
        ).all()
    assert set(REFUSAL.explained) <= set(table)
    untouched = table.iloc[0]
    assert untouched["kl_side_effect"] == untouched["kl_side_effect_response"] == 0
    assert untouched["kl_suppression"] > 0
    cdas = table[table["method"] == "cdas"].iloc[0]
    assert (cdas["layers"], cdas["rank"], cdas["parameters"]) == ("1", 1, 16)
    assert cdas["kl_side_effect"] > 0


def test_capabilities_stand_at_their_multiplier_with_their_error(finished: Path) -> None:
    table = pd.read_csv(finished / "report" / "table.csv").set_index(["method", "multiplier"])
    change = table["concept_das_everyday_acc_change"]
    assert change["cdas", 1.0] == change["diffmean", 1.0] == -0.25
    assert np.isnan(change["cdas", 0.5])
    assert np.isnan(change["prompt", 1.0])
    assert table["concept_das_everyday_acc_change_stderr"]["cdas", 1.0] == pytest.approx(0.25)


def test_the_report_shows_answers_sources_and_published_numbers(finished: Path) -> None:
    summary = (finished / "report" / "summary.md").read_text()
    assert "are of other, larger models than tiny" in summary
    assert "| llama-3.1-8b | cdas | 0.91 | 4.26 |" in summary
    assert "changed by hand; this project" in summary
    page = (finished / "report" / "report.html").read_text()
    prompts = json.loads((finished / "data" / "prompts.json").read_text())
    assert prompts["harmful"][0].replace("'", r"\u0027") in page
    assert (finished / "report" / "rates.png").exists()
    answers = pd.read_parquet(finished / "generate.cdas" / "seed-42" / "answers.parquet")
    assert len(answers) == 2 * 2 * 3
    assert set(answers["prompt"]) == {*prompts["harmful"], *prompts["harmless"]}
    directions = answers.groupby("direction")["prompts"].unique()
    assert (directions["suppress"], directions["elicit"]) == (["harmful"], ["harmless"])


def test_the_dry_run_counts_what_the_run_does(
    finished: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(model, finished, METHODS, "--dry-run")) == 0
    planned = rows_of(capsys.readouterr().out)
    for method in ("unsteered", "cdas", "diffmean", "prompt"):
        answers = list(finished.glob(f"generate.{method}/**/answers.parquet"))
        assert planned[method]["answers"] == sum(len(pd.read_parquet(path)) for path in answers)
        runs = [json.loads(path.read_text()) for path in finished.glob(f"capab*.{method}/**/sc*")]
        assert planned[method]["capability_runs"] == sum(len(run) for run in runs)
    assert planned["cdas"]["pairs"] == 4 * 2 * 3  # divergences, multipliers, prompts
    (history,) = finished.glob("train.cdas/**/history.jsonl")
    assert planned["cdas"]["steps"] == len(history.read_text().splitlines())


def test_the_same_command_does_nothing_and_again_elsewhere_the_same(
    finished: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(finished)
    assert main(command(model, tmp_path / "out")) == 0
    assert content(tmp_path / "out") == before
    monkeypatch.setattr(stages, "train_method", None)
    monkeypatch.setattr(stages, "answer", None)
    assert main(command(model, finished)) == 0
    assert content(finished) == before


def test_edited_phrases_are_counted_by_again(
    model: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    assert main(command(model, out)) == 0
    assert ran == []
    known = stages.sources_of
    edited = {"benchmarks.detectors": "edited"}
    monkeypatch.setattr(
        stages, "sources_of", lambda *names: edited.get(names[0], "") + known(*names)
    )
    assert main(command(model, out)) == 0
    assert {job.split(".")[0] for job in ran} == {"measure"}  # to the same numbers, so no report


def test_more_methods_and_seeds_leave_the_finished_alone(
    finished: Path, model: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    before = content(out)
    more = ("--methods=cdas,diffmean,prompt,das", "--seeds=[42, 43]")
    assert main(command(model, out, *more)) == 0
    after = content(out)
    kept = {name: value for name, value in before.items() if not name.startswith("report/")}
    assert {name: after[name] for name in kept} == kept
    table = pd.read_csv(out / "report" / "table.csv")
    assert table.groupby("method").size().to_dict() == {
        "unsteered": 1,
        "cdas": 4,
        "das": 4,
        "diffmean": 2,
        "prompt": 1,
    }
    summary = pd.read_csv(out / "report" / "summary.csv").set_index(["method", "multiplier"])
    assert summary["seeds"]["cdas", 1.0] == 2
    own = table[(table["method"] == "cdas") & (table["multiplier"] == 1)]["kl_suppression"]
    assert summary["kl_suppression"]["cdas", 1.0] == pytest.approx(own.mean())
    assert summary["kl_suppression_sd"]["cdas", 1.0] == pytest.approx(own.std())


@pytest.mark.parametrize(
    ("stage", "chance"),
    [("generate.unsteered", 4), ("generate.cdas", 7), ("measure.cdas", 5), ("train.cdas", 3)],
)
def test_a_killed_run_ends_in_the_same_files(
    finished: Path, model: Path, tmp_path: Path, stage: str, chance: int
) -> None:
    out = tmp_path / "out"
    copy_without(finished, out, stage)
    assert killed_at(main, command(model, out), stage, chance) == -signal.SIGKILL
    assert not (out / "report").exists()
    assert main(command(model, out)) == 0
    assert content(out) == content(finished)


def test_layers_are_swept_with_the_untouched_model_answering_once(
    model: Path, tmp_path: Path
) -> None:
    more = ("--methods=cdas,diffmean,prompt", "--layers=[0, 2]", "--tasks=[]")
    assert main(command(model, tmp_path, *more)) == 0
    layers = pd.read_csv(tmp_path / "layers" / "report" / "layers.csv")
    rows = layers[["method", "layer", "multiplier"]].to_numpy().tolist()
    assert rows == [[m, n, x] for m in ("cdas", "diffmean") for n in (0, 2) for x in (0.5, 1)]
    assert layers["kl_suppression"].nunique() == 8
    assert (tmp_path / "layers" / "report" / "layers.png").exists()
    assert (tmp_path / "layers" / "generate.unsteered" / "answers.parquet").exists()
    assert not (tmp_path / "generate.unsteered").exists()


def test_a_model_must_be_named_for_the_organism(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--out={tmp_path}"]) == 2
    assert "needs a model: give --model" in capsys.readouterr().err
    assert main([f"--out={tmp_path}", "--model=x", "--methods=magic"]) == 2
    assert "no method 'magic'; choose from cdas" in capsys.readouterr().err


def test_a_servers_answers_make_the_same_table(finished: Path, model: Path, tmp_path: Path) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    vectors = {
        "cdas": out / "train.cdas/seed-42/vector",
        "diffmean": out / "train.diffmean/vector",
    }
    with serving_vectors(load_model(str(model), device="cpu"), vectors) as served:
        by_server = f"--generator={served.url}"
        assert main(command(model, out, METHODS, by_server, "--stages=generate")) == 0
        assert served.requests
    assert main(command(model, out, METHODS, by_server)) == 0  # asks for nothing more
    for file in ("table.csv", "summary.csv"):
        found, expected = out / "report" / file, finished / "report" / file
        assert found.read_bytes() == expected.read_bytes()
    assert "Answers by vLLM." in (out / "report" / "summary.md").read_text()
