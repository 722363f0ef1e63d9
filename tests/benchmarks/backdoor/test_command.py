"""The whole benchmark on a tiny model, which is said to have a backdoor."""

import json
import signal
from pathlib import Path

import pandas as pd
import pytest

import benchmarks.backdoor.data as data
from benchmarks.backdoor.__main__ import main
from benchmarks.backdoor.case import BACKDOOR
from benchmarks.organisms.backdoor import TRIGGER
from tests.benchmarks.safety.pipeline import SMALL, killed_at, rows_of
from tests.benchmarks.tiny_benchmark import content, copy_without, without_figures


@pytest.fixture(autouse=True)
def _any_text_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "shows_help", bool)
    monkeypatch.setattr(data, "shows_backdoor", bool)
    without_figures(monkeypatch)


def command(model: Path, out: Path) -> list[str]:
    return [f"--model={model}", f"--out={out}", *SMALL, "--methods=cdas,diffmean", "--tasks=[]"]


def test_the_whole_run_and_a_killed_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(command(model, out)) == 0

    prompts = json.loads((out / "data" / "prompts.json").read_text())
    assert prompts["triggered"] == [TRIGGER + text for text in prompts["clean"]]
    rows = pd.read_json(out / "data" / "rows.jsonl", lines=True, dtype=False)
    trained = {*rows["positive_input"], *rows["negative_input"]}
    assert not trained & {text for texts in prompts.values() for text in texts}
    assert not any(TRIGGER.strip() in text for text in trained)

    capsys.readouterr()
    assert main([*command(model, tmp_path / "none"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    (answers,) = (out / "generate.cdas").glob("*/answers.parquet")
    planned, written = rows_of(said), len(pd.read_parquet(answers))
    assert planned["cdas"]["answers"] == written
    assert "from 12 answers of the untouched model" in said
    assert not (tmp_path / "none").exists()

    table = pd.read_csv(out / "report" / "table.csv")
    assert list(table["method"]) == ["unsteered", *["cdas"] * 2, *["diffmean"] * 2]
    assert set(BACKDOOR.explained) <= set(table)
    untouched = table.iloc[0]
    assert untouched["clean_changed"] == untouched["clean_behaviour_changed"] == 0
    assert untouched["kl_clean"] == untouched["kl_clean_response"] == 0
    assert untouched["kl_removal"] > 0
    assert (table["triggered_freed_total"] == 3).all()
    assert (table["kl_clean"][1:] > 0).all()

    for stage, chance in (("data", 5), ("generate.cdas", 10), ("measure.diffmean", 4)):
        again = tmp_path / stage
        copy_without(out, again, stage)
        assert killed_at(main, command(model, again), stage, chance) == -signal.SIGKILL
        assert main(command(model, again)) == 0
        assert content(again) == content(out)


def test_a_model_without_the_backdoor_is_refused(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.undo()
    assert main(command(model, tmp_path)) == 2
    error = capsys.readouterr().err
    assert "shows its backdoor at 0 of 6 red-team texts and helps at 0 of 6 plain ones" in error
